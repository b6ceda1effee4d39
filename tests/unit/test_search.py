"""Exact search against a double loop; fusion by hand; saved indexes that refuse what they were not made of."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Router
from tokenizers import normalizers

from retrieval_lab import embedding, llm_lora, search, tiny
from retrieval_lab.training import Config


def cosine(a, b) -> float:
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a)) / math.sqrt(sum(float(y) ** 2 for y in b))


@pytest.mark.parametrize("seed, k", [(0, 1), (1, 5), (2, 40), (3, 99)])
def test_top_k_equals_a_double_loop(seed, k):
    rng = np.random.default_rng(seed)
    queries, docs = rng.normal(size=(6, 8)), rng.normal(size=(40, 8)) * rng.uniform(0.1, 9, (40, 1))  # of any length
    indices, cosines = search.top_k(queries, docs, k)
    assert indices.shape == cosines.shape == (6, min(k, 40))
    for query, found, values in zip(queries, indices, cosines, strict=True):
        scores = [cosine(query, doc) for doc in docs]
        expected = sorted(range(40), key=lambda i: -scores[i])[:k]
        assert found.tolist() == expected
        np.testing.assert_allclose(values, [scores[i] for i in expected], atol=1e-12)


def test_long_vectors_do_not_win():
    indices, cosines = search.top_k(np.array([[1.0, 0.0]]), np.array([[100.0, 100.0], [0.01, 0.0]]), 2)
    assert indices.tolist() == [[1, 0]]
    assert cosines[0] == pytest.approx([1, math.sqrt(0.5)])


def test_equal_scores_keep_the_order_of_the_documents():
    docs = np.array([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0], [1.0, 0.0], [4.0, 0.0]])
    assert search.top_k(np.array([[1.0, 0.0]]), docs, 5)[0].tolist() == [[1, 3, 4, 0, 2]]


@pytest.mark.parametrize("bad, length", [([0.0, 0.0], "0.0"), ([np.nan, 1.0], "nan"), ([np.inf, 1.0], "inf")])
def test_vector_without_direction_is_refused_with_its_place(bad, length):
    good = np.array([[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match=f"document 1 has a vector of length {length}"):
        search.top_k(good, np.array([[1.0, 0.0], bad]), 1)
    with pytest.raises(ValueError, match=f"query 0 has a vector of length {length}"):
        search.top_k(np.array([bad]), good, 1)


def test_vectors_of_two_models_are_refused():
    with pytest.raises(ValueError, match="queries have 2 dims, docs 3; encode both with the same model"):
        search.top_k(np.ones((1, 2)), np.ones((1, 3)), 1)


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(k):
    with pytest.raises(ValueError, match=f"k={k}; use 1 or more"):
        search.top_k(np.ones((1, 2)), np.ones((1, 2)), k)


def test_fusion_of_ranks_one_and_three():
    fused = search.reciprocal_rank_fusion([{"q": {"a": 9.0}}, {"q": {"b": 3.0, "c": 2.0, "a": 1.0}}])
    assert fused["q"] == pytest.approx({"a": 0.0322665, "b": 1 / 61, "c": 1 / 62}, abs=1e-7)


def test_fusion_goes_by_rank_and_not_by_order_of_insertion():
    assert search.reciprocal_rank_fusion([{"q": {"low": 0.1, "high": 0.9}}])["q"] == {"high": 1 / 61, "low": 1 / 62}


def test_fusion_keeps_queries_that_only_one_run_has():
    assert search.reciprocal_rank_fusion([{"q1": {"a": 1.0}}, {"q2": {"b": 1.0}}], k=0) == {
        "q1": {"a": 1.0},
        "q2": {"b": 1.0},
    }


class Fixed:
    """A system that returns the same documents for every query and notes how many it was asked for."""

    def __init__(self, name, docs):
        self.name, self.docs, self.asked = name, docs, []

    def search(self, queries, k):
        self.asked.append(k)
        return {query: dict(list(self.docs.items())[:k]) for query in queries}


def test_fused_system_returns_the_best_k_best_first():
    one, two = Fixed("one", {"a": 3.0, "b": 2.0, "c": 1.0}), Fixed("two", {"b": 9.0, "d": 8.0})
    fused = search.Fused([one, two], depth=50)
    found = fused.search({"q": "text"}, 2)["q"]
    assert fused.name == "one + two" and one.asked == two.asked == [50]
    assert list(found) == ["b", "a"]  # 1/62 + 1/61 against 1/61
    assert found == pytest.approx({"b": 1 / 62 + 1 / 61, "a": 1 / 61})


def test_fused_system_looks_as_deep_as_it_is_asked():
    one = Fixed("one", {"a": 1.0})
    search.Fused([one], name="alone", depth=10).search({"q": "text"}, 30)
    assert one.asked == [30]


PROMPTS = {"query": "query: ", "document": "passage: "}


@pytest.fixture(scope="module")
def model():
    return tiny.encoder(prompts=PROMPTS)


def test_dense_run_holds_the_cosines_of_the_librarys_own_vectors(model, harbour):
    run = search.Dense(model, harbour).search(harbour.queries, 3)
    docs = model.encode_document(list(harbour.corpus.values()))
    for query_id, text in harbour.queries.items():
        scores = dict(zip(harbour.corpus, docs @ model.encode_query(text), strict=True))
        best = sorted(scores, key=lambda doc_id: -scores[doc_id])[:3]
        assert list(run[query_id]) == best
        assert run[query_id] == pytest.approx({doc_id: scores[doc_id] for doc_id in best}, abs=1e-5)


def test_dense_without_queries_is_an_empty_run(model, harbour):
    assert search.Dense(model, harbour).search({}, 3) == {}


def test_saved_index_is_read_back(model, harbour, tmp_path, monkeypatch):
    index = search.Dense(model, harbour, "harbour index")
    index.save(tmp_path / "new" / "index")
    monkeypatch.setattr(embedding, "encode", None)  # nothing is encoded when an index is read
    again = search.Dense.load(tmp_path / "new" / "index", model, harbour)
    assert again.name == "harbour index" and again.doc_ids == index.doc_ids
    np.testing.assert_array_equal(again.vectors, index.vectors)


def lowercased():
    changed = tiny.encoder(prompts=PROMPTS)
    changed.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return changed


def shortened():
    changed = tiny.encoder(prompts=PROMPTS)
    changed.max_seq_length = 64
    return changed


OTHERS = {
    "weights": lambda: tiny.encoder(prompts=PROMPTS, seed=1),
    "prompts": lambda: tiny.encoder(prompts={"query": "query: ", "document": ""}),
    "pooling": lambda: tiny.encoder(prompts=PROMPTS, pooling="cls"),
    "length": shortened,
    "tokenizer": lowercased,
}


@pytest.mark.parametrize("other", OTHERS)
def test_index_of_another_model_is_refused(model, harbour, tmp_path, lang, other):
    search.Dense(model, harbour).save(tmp_path)
    words = {"en": "was made by another model .* build the index again", "zh": "是另一个模型.*重新建索引"}
    with pytest.raises(ValueError, match=words[lang]):
        search.Dense.load(tmp_path, OTHERS[other](), harbour)


CHANGES = {
    "text": lambda corpus: corpus | {"pool": "closed"},
    "id": lambda corpus: {doc_id.upper(): text for doc_id, text in corpus.items()},
    "order": lambda corpus: dict(reversed(corpus.items())),
    "number": lambda corpus: {"tram": corpus["tram"]},
}


@pytest.mark.parametrize("change", CHANGES)
def test_index_of_other_texts_is_refused(model, harbour, tmp_path, lang, change):
    search.Dense(model, harbour).save(tmp_path)
    other = replace(harbour, corpus=CHANGES[change](harbour.corpus))
    words = {
        "en": "was made from other texts than harbour's; build the index again",
        "zh": "不是用 harbour 现在的文本建的；重新建索引",
    }
    with pytest.raises(ValueError, match=words[lang]):
        search.Dense.load(tmp_path, model, other)


def test_fingerprint_survives_use_and_saving(model, tmp_path):
    before = search.fingerprint(model)
    model.encode(["tram", "a longer text that is padded"])
    model.save_pretrained(str(tmp_path))
    assert search.fingerprint(model) == before == search.fingerprint(SentenceTransformer(str(tmp_path), device="cpu"))


@pytest.mark.parametrize("n", [3, 5])
def test_vectors_of_other_documents_are_refused(model, harbour, lang, n):
    """Fewer, and the last documents would never be found; more, and a place would belong to none."""
    words = {"en": f"vectors holds {n} documents, harbour has 4", "zh": f"vectors 里有 {n} 篇文档，harbour 有 4 篇"}
    with pytest.raises(ValueError, match=words[lang]):
        search.Dense(model, harbour, vectors=np.ones((n, 32), np.float32))


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused_by_systems_of_systems(harbour, lang, k):
    first = Fixed("one", {"tram": 1.0, "pool": 0.5})
    words = {"en": f"k={k}; use 1 or more", "zh": f"k={k}；至少为 1"}
    for system in (search.Fused([first]), search.Reranked(first, None, harbour, score=lambda *_: np.zeros(2))):
        with pytest.raises(ValueError, match=words[lang]):
            system.search({"q": "text"}, k)


def with_head(activation):
    made = tiny.encoder(prompts=PROMPTS)
    made.insert(2, Dense(32, 8, activation_function=activation, init_weight=torch.eye(8, 32)))
    return made


def test_fingerprint_knows_the_activation_behind_a_layer():
    one, same, other = with_head(torch.nn.Identity()), with_head(torch.nn.Identity()), with_head(torch.nn.Tanh())
    assert np.abs(one.encode("tram") - other.encode("tram")).max() > 1e-4
    assert search.fingerprint(one) == search.fingerprint(same) != search.fingerprint(other)


def test_fingerprint_knows_the_layers_behind_a_router():
    def made(activation):
        routes = {"query": [*with_head(activation)], "document": [*tiny.encoder()]}
        router = Router(routes, route_mappings={("query", None): "query"})
        return SentenceTransformer(modules=[router], device="cpu")

    one, other = made(torch.nn.Identity()), made(torch.nn.Tanh())
    assert search.fingerprint(one) == search.fingerprint(one) != search.fingerprint(other)


def test_fingerprint_knows_whether_adapters_are_on(tmp_path):
    model = embedding.load(tiny.chat_folder("llama", tmp_path), "lasttoken")
    llm_lora.add(model, Config())
    on = search.fingerprint(model)
    model.disable_adapters()
    off = search.fingerprint(model)
    model.enable_adapters()
    layer = next(module for module in model.modules() if getattr(module, "lora_A", None))
    assert on == search.fingerprint(model) != off
    layer.scaling["default"] *= 2
    assert search.fingerprint(model) not in (on, off)


@pytest.mark.parametrize("card", [{"model": "0123456789abcdef"}, {}])
def test_card_of_the_older_kind_is_refused_as_another_models(model, harbour, tmp_path, lang, card):
    search.Dense(model, harbour).save(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"name": "dense", "texts": "0"} | card))
    words = {"en": "was made by another model .* build the index again", "zh": "是另一个模型.*重新建索引"}
    with pytest.raises(ValueError, match=words[lang]):
        search.Dense.load(tmp_path, model, harbour)
