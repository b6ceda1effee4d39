"""The decoder reranker with a head: formats, and the token it is read at, for every kind of padding and end token."""

import itertools
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.cross_encoder.losses import ListNetLoss

from retrieval_lab import llm, llm_lora, llm_scalar, reranker_data, tiny, training
from retrieval_lab.training import Config

LONG = "the tram runs every ten minutes. " * 40
PAIRS = [("tram", "every ten minutes"), ("{x} %s", "在 {}"), ("", ""), ("pool", LONG), ("a</s>", "b<|im_end|>")]


def folder(path, architecture="llama", **options):
    return tiny.chat_folder(architecture, path, tiny.chat_tokenizer(**options))


def by_hand(model, text: str) -> np.ndarray:
    """One row, no padding: the head on the hidden state of the very last token."""
    ids = torch.tensor([model.tokenizer(text, add_special_tokens=False)["input_ids"]])
    decoder = model[0].model
    with torch.no_grad():
        states = decoder.base_model(ids).last_hidden_state
        return decoder.score(states[0, -1]).numpy()


CASES = list(itertools.product(["<|endoftext|>", "<|im_end|>", None], [False, True], [None, "</s>", "<|im_end|>", "!"]))


@pytest.mark.parametrize(("pad", "bos", "special"), CASES)
def test_head_reads_the_special_token_whatever_pads(tmp_path, pad, bos, special):
    model = llm_scalar.load(folder(tmp_path, pad=pad, bos=bos), special_token=special)
    texts = ["query: tram document: every ten minutes", "query: {x} %s document: 在 {}", "query:  document: "]
    end, start = special or "<|im_end|>", "<|im_start|>" if bos else ""
    expected = [by_hand(model, start + text + end)[0] for text in texts]
    np.testing.assert_allclose(llm.score(model, PAIRS[:3]), expected, atol=1e-5)
    for side in ("left", "right"):
        model.tokenizer.padding_side = side
        np.testing.assert_allclose(model.predict(PAIRS[:3]), expected, atol=1e-5)


@pytest.mark.parametrize("special", [None, "</s>", "<|im_end|>", "!"])
def test_special_token_is_one_token_and_not_the_padding(tmp_path, special):
    model = llm_scalar.load(folder(tmp_path, pad="<|im_end|>"), special_token=special)
    ids = llm.prompt_ids(model, PAIRS)
    end = model.tokenizer.convert_tokens_to_ids(special or "<|im_end|>")
    assert {row[-1] for row in ids} == {end}
    assert [row.count(end) for row in ids] == [1] * len(PAIRS)  # also where a text holds it
    assert end != model.tokenizer.pad_token_id == model[0].model.config.pad_token_id


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma"])
@pytest.mark.parametrize("budget", [1, 200, 10**6])
def test_score_equals_the_librarys_predict(tmp_path, architecture, budget):
    model = llm_scalar.load(folder(tmp_path, architecture), max_seq_length=128)
    np.testing.assert_allclose(llm.score(model, PAIRS, budget), model.predict(PAIRS, batch_size=1), atol=1e-5)


def test_long_document_is_cut_and_the_special_token_stays(tmp_path):
    model = llm_scalar.load(folder(tmp_path), max_seq_length=64, special_token="</s>")
    text = model.tokenizer.decode(llm.prompt_ids(model, [("pool", LONG)])[0])
    assert text.startswith("query: pool document: the tram runs") and text.endswith("</s>")


def test_long_document_that_comes_first_is_cut_at_its_end(tmp_path):
    model = llm_scalar.load(folder(tmp_path), document_first=True, max_seq_length=64)
    text = model.tokenizer.decode(llm.prompt_ids(model, [("pool", LONG)])[0])
    assert text.startswith("document: the tram runs") and text.endswith(" query: pool<|im_end|>")


@pytest.mark.parametrize(("first", "text"), [(False, "Q=a  | [b]</s>"), (True, "[b] | Q=a </s>")])
def test_formats_are_used_saved_and_restored(tmp_path, first, text):
    own = {"query_format": "Q={} ", "document_format": "[{}]", "seq": " | ", "special_token": "</s>"}
    own |= {"document_first": first}
    model = llm_scalar.load(folder(tmp_path / "base"), **own)
    assert model.tokenizer.decode(llm.prompt_ids(model, [("a", "b")])[0]) == text
    model.save_pretrained(str(tmp_path / "saved"))
    plain, again = CrossEncoder(str(tmp_path / "saved"), device="cpu"), llm_scalar.load(tmp_path / "saved")
    assert llm_scalar.formats(again) == own
    expected = llm.score(model, PAIRS)
    same = [
        i for i, (_, document) in enumerate(PAIRS) if not first or document != LONG
    ]  # there the library cuts elsewhere
    np.testing.assert_allclose(plain.predict([PAIRS[i] for i in same], batch_size=3), expected[same], atol=1e-5)
    np.testing.assert_allclose(llm.score(again, PAIRS), expected, atol=1e-5)


def test_several_outputs(tmp_path):
    model = llm_scalar.load(folder(tmp_path), num_labels=3)
    assert llm.score(model, PAIRS).shape == (5, 3)
    np.testing.assert_allclose(llm.score(model, PAIRS), model.predict(PAIRS, batch_size=1), atol=1e-5)


def test_fresh_head_is_the_same_for_a_seed(tmp_path):
    path = folder(tmp_path)
    one, same, other = (llm.score(llm_scalar.load(path, seed=seed), PAIRS) for seed in (0, 0, 1))
    assert (one == same).all() and np.abs(one - other).max() > 1e-4


@pytest.mark.parametrize("field", ["query_format", "document_format"])
@pytest.mark.parametrize("text", ["query: ", "{} and {}", "{x}"])
def test_format_that_would_lose_the_text_is_refused(tmp_path, lang, field, text):
    words = {"en": f"{field}=.* must hold {{}} exactly once", "zh": f"{field}=.*必须恰好有一个"}
    with pytest.raises(ValueError, match=words[lang]):
        llm_scalar.load(folder(tmp_path), **{field: text})


def test_model_without_an_end_token_needs_a_special_token(tmp_path, lang):
    tokenizer = tiny.chat_tokenizer()
    tokenizer.eos_token = None
    path = tiny.chat_folder("llama", tmp_path, tokenizer)
    with pytest.raises(
        ValueError, match={"en": "no end-of-text token; give special_token", "zh": "没有文本结束词元"}[lang]
    ):
        llm_scalar.load(path)
    assert llm_scalar.formats(llm_scalar.load(path, special_token="</s>"))["special_token"] == "</s>"


def test_lora_trains_adapters_and_head_and_merges_to_the_same_scores(tmp_path):
    words = [f"{a}{b}" for a in "abcdefgh" for b in "pq"]
    labels = [1.0] * 16 + [0.0] * 16
    data = Dataset.from_dict({"query": words * 2, "document": words + words[::-1], "label": labels})
    model = llm_scalar.load(folder(tmp_path / "base"))
    head = model[0].model.score.weight.detach().clone()
    settings = {"per_device_train_batch_size": 8, "learning_rate": 3e-3, "use_lora": True, "lora_r": 4}
    llm.train(model, data, Config(output_dir=str(tmp_path / "run"), num_train_epochs=2, **settings))
    expected = llm.score(model, PAIRS)
    llm_lora.merge(model).save_pretrained(str(tmp_path / "saved"))
    assert (model[0].model.score.weight - head).abs().max() > 1e-3
    np.testing.assert_allclose(llm.score(model, PAIRS), expected, atol=1e-5)
    np.testing.assert_allclose(CrossEncoder(str(tmp_path / "saved"), device="cpu").predict(PAIRS), expected, atol=1e-5)


def triplets() -> Dataset:
    words = ["aa", "bb", "cc", "dd"]
    return Dataset.from_dict(
        {"query": words, "positive": [w + " open" for w in words], "negative_1": ["x", "y", "z", "w"]}
    )


def lora(tmp_path, **changes) -> Config:
    plain = {
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "num_train_epochs": 2,
        "use_lora": True,
        "lora_r": 2,
    }
    return Config(output_dir=str(tmp_path / "run"), **(plain | changes))


ADAPTED = list(itertools.product(["<|im_end|>", "<|endoftext|>", None], [None, "</s>"]))


@pytest.mark.parametrize(("pad", "special"), ADAPTED)
def test_model_trained_by_adapters_is_saved_whole_and_loads_with_the_same_scores(tmp_path, pad, special):
    model = llm_scalar.load(folder(tmp_path / "base", pad=pad), special_token=special)
    before = llm.score(model, PAIRS)
    llm.train(model, triplets(), lora(tmp_path))
    expected = llm.score(model, PAIRS)
    assert np.abs(expected - before).max() > 1e-3 and not llm_lora.has_adapter(model)
    model.save_pretrained(str(tmp_path / "saved"))
    plain, again = CrossEncoder(str(tmp_path / "saved"), device="cpu"), llm_scalar.load(tmp_path / "saved")
    for size in (1, 3):  # alone and among batch mates
        np.testing.assert_allclose(plain.predict(PAIRS, batch_size=size), expected, atol=1e-5)
    np.testing.assert_allclose(llm.score(again, PAIRS), expected, atol=1e-5)


@pytest.mark.parametrize("special", [None, "</s>"])
def test_run_of_adapters_goes_on_from_its_checkpoint(tmp_path, special):
    path = folder(tmp_path / "base", pad="<|im_end|>")
    steps = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = llm.train(llm_scalar.load(path, special_token=special), triplets(), lora(tmp_path, **steps))
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    resumed = lora(tmp_path, **steps, resume_from_checkpoint=True)
    again = llm.train(llm_scalar.load(path, special_token=special), triplets(), resumed)
    np.testing.assert_allclose(llm.score(again, PAIRS), llm.score(whole, PAIRS), atol=1e-5)


def test_best_epoch_of_adapters_is_kept(tmp_path):
    """An evaluator that likes the first epoch best: the result is that of a run of one epoch at a constant rate."""

    class First(BaseEvaluator):
        calls = 0

        def __call__(self, model, *args, **kwargs):
            self.primary_metric, self.calls = "score", self.calls + 1
            return {"score": -self.calls}

    path, settings = folder(tmp_path / "base"), {"lr_scheduler_type": "constant", "warmup_ratio": 0}
    models = []
    for n_epochs, evaluator in ((1, None), (3, First())):
        model = llm_scalar.load(path, special_token="</s>")
        torch.manual_seed(0)  # the adapters' first weights are drawn
        llm_lora.add(model, lora(tmp_path))
        config = lora(tmp_path / str(n_epochs), **settings, num_train_epochs=n_epochs)
        rows = reranker_data.rows(triplets(), "listwise", 0.1)
        models.append(training.fit(model, rows, ListNetLoss(model), config, evaluator=evaluator))
    np.testing.assert_allclose(*(llm.score(model, PAIRS) for model in models), atol=1e-5)
