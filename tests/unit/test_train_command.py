"""`retrieval-lab train`: every family from a file to a saved model, by the same command."""

import importlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import Dataset

from retrieval_lab import cli, formats, llm, setting_names, train_command
from retrieval_lab.training_config import Config

CONFIGS = Path(train_command.__file__).parents[1] / "configs"
TRIPLETS = [{"query": w, "pos": [w[::-1]], "neg": [w + " no", w + " never"]} for w in ("tram", "ferry", "pool", "park")]
GRADED = [{"query": w, "pos": [w[::-1], w + " no"], "pos_scores": [2, 0]} for w in ("tram", "ferry", "pool", "park")]


@pytest.fixture(autouse=True)
def own_log(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRIEVAL_LAB_RUNS", str(tmp_path / "log"))


def write(folder, lines):
    file = folder / "train.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


def saved(folder):
    """A tiny model of each starting point, as a folder."""
    from retrieval_lab import tiny

    tiny.encoder().save_pretrained(str(folder / "encoder"))
    tiny.chat_folder("llama", folder / "decoder")


FAMILIES = {
    "embedding": ("encoder", TRIPLETS, ["--neg_nums", "1", "--query_max_len", "8", "--passage_max_len", "12"]),
    "colbert": ("encoder", TRIPLETS, []),
    "reranker": ("encoder", TRIPLETS, ["--loss_type", "listwise"]),
    "bert_encoder": ("encoder", GRADED, ["--loss_type", "point_ce", "--max_label", "2"]),
    "llm": ("decoder", TRIPLETS, ["--use_lora", "true", "--lora_r", "2"]),
    "llm_decoder": (
        "decoder",
        TRIPLETS,
        ["--query_format", "query: {}", "--document_format", "document: {}", "--seq", " "],
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_trains_from_the_command_line(tmp_path, capsys, name):
    start, lines, more = FAMILIES[name]
    saved(tmp_path)
    file = tmp_path / "config.yaml"
    settings = {
        "model_type": name,
        "model_name_or_path": str(tmp_path / start),
        "batch_size": 2,
        "lr": "1e-3",
        "epoch": 9,
    }
    file.write_text(
        yaml.safe_dump(settings | {"train_dataset": write(tmp_path, lines), "output_dir": str(tmp_path / "run")})
    )
    assert (
        cli.main(["train", "--config", str(file), "--epoch", "1", "--val_dataset", write(tmp_path, lines), *more]) == 0
    )
    assert f"saved: {tmp_path}/run/model" in capsys.readouterr().out
    card = json.loads((tmp_path / "run" / "model" / "lab_card.json").read_text())
    assert card["config"]["num_train_epochs"] == 1 and card["metric"].endswith("ndcg@10") and card["after"] is not None
    assert cli.main(["runs"]) == 0
    assert "ndcg@10" in capsys.readouterr().out


def test_skip_bad_on_the_command_line_reads_the_rest_and_says_how_many_it_left(tmp_path):
    file = write(tmp_path, [*TRIPLETS, {"query": ""}])
    given = {"train_dataset": file, "neg_nums": 1}
    with pytest.raises(formats.DataError, match=f"line {len(TRIPLETS) + 1}"):
        train_command.read(Config(**given))
    with pytest.warns(formats.DataWarning, match="1"):
        data = train_command.read(Config(**given, **train_command.overrides(["--skip-bad"])))
    assert len(data) == len(train_command.read(Config(**given | {"train_dataset": write(tmp_path, TRIPLETS)})))


@pytest.mark.parametrize("name", ["llm", "llm_decoder"])
def test_decoder_reads_as_many_tokens_as_configured(tmp_path, name):
    saved(tmp_path)
    config = Config(model_type=name, model_name_or_path=str(tmp_path / "decoder"), max_len=600)
    assert train_command.FAMILIES[name].load(config).max_seq_length == 600


def test_lengths_of_queries_and_documents_are_kept_apart_and_saved(tmp_path):
    from sentence_transformers import SentenceTransformer

    saved(tmp_path)
    config = Config(
        model_name_or_path=str(tmp_path / "encoder"),
        train_dataset=write(tmp_path, TRIPLETS),
        epoch=1,
        batch_size=4,
        query_max_len=4,
        passage_max_len=6,
        output_dir=str(tmp_path / "run"),
    )
    train_command.run(config)
    model = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    cut = [model.preprocess(["abcdefghij"], task=task)["input_ids"].shape[1] for task in ("query", "document")]
    assert cut == [4, 6]


def test_prompts_are_saved_with_the_model(tmp_path):
    from sentence_transformers import SentenceTransformer

    saved(tmp_path)
    config = Config(
        model_name_or_path=str(tmp_path / "encoder"),
        train_dataset=write(tmp_path, TRIPLETS),
        epoch=1,
        batch_size=4,
        query_instruction="Q: {}",
        document_instruction="D: ",
        output_dir=str(tmp_path / "run"),
    )
    train_command.run(config)
    assert SentenceTransformer(str(tmp_path / "run" / "model")).prompts == {"query": "Q: ", "document": "D: "}


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_configuration_trains_on_lines_of_its_own_file(tmp_path, file):
    saved(tmp_path)
    shipped = CONFIGS.parent / Config.read(file).train_dataset
    few = tmp_path / shipped.name
    few.write_text("\n".join(shipped.read_text(encoding="utf-8").splitlines()[:6]), encoding="utf-8")
    start = tmp_path / ("decoder" if "llm" in file.stem else "encoder")
    given = {
        "model_name_or_path": start,
        "train_dataset": few,
        "output_dir": tmp_path / "run",
        "max_steps": 2,
        "max_len": 96,
    }
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    assert cli.main(["train", "--config", str(file), *words]) == 0
    card = json.loads((tmp_path / "run" / "model" / "lab_card.json").read_text())
    assert card["steps"] == 2 and math.isfinite(card["train_loss"])


def refused(capsys, *words):
    assert cli.main(["train", *words]) == 2
    return capsys.readouterr().err


def test_unknown_family_is_refused(capsys):
    assert "model_type='bm25' is not known; use one of embedding" in refused(capsys, "--model_type", "bm25")


@pytest.mark.parametrize("family", ["reranker", "bert_encoder", "colbert", "embedding", "llm"])
@pytest.mark.parametrize(
    "setting", [("pooling", "cls"), ("query_format", "q: {}"), ("neg_nums", 3), ("use_lora", True)]
)
def test_setting_that_the_family_does_not_read_is_refused(lang, family, setting):
    name, value = setting
    files = {"model_name_or_path": "x", "train_dataset": "nowhere.jsonl"}
    config = Config(model_type=family, **files, **{name: value})
    known = train_command.OTHER_NAMES.get(family, family)
    if known in setting_names.READ_BY[name]:
        with pytest.raises(formats.DataError, match="nowhere.jsonl"):  # the next thing that is missing
            train_command.run(config)
        return
    words = {"en": f"{name}={value!r} would do nothing: model_type {known}", "zh": f"{name}={value!r} 不会起作用"}
    with pytest.raises(ValueError, match=re.escape(words[lang])):
        train_command.run(config)


def test_missing_model_or_data_is_named(capsys):
    assert "model_name_or_path is not set" in refused(capsys)
    assert "train_dataset is not set" in refused(capsys, "--model_name_or_path", "minilm")


def test_unknown_setting_is_refused(capsys):
    assert "epoc is no setting; the nearest is epoch" in refused(capsys, "--epoc", "1")


def test_file_of_another_kind_is_refused(capsys, tmp_path):
    graded = write(tmp_path, [{"query": "a"}])
    words = ["--model_type", "reranker", "--model_name_or_path", "x", "--train_dataset", graded]
    assert "has lines of the format 'query'; model_type reranker reads graded" in refused(capsys, *words)


def test_unknown_words_of_other_commands_are_still_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["runs", "--lr", "1"])
    assert stopped.value.code == 2 and "unrecognized arguments: --lr 1" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["embedding", "colbert", "reranker", "llm", "llm_decoder"])
def test_training_from_python_refuses_what_the_family_does_not_read(tmp_path, lang, family):
    saved(tmp_path)
    kind = train_command.FAMILIES[family]
    start = tmp_path / ("decoder" if family.startswith("llm") else "encoder")
    model = kind.load(Config(model_name_or_path=str(start)))
    data = Dataset.from_dict({"query": ["a", "b"], "positive": ["c", "d"], "negative_1": ["e", "f"]})
    values = {"use_lora": True, "mrl_dims": [8], "use_inbatch_neg": False, "teacher_temperature": 0.5, "num_labels": 2}
    ignored = {name: value for name, value in values.items() if family not in setting_names.READ_BY[name]}
    assert ignored
    for name, value in ignored.items():
        words = {"en": f"{name}={value!r} would do nothing: model_type {family} ", "zh": f"{name}={value!r} 不会起作用"}
        train = importlib.import_module(f"retrieval_lab.{kind.module}").train
        with pytest.raises(ValueError, match=re.escape(words[lang])):
            train(model, data, Config(output_dir=str(tmp_path / "run"), **{name: value}))


SET = {
    "pooling": ("mean", "embedding"),
    "query_prompt": ("Query: ", "embedding"),
    "document_prompt": ("Passage: ", "colbert"),
    "query_max_len": (32, "colbert"),
    "passage_max_len": (180, "embedding"),
    "neg_nums": (3, "colbert"),
    "skip_bad": (True, "reranker"),
    "special_token": ("</s>", "llm_decoder"),
    "num_labels": (2, "llm_decoder"),
}


@pytest.mark.parametrize("name", SET)
def test_setting_of_files_is_refused_where_objects_are_handed_over(lang, name):
    value, family = SET[name]
    words = {"en": f"{name}={value!r} would do nothing: only `retrieval-lab train` reads it", "zh": "不会起作用：只有"}
    with pytest.raises(ValueError, match=re.escape(words[lang])) as refused:
        Config(**{name: value}).refuse_unread(family)
    instead = setting_names.OF_A_FILE[name].format(repr(value))
    assert str(refused.value).endswith(instead)
    compile(instead, name, "exec")  # a line that can be typed
    Config(**{name: value}, train_dataset="train.jsonl").refuse_unread(family)


def test_what_to_write_instead_works(tmp_path):
    from retrieval_lab import embedding, llm_scalar

    saved(tmp_path)
    names = {"embedding": embedding, "llm_scalar": llm_scalar, "formats": formats, "name": str(tmp_path / "encoder")}
    names |= {"model": embedding.load(tmp_path / "encoder"), "file": write(tmp_path, TRIPLETS), "kind": "triplet"}
    for name in ("query_prompt", "query_max_len", "passage_max_len", "neg_nums", "skip_bad"):
        exec(setting_names.OF_A_FILE[name].format(repr(SET[name][0])), names)
    model = names["model"]
    assert model.prompts["query"] == "Query: " and model[0].query_length == 32
    exec(setting_names.OF_A_FILE["num_labels"].format(2), names | {"name": str(tmp_path / "decoder")})


def test_scalar_head_trained_by_adapters_is_saved_whole(tmp_path):
    from sentence_transformers import CrossEncoder

    saved(tmp_path)
    given = {"model_type": "llm_decoder", "model_name_or_path": str(tmp_path / "decoder"), "special_token": "</s>"}
    given |= {"train_dataset": write(tmp_path, TRIPLETS), "val_dataset": write(tmp_path, TRIPLETS)}
    given |= {"use_lora": True, "lora_r": 2, "epoch": 2, "lr": 1e-2, "output_dir": str(tmp_path / "run")}
    model = train_command.run(Config(**given))
    pairs = [("tram", "mart"), ("ferry", "a longer text than the other")]
    plain = CrossEncoder(str(tmp_path / "run" / "model"), device="cpu")
    np.testing.assert_allclose(plain.predict(pairs), llm.score(model, pairs), atol=1e-5)


@pytest.mark.parametrize(("dims", "width"), [([8, 48], 48), ([8, 32], 32)])
def test_dims_beyond_the_model_get_a_layer_that_is_saved(tmp_path, capsys, lang, dims, width):
    """RAG-Retrieval's use_mrl: a linear layer as wide as the largest of mrl_dims; within the model's 32 dims none is added."""
    from sentence_transformers import SentenceTransformer

    saved(tmp_path)
    given = {"model_name_or_path": str(tmp_path / "encoder"), "train_dataset": write(tmp_path, TRIPLETS), "epoch": 1}
    train_command.run(Config(**given, use_mrl=True, mrl_dims=dims, batch_size=4, output_dir=str(tmp_path / "run")))
    model = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    assert model.get_embedding_dimension() == width == len(model.encode("tram"))
    line = {"en": "mrl_dims go to 48, the model gives 32: added a linear layer", "zh": "加了一个线性层 32 -> 48"}[lang]
    assert (line in capsys.readouterr().out) == (width == 48)
