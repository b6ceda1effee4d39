"""Reranking tasks: the lists by hand, MAP by hand and against scikit-learn as MTEB computed it, MTEB's absence said plainly."""

import builtins
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from retrieval_lab import reranking_tasks
from retrieval_lab.corpora import Collection


class Fixed:
    name = "fixed"

    def __init__(self, order):
        self.order = order

    def search(self, queries, k):
        return {q: {d: -float(i) for i, d in enumerate(self.order[:k])} for q in queries}


def collection(qrels, relevant=1):
    corpus = {name: name for name in "abcdef"}
    return Collection("tiny", "en", "test", "CC0", corpus, {q: q for q in qrels}, qrels, relevant=relevant)


def by_letter(model, pairs):
    """a scores highest."""
    return np.array([-float(ord(doc)) for _, doc in pairs])


def test_list_holds_all_relevant_documents_and_the_hardest_wrong_ones():
    task = reranking_tasks.from_collection(collection({"q": {"e": 1, "b": 1, "c": 0}}), Fixed("abcdef"), 4)
    assert task.candidates == {"q": ["e", "b", "a", "c"]}


def test_query_with_more_relevant_documents_than_places_keeps_them():
    task = reranking_tasks.from_collection(collection({"q": dict.fromkeys("abc", 1)}), Fixed("abcdef"), 2)
    assert task.candidates == {"q": ["a", "b", "c"]}


def test_query_without_a_relevant_document_is_left_out():
    task = reranking_tasks.from_collection(collection({"q": {"a": 2}, "r": {"b": 1}}, relevant=2), Fixed("abc"), 2)
    assert list(task.candidates) == list(task.collection.queries) == ["q"]


def test_list_of_the_answer_alone_is_left_out_with_a_notice(lang):
    words = {"en": "1 of 2 queries left out, 'q' for one", "zh": "2 个查询去掉了 1 个，例如 'q'"}
    with pytest.warns(UserWarning, match=words[lang]):
        task = reranking_tasks.from_collection(collection({"q": {"a": 1}, "r": {"b": 1}}), Fixed("a"), 2)
    assert task.candidates == {"r": ["b", "a"]} and list(task.collection.queries) == ["r"]


def test_map_by_hand():
    """Ranks 1 and 3 of three: (1/1 + 2/3) / 2. Rank 2 of two: 1/2. Their mean: 2/3."""
    city = collection({"q": {"a": 1, "c": 1}, "r": {"b": 1}})
    task = reranking_tasks.Task(city, {"q": ["c", "b", "a"], "r": ["a", "b"]})
    found = reranking_tasks.evaluate(task, None, by_letter)
    assert found["MAP"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert found["MRR@10"] == pytest.approx((1 + 1 / 2) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_map_equals_average_precision_over_each_list(seed):
    """MTEB's first version took scikit-learn's average precision of each query's list."""
    rng = np.random.default_rng(seed)
    docs = [f"d{i}" for i in range(12)]
    qrels = {f"q{j}": {d: int(rng.random() < 0.3) for d in docs} | {"d0": 1} for j in range(4)}
    city = replace(collection(qrels), corpus={d: d for d in docs})
    scores = {(q, d): rng.normal() for q in qrels for d in docs}
    task = reranking_tasks.Task(city, {q: docs for q in qrels})
    found = reranking_tasks.evaluate(task, None, lambda model, pairs: np.array([scores[pair] for pair in pairs]))
    each = [average_precision_score([qrels[q][d] for d in docs], [scores[q, d] for d in docs]) for q in qrels]
    assert found["MAP"] == pytest.approx(np.mean(each), abs=1e-6)


def test_lists_of_one_are_refused(lang):
    with pytest.raises(ValueError, match={"en": "n_candidates=1; use 2", "zh": "n_candidates=1；应不小于 2"}[lang]):
        reranking_tasks.from_collection(collection({"q": {"a": 1}}), Fixed("a"), 1)


def test_missing_library_is_named_with_what_to_do(monkeypatch, lang):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "mteb":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match={"en": "need the mteb library", "zh": "需要 mteb 库"}[lang]):
        reranking_tasks.mteb_scores(None)
