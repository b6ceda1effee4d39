"""The lexical head against a loop over tokens, alone and saved; search by shared tokens against the sum written out."""

import sys

import numpy as np
import pytest
import torch
from sentence_transformers import SparseEncoder
from transformers import AutoModel, AutoTokenizer

from retrieval_lab import colbert, embedding, experiment, search, sparse, tiny
from retrieval_lab.corpora import Collection

TEXTS = ["tram", "a b, c a a.", "在这中国", "the tram runs every ten minutes. " * 3, "{x} %s", " ", "ferry to the pier"]
DOCS = {"tram": "the tram leaves at ten", "ferry": "the ferry", "zh": "在这中国", "copy": "the ferry"}


@pytest.fixture
def m3(tmp_path):
    return tiny.m3_folder(tmp_path / "m3")


@pytest.fixture
def model(m3):
    return sparse.load(m3, device="cpu")


def by_loop(folder, text) -> dict[int, float]:
    """Of each id of the text that is no special token the largest weight above 0: the paper's definition."""
    saved = torch.load(folder / "sparse_linear.pt", weights_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state[0]
    found: dict[int, float] = {}
    for token, state in zip(tokens["input_ids"][0].tolist(), states, strict=True):
        weight = float(state @ saved["weight"][0] + saved["bias"][0])
        if weight > 0 and token not in tokenizer.all_special_ids:
            found[token] = max(weight, found.get(token, 0.0))
    return found


def score_by_loop(folder, query, doc) -> float:
    asked, told = by_loop(folder, query), by_loop(folder, doc)
    return sum(weight * told[token] for token, weight in asked.items() if token in told)


def as_dict(row) -> dict[int, float]:
    row = row.to_dense()
    return {i: row[i].item() for i in row.nonzero().flatten().tolist()}


def city() -> Collection:
    queries, qrels = {"q": "a tram", "zh": "中国"}, {"q": {"tram": 1}, "zh": {"zh": 1}}
    return Collection("city", "en", "test", "none", DOCS, queries, qrels)


@pytest.mark.parametrize("kind", ["query", "document"])
def test_weights_equal_a_loop_over_the_tokens(model, m3, kind):
    call = {"query": model.encode_query, "document": model.encode_document}[kind]
    for text, row in zip(TEXTS, call(TEXTS), strict=True):
        assert as_dict(row) == pytest.approx(by_loop(m3, text), abs=1e-5)


def test_both_layouts_of_the_folder_give_the_same_weights(model, m3, tmp_path):
    tiny.encoder("xlm-roberta", "cls").save_pretrained(str(tmp_path / "with pooling"))
    (tmp_path / "with pooling" / "sparse_linear.pt").write_bytes((m3 / "sparse_linear.pt").read_bytes())
    other = sparse.load(tmp_path / "with pooling", device="cpu")
    np.testing.assert_allclose(*(m.encode_document(TEXTS).to_dense() for m in (model, other)), atol=1e-6)


def test_special_tokens_count_nothing_whatever_the_layer_says(m3):
    layer = torch.nn.Linear(32, 1)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.constant_(layer.bias, 0.5)  # every token weighs 0.5
    torch.save(layer.state_dict(), m3 / "sparse_linear.pt")
    model = sparse.load(m3, device="cpu")
    assert dict(model.decode(model.encode_document("[MASK]baa[PAD]"))) == {"b": 0.5, "a": 0.5}


@pytest.mark.parametrize("side", ["left", "right"])
def test_weights_do_not_depend_on_padding_or_batch_mates(model, side):
    alone = torch.stack([model.encode_document(text).to_dense() for text in TEXTS])
    model.tokenizer.padding_side = side
    together = model.encode_document(TEXTS, batch_size=len(TEXTS), convert_to_sparse_tensor=False)
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("budget", [1, 512])
def test_encode_equals_the_librarys_encode_of_each_text_alone(model, budget):
    for kind, call in (("query", model.encode_query), ("document", model.encode_document)):
        found = sparse.encode(model, TEXTS, kind, budget)
        assert found.shape == (len(TEXTS), len(model.tokenizer)) and found.dtype == np.float32
        np.testing.assert_allclose(found.toarray(), [call(text).to_dense().numpy() for text in TEXTS], atol=1e-5)


def test_similarity_is_the_sum_over_shared_tokens(model, m3):
    found = model.similarity(model.encode_query(TEXTS[:3]), model.encode_document(TEXTS))
    expected = [[score_by_loop(m3, query, doc) for doc in TEXTS] for query in TEXTS[:3]]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_saved_folder_is_read_by_plain_sentence_transformers_without_this_package(model, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    expected = model.encode_document(TEXTS).to_dense()
    sparse.save(model, tmp_path / "once")
    with monkeypatch.context() as without:
        for name in [name for name in sys.modules if name.split(".")[0] == "retrieval_lab"]:
            without.delitem(sys.modules, name)
        without.setitem(sys.modules, "retrieval_lab", None)  # an import of it would fail
        again = SparseEncoder(str(tmp_path / "once"), trust_remote_code=True, device="cpu")
        np.testing.assert_allclose(again.encode_document(TEXTS).to_dense(), expected, atol=1e-6)
    sparse.save(again, tmp_path / "twice")
    twice = sparse.load(tmp_path / "twice", trust_remote_code=True, device="cpu")
    np.testing.assert_allclose(twice.encode_document(TEXTS).to_dense(), expected, atol=1e-6)


def test_save_pretrained_does_where_this_package_is_installed(model, tmp_path):
    model.save_pretrained(str(tmp_path / "saved"))
    again = sparse.load(tmp_path / "saved", trust_remote_code=True, device="cpu")
    assert isinstance(again[1], sparse.LexicalWeights) and again.similarity_fn_name == "dot"
    np.testing.assert_allclose(*(m.encode_document(TEXTS).to_dense() for m in (model, again)), atol=1e-6)


def test_code_beside_the_weights_is_not_run_unasked(model, tmp_path):
    sparse.save(model, tmp_path / "saved")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        sparse.load(tmp_path / "saved")


def test_folder_without_the_layer_is_refused(tmp_path, lang):
    words = {"en": "has no sparse_linear.pt, .* use bge-m3", "zh": "没有 sparse_linear.pt，.*换成 bge-m3"}
    with pytest.raises(ValueError, match=words[lang]):
        sparse.load(tiny.folder("xlm-roberta", tmp_path))


@pytest.mark.parametrize("shape", [(1, 16), (2, 32)])
def test_layer_of_another_shape_is_refused(m3, lang, shape):
    torch.save(torch.nn.Linear(shape[1], shape[0]).state_dict(), m3 / "sparse_linear.pt")
    found, needed = (str(s).replace("(", r"\(").replace(")", r"\)") for s in (shape, (1, 32)))
    words = {
        "en": f"shape {found}, the encoder beside it needs {needed}",
        "zh": f"形状是 {found}，旁边的编码器需要 {needed}",
    }
    with pytest.raises(ValueError, match=words[lang]):
        sparse.load(m3)


def test_search_equals_a_double_loop_and_leaves_out_what_shares_no_token(model, m3):
    run = search.Sparse(model, city()).search(city().queries, 10)
    for query_id, query in city().queries.items():
        expected = {doc_id: score_by_loop(m3, query, doc) for doc_id, doc in DOCS.items()}
        assert run[query_id] == pytest.approx({d: s for d, s in expected.items() if s > 0}, abs=1e-5)
        assert list(run[query_id].values()) == sorted(run[query_id].values(), reverse=True)
    assert "tram" not in run["zh"]


def test_search_returns_k_and_equal_scores_in_the_documents_order(model):
    found = search.Sparse(model, city()).search({"q": "the ferry"}, 2)["q"]
    assert list(found) == ["ferry", "copy"] and len(set(found.values())) == 1


def test_no_queries_give_no_run(model):
    assert search.Sparse(model, city()).search({}, 3) == {}


def test_three_heads_of_one_folder_are_compared_and_fused(model, m3):
    dense = search.Dense(embedding.load(m3, "cls"), city())
    late = search.LateInteraction(colbert.load(m3), city())
    heads = [dense, search.Sparse(model, city()), late]
    table = experiment.compare([*heads, search.Fused(heads)], city(), baseline="dense")
    assert list(table.index) == ["dense", "sparse", "late interaction", "dense + sparse + late interaction"]
