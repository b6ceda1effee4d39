"""Exported graphs against the models that they were made from, read by plain onnxruntime and tokenizers."""

import json
import re
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling, MultiVectorMask
from tokenizers import Tokenizer

from retrieval_lab import cli, export, export_card, onnx_models, tiny

PROMPTS = {"query": "query: ", "document": "passage: "}
LONG = "the tram runs every ten minutes. " * 61
TEXTS = ["tram", "", "在这中国", LONG, "我是 a b，不是 c", "{x} %s {}", "ferry to the north pier"]
PAIRS = [("tram", text) for text in TEXTS] + [(LONG, LONG), ("", "")]


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    model = tiny.encoder(prompts=PROMPTS)
    return model, export.to_onnx(model, tmp_path_factory.mktemp("quantised"), int8=True)


@pytest.fixture(scope="module", params=["bert", "xlm-roberta", "modernbert"])
def embedder(request, tmp_path_factory):
    if request.param == "bert":
        return request.getfixturevalue("quantised")
    model = tiny.encoder(request.param, "lasttoken" if request.param == "modernbert" else "mean", PROMPTS)
    return model, export.to_onnx(model, tmp_path_factory.mktemp("embedder"))


@pytest.fixture(scope="module")
def multi_vector(tmp_path_factory):
    model = tiny.multi_vector_encoder()
    model[-1] = MultiVectorMask(skiplist_words=["e", "."])
    model[-1].resolve_with_tokenizer(model.tokenizer)
    return model, export.to_onnx(model, tmp_path_factory.mktemp("multi_vector"))


@pytest.fixture(scope="module", params=["bert", "pooled"])
def reranker(request, tmp_path_factory):
    model = tiny.cross_encoder(request.param)
    with torch.no_grad():  # scores that differ from each other
        for weight in model.parameters():
            weight.mul_(8 if weight.ndim == 2 else 1)
    return model, export.to_onnx(model, tmp_path_factory.mktemp("reranker"), int8=True)


def test_plain_onnxruntime_and_tokenizers_give_the_models_vectors(embedder):
    model, folder = embedder
    card = json.loads((folder / "onnx.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    encodings = tokenizer.encode_batch(["query: " + text for text in TEXTS])
    known = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    inputs = {name: np.array([getattr(e, known[name]) for e in encodings]) for name in card["inputs"]}
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    found = session.run(["sentence_embedding"], inputs)[0]
    np.testing.assert_allclose(found, model.encode_query(TEXTS, normalize_embeddings=True), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 7])
@pytest.mark.parametrize("kind", ["query", "document"])
def test_vectors_equal_the_models_in_batches_of_any_size(embedder, kind, batch_size):
    model, folder = embedder
    expected = getattr(model, f"encode_{kind}")(TEXTS, normalize_embeddings=True)
    found = getattr(onnx_models.load(folder), f"encode_{kind}")(TEXTS, batch_size=batch_size)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_fp32_graph_has_standard_operators_and_free_batch_and_length(embedder):
    graph = onnx.load(embedder[1] / "model.onnx")
    assert {entry.domain for entry in graph.opset_import} == {""}
    for tensor in graph.graph.input:
        assert all(dim.dim_param and not dim.dim_value for dim in tensor.type.tensor_type.shape.dim)


def test_exporting_leaves_the_model_as_it_was(quantised):
    model, fresh = quantised[0], tiny.encoder(prompts=PROMPTS)
    for before, after in zip(fresh[0].auto_model.parameters(), model[0].auto_model.parameters(), strict=True):
        assert (before == after).all()
    usual = fresh[0].auto_model.config._attn_implementation
    assert usual != "eager" and model[0].auto_model.config._attn_implementation == usual


def test_graph_that_differs_is_refused_and_the_earlier_one_kept(quantised, tmp_path, lang):
    model, _ = quantised
    (tmp_path / "model.onnx").write_text("earlier")
    words = {
        "en": "the graph differs from the model by .*, more than 0e.00; nothing was kept",
        "zh": "没有保留任何文件",
    }
    with pytest.raises(export.ExportError, match=words[lang]):
        export.to_onnx(model, tmp_path, tolerance=0.0)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_text() == "earlier"


def test_weights_of_an_earlier_larger_model_are_removed(quantised, tmp_path):
    for name in ("model.onnx.data", "model_int8.onnx.data", "mine.data"):
        (tmp_path / name).write_text("earlier")
    export.to_onnx(quantised[0], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "onnx.json", "tokenizer.json", "mine.data"}


def test_one_string_is_not_read_letter_by_letter(quantised, lang):
    words = {"en": "texts is one string ('tram')", "zh": "texts 是一个字符串（'tram'）"}
    with pytest.raises(ValueError, match=re.escape(words[lang])):
        onnx_models.load(quantised[1]).encode_query("tram")


@pytest.mark.parametrize("kind", ["query", "document"])
def test_shorter_vectors_and_another_prompt_are_those_of_the_model(quantised, kind):
    model, folder = quantised
    options = {"truncate_dim": 8, "prompt": "question: ", "normalize_embeddings": True, "show_progress_bar": False}
    expected, found = (getattr(m, f"encode_{kind}")(TEXTS, **options) for m in (model, onnx_models.load(folder)))
    assert found.shape == (len(TEXTS), 8) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_empty_prompt_leaves_the_models_own_out(quantised):
    model, folder = quantised
    expected, found = (
        m.encode_query(["tram"], prompt="", normalize_embeddings=True) for m in (model, onnx_models.load(folder))
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "name, value", [("normalize_embeddings", False), ("convert_to_tensor", True), ("precision", "int8"), ("dim", 8)]
)
def test_option_that_would_be_ignored_is_refused(quantised, lang, name, value):
    words = {"en": f"{name}={value!r}: an exported model gives unit vectors", "zh": f"去掉 `{name}`"}
    with pytest.raises(TypeError, match=re.escape(words[lang])):
        onnx_models.load(quantised[1]).encode_query(TEXTS, **{name: value})


def test_parity_sees_a_graph_of_other_weights(quantised):
    assert export.parity(tiny.encoder(prompts=PROMPTS, seed=1), quantised[1]) > 1e-2


def test_parity_sees_a_prompt_that_was_lost(quantised):
    assert export.parity(tiny.encoder(), quantised[1]) > 1e-3


def test_int8_file_is_smaller_and_its_vectors_are_near(quantised):
    model, folder = quantised
    sizes = [(folder / name).stat().st_size for name in ("model.onnx", "model_int8.onnx")]
    assert sizes[1] < sizes[0]
    found = onnx_models.load(folder, int8=True).encode_document(TEXTS)
    cosines = (found * model.encode_document(TEXTS, normalize_embeddings=True)).sum(1)
    assert cosines.min() > 0.99 and np.abs(cosines - 1).max() > 1e-6
    assert 0 < json.loads((folder / "onnx.json").read_text())["difference_int8"] < 0.1


def test_int8_weights_have_one_scale_an_output_channel(quantised):
    model, folder = quantised
    graph = onnx.load(folder / "model_int8.onnx").graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weight = model[0].auto_model.encoder.layer[0].intermediate.dense.weight.detach().numpy()  # (64, 32)
    by_hand = np.abs(weight).max(axis=1) / 127
    scales = [value for value in arrays.values() if value.dtype == np.float32 and value.shape == (64,)]
    assert any(np.allclose(scale, by_hand, rtol=2e-2) for scale in scales)


def test_reranker_scores_equal_predict(reranker):
    model, folder = reranker
    exported = onnx_models.load(folder)
    expected = model.predict(PAIRS, show_progress_bar=False)
    assert expected.std() > 1e-3
    for batch_size in (1, 4):
        np.testing.assert_allclose(exported.predict(PAIRS, batch_size), expected, atol=1e-5)
    logits = model.predict(PAIRS, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    np.testing.assert_allclose(exported.predict(PAIRS, raw=True), logits, atol=1e-5)


@pytest.mark.parametrize("pair", [("ab", "cd"), ["ab", "cd"], np.array(["ab", "cd"])])
def test_one_pair_gives_one_score(reranker, pair):
    model, folder = reranker
    found, expected = onnx_models.load(folder).predict(pair), model.predict(pair, show_progress_bar=False)
    assert np.ndim(found) == np.ndim(expected) == 0
    assert found == pytest.approx(expected, abs=1e-5)


def test_pairs_may_be_rows_of_an_array(reranker):
    model, folder = reranker
    rows = np.array([["ab", "cd"], ["tram", "a ferry"]])
    expected = model.predict(rows, show_progress_bar=False)
    np.testing.assert_allclose(onnx_models.load(folder).predict(rows), expected, atol=1e-5)


@pytest.mark.parametrize(
    "given, named",
    [("ab", "ab"), (["abc"], "abc"), ([("a", "b"), ("a", "b", "c")], "('a', 'b', 'c')"), ([None], "None")],
)
def test_what_is_no_pair_is_refused(reranker, lang, given, named):
    words = {"en": f"{named!r} is not a pair of texts; give a list", "zh": f"{named!r} 不是一对文本"}
    with pytest.raises(ValueError, match=re.escape(words[lang])):
        onnx_models.load(reranker[1]).predict(given)


def test_reranker_without_activation_gives_its_logits(tmp_path):
    model = tiny.cross_encoder()
    model.activation_fn = torch.nn.Identity()
    found = onnx_models.load(export.to_onnx(model, tmp_path)).predict(PAIRS)
    np.testing.assert_allclose(found, model.predict(PAIRS, show_progress_bar=False), atol=1e-5)


EXPANSIONS = {
    "none": None,
    "fixed": {"strategy": "fixed", "length": 16, "attend": False, "token": None},
    "min": {"strategy": "min", "length": 12, "attend": True, "token": None},
}


@pytest.mark.parametrize("expansion", EXPANSIONS)
def test_multi_vector_graph_equals_the_model_token_by_token(multi_vector, monkeypatch, expansion):
    model, folder = multi_vector
    monkeypatch.setattr(model[0], "query_expansion", EXPANSIONS[expansion])  # the card says so; the graph is the same
    (folder / onnx_models.CARD).write_text(json.dumps(export_card.describe(model)), encoding="utf-8")
    exported = onnx_models.load(folder)
    for kind in ("query", "document"):
        expected = getattr(model, f"encode_{kind}")(TEXTS, show_progress_bar=False)
        for batch_size in (1, 3):
            found = getattr(exported, f"encode_{kind}")(TEXTS, batch_size=batch_size)
            for ours, theirs in zip(found, expected, strict=True):
                np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_model_with_two_labels_is_refused(tmp_path, lang):
    model = CrossEncoder(str(tiny.folder("bert", tmp_path / "two")), num_labels=2, device="cpu")
    words = {"en": "CrossEncoder of this kind can be neither exported nor served", "zh": "这种 CrossEncoder 不能导出"}
    with pytest.raises(ValueError, match=words[lang]):
        export.to_onnx(model, tmp_path / "out")


def test_pooling_that_leaves_the_prompt_out_is_refused(tmp_path):
    model = tiny.encoder(prompts=PROMPTS)
    model[1].include_prompt = False
    with pytest.raises(ValueError, match="use an encoder that pools over its prompt"):
        export.to_onnx(model, tmp_path)


def test_token_pooling_is_refused(tmp_path, lang):
    model = tiny.multi_vector_encoder()
    model.append(HierarchicalTokenPooling(pool_factor=2))
    words = {"en": "token pooling clusters in Python", "zh": "词元池化是用 Python 聚类"}
    with pytest.raises(ValueError, match=words[lang]):
        export.to_onnx(model, tmp_path)


def test_folder_that_was_not_exported_is_refused(tmp_path, lang):
    words = {"en": "holds no onnx.json; write it with `retrieval-lab export", "zh": "里没有 onnx.json；用"}
    with pytest.raises(ValueError, match=words[lang]):
        onnx_models.load(tmp_path)


def test_graph_that_was_not_written_is_refused(multi_vector, lang):
    words = {"en": "holds no model_int8.onnx; export again, with `--int8`", "zh": "重新导出，要量化的图就加上 `--int8`"}
    with pytest.raises(ValueError, match=words[lang]):
        onnx_models.load(multi_vector[1], int8=True)


def test_tokenizer_for_counting_is_read_once(quantised):
    graph = onnx_models.load(quantised[1])
    assert graph.tokenizer is graph.tokenizer  # tokens are counted at every search; reading a vocabulary takes longer
    assert graph.tokenizer("tram")["input_ids"] == quantised[0].tokenizer("tram")["input_ids"]


@pytest.mark.parametrize("given, expected", [("2", 2), ("2,1", 2), ("", 0), (None, 0)])
def test_threads_are_those_that_torch_takes(quantised, monkeypatch, given, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    session = onnx_models.load(quantised[1]).session
    assert session.get_session_options().intra_op_num_threads == expected  # 0: every core


def test_names_load_as_the_class_they_were_saved_from(tmp_path):
    for model in (tiny.encoder(), tiny.cross_encoder(), tiny.multi_vector_encoder()):
        folder = tmp_path / type(model).__name__
        model.save_pretrained(str(folder))
        assert type(export_card.load(folder)) is type(model)


def test_plain_sequence_classifier_loads_as_a_cross_encoder(tmp_path):
    tiny.cross_encoder().model.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    assert isinstance(export_card.load(tmp_path), CrossEncoder)


def test_command_exports_and_names_the_files(tmp_path, capsys):
    tiny.encoder(prompts=PROMPTS).save_pretrained(str(tmp_path / "model"))
    out = tmp_path / "out"
    command = [
        "export",
        str(tmp_path / "model"),
        "--int8",
        "--output-dir",
        str(out),
        "--triton",
        str(tmp_path / "triton"),
    ]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert f"{out / 'model.onnx'}" in printed and f"{out / 'model_int8.onnx'}" in printed
    assert onnx_models.load(out, int8=True).prompts == PROMPTS
    assert (tmp_path / "triton" / "retriever" / "config.pbtxt").is_file()


def test_reading_an_exported_model_needs_no_torch():
    code = "import sys, retrieval_lab.onnx_models, retrieval_lab.serving; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
