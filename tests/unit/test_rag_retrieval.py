"""Retrievers and the reranking compressor, against brute force and against values by hand."""

import copy

import numpy as np
import pytest
from langchain_core.documents import Document

from retrieval_lab import embedding, lexical, rag_documents, search, tiny
from retrieval_lab.rag_retrieval import (
    CompressedRetriever,
    DenseRetriever,
    FusedRetriever,
    RerankingCompressor,
    WordRetriever,
)
from retrieval_lab.rag_store import chunks_in, ingest, open_store

QUESTION = "crossing the river"


@pytest.fixture(scope="module")
def model():
    return tiny.encoder(prompts={"query": "query: "})


@pytest.fixture
def documents(harbour):
    return rag_documents.from_collection(harbour)


@pytest.fixture
def store(model, documents, tmp_path):
    store = open_store(model, tmp_path)
    ingest(store, documents)
    return store


def sources(documents):
    return [document.metadata["source"] for document in documents]


def test_dense_retriever_returns_the_k_nearest_by_cosine(model, store, harbour):
    expected = search.Dense(model, harbour).search({"q": QUESTION}, 3)["q"]
    found = DenseRetriever(store=store, k=3).invoke(QUESTION)
    assert sources(found) == list(expected)
    np.testing.assert_allclose([d.metadata["cosine"] for d in found], list(expected.values()), atol=1e-5)
    assert all(d.metadata["score"] == d.metadata["cosine"] and d.metadata["title"] for d in found)


def test_threshold_leaves_out_what_is_below_it(model, store, harbour):
    cosines = embedding.encode(model, list(harbour.corpus.values())) @ embedding.encode(model, [QUESTION], "query")[0]
    second = float(np.sort(cosines)[-2])
    assert len(DenseRetriever(store=store, k=4, threshold=second - 1e-4).invoke(QUESTION)) == 2
    assert DenseRetriever(store=store, k=4, threshold=1.1).invoke(QUESTION) == []


def test_k_larger_than_the_store_returns_all(store):
    assert len(DenseRetriever(store=store, k=50).invoke(QUESTION)) == 4


@pytest.mark.parametrize("kind", [DenseRetriever, FusedRetriever, WordRetriever])
def test_k_below_one_is_refused(kind, store, documents):
    given = {"store": store, "chunks": documents, "retrievers": [WordRetriever(chunks=documents)]}
    wanted = {name: value for name, value in given.items() if name in kind.model_fields}
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        kind(k=0, **wanted)


def test_word_retriever_is_bm25(documents, harbour):
    expected = lexical.BM25(harbour).search({"q": QUESTION}, 4)["q"]
    found = WordRetriever(chunks=documents, k=4).invoke(QUESTION)
    assert {d.metadata["source"]: d.metadata["score"] for d in found} == expected
    assert WordRetriever(chunks=documents).invoke("zebra") == []
    assert WordRetriever(chunks=[]).invoke("river") == []


def test_fusion_adds_reciprocal_ranks_and_keeps_each_retrievers_scores(store, documents):
    retrievers = [WordRetriever(chunks=chunks_in(store), k=50), DenseRetriever(store=store, k=50)]
    found = FusedRetriever(retrievers=retrievers, k=4).invoke("ferry")
    words = [d.metadata["source"] for d in WordRetriever(chunks=documents, k=50).invoke("ferry")]
    dense = sources(DenseRetriever(store=store, k=50).invoke("ferry"))
    assert words == ["ferry"]
    by_hand = {source: 1 / (60 + rank) for rank, source in enumerate(dense, 1)}
    by_hand["ferry"] += 1 / 61
    assert sources(found) == sorted(by_hand, key=lambda s: -by_hand[s])
    np.testing.assert_allclose([d.metadata["score"] for d in found], sorted(by_hand.values(), reverse=True))
    assert all("cosine" in d.metadata for d in found)


def test_one_chunk_found_twice_stands_once(documents):
    words = WordRetriever(chunks=documents, k=4)
    assert sorted(sources(FusedRetriever(retrievers=[words, words], k=10).invoke("river"))) == ["ferry", "pool"]


def longest_first(pairs):
    return [len(text) for _, text in pairs]


def candidates():
    texts = {"a": "two", "b": "three", "c": "fifteen", "d": "one"}
    return [Document(t, metadata={"source": s, "score": 10.0 - i}, id=s) for i, (s, t) in enumerate(texts.items())]


def test_compressor_keeps_the_top_n_best_first_with_metadata():
    found = RerankingCompressor(score=longest_first, top_n=2).compress_documents(candidates(), "q")
    assert [(d.id, d.metadata["rerank_score"], d.metadata["source"]) for d in found] == [("c", 7, "c"), ("b", 5, "b")]


def test_compressor_passes_query_and_whole_text_to_the_reranker():
    seen = []
    score = lambda pairs: seen.extend(pairs) or [0.0] * len(pairs)  # noqa: E731
    RerankingCompressor(score=score).compress_documents(candidates(), "the question")
    assert seen == [("the question", text) for text in ("two", "three", "fifteen", "one")]


def test_compressor_never_changes_its_input():
    given = candidates()
    before = copy.deepcopy(given)
    RerankingCompressor(score=longest_first, weight=0.5).compress_documents(given, "q")
    assert given == before


def test_ties_keep_the_order_of_the_first_stage():
    found = RerankingCompressor(score=longest_first, top_n=4).compress_documents(candidates(), "q")
    assert [d.id for d in found] == ["c", "b", "a", "d"]  # a and d: three letters each


@pytest.mark.parametrize("threshold, expected", [(5, ["c", "b"]), (5.5, ["c"]), (8, [])])
def test_compressor_threshold_is_about_the_rerankers_score(threshold, expected):
    found = RerankingCompressor(score=longest_first, threshold=threshold).compress_documents(candidates(), "q")
    assert [d.id for d in found] == expected


def test_mixed_score_standardises_both_stages():
    given = candidates()[:2]  # first stage 10, 9: +1, -1; reranker 3, 5: -1, +1
    found = RerankingCompressor(score=longest_first, weight=0.25).compress_documents(given, "q")
    assert [(d.id, d.metadata["score"]) for d in found] == [("a", 0.5), ("b", -0.5)]


def near(**cosines):
    return [Document(t, metadata={"source": t, "score": 0.0, "cosine": c}, id=t) for t, c in cosines.items()]


def test_with_a_temperature_the_cosines_logit_is_added_to_the_rerankers():
    given = near(abc=0.9, abcde=0.8)  # logits 9 and 8; reranker 3 and 5
    found = RerankingCompressor(score=longest_first, weight=0.5, temperature=0.1).compress_documents(given, "q")
    assert [(d.id, d.metadata["score"]) for d in found] == [("abcde", pytest.approx(6.5)), ("abc", pytest.approx(6))]


def test_document_that_only_its_words_found_counts_as_the_farthest_of_the_others():
    given = [*near(abc=0.9, ab=0.5), Document("abcd", metadata={"source": "words", "score": 1.0}, id="words")]
    found = RerankingCompressor(score=longest_first, weight=0.5, temperature=0.1).compress_documents(given, "q")
    assert {d.id: d.metadata["score"] for d in found} == pytest.approx({"abc": 6, "words": 4.5, "ab": 3.5})


def test_temperature_without_any_cosine_is_refused(lang):
    words = {"en": "'a' has no first-stage `cosine`", "zh": "'a' 没有第一阶段的 `cosine`"}
    with pytest.raises(ValueError, match=words[lang]):
        RerankingCompressor(score=longest_first, weight=0.5, temperature=0.1).compress_documents(candidates(), "q")


def test_equal_scores_do_not_divide_by_zero():
    found = RerankingCompressor(score=lambda pairs: [1.0] * len(pairs), weight=0.5, top_n=4)
    assert [d.id for d in found.compress_documents(candidates(), "q")] == ["a", "b", "c", "d"]


def test_mixing_without_a_first_score_is_refused(lang):
    words = {"en": "'s' has no first-stage `score`", "zh": "'s' 没有第一阶段的 `score`"}
    with pytest.raises(ValueError, match=words[lang]):
        RerankingCompressor(score=longest_first, weight=0.5).compress_documents(
            [Document("a", metadata={"source": "s"})], "q"
        )


def test_no_documents_need_no_reranker():
    def never(pairs):
        raise AssertionError

    assert RerankingCompressor(score=never).compress_documents([], "q") == []


def test_real_cross_encoder_reorders_what_a_retriever_found(store):
    from functools import partial

    from retrieval_lab import reranker

    model = tiny.cross_encoder()
    compressor = RerankingCompressor(score=partial(reranker.score, model), top_n=3)
    found = CompressedRetriever(retriever=DenseRetriever(store=store, k=4), compressor=compressor).invoke(QUESTION)
    texts = [d.page_content for d in DenseRetriever(store=store, k=4).invoke(QUESTION)]
    expected = sorted(texts, key=lambda text: -model.predict([(QUESTION, text)])[0])[:3]
    assert [d.page_content for d in found] == expected
