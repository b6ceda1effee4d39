"""Metrics against trec_eval and against loops; the two tests against enumeration."""

import itertools
import math
import random

import numpy as np
import pytest
import pytrec_eval
from scipy.stats import bootstrap

from retrieval_lab import metrics


def random_case(seed: int) -> tuple[dict, dict]:
    """Graded judgements and a run with ties; some queries are not in the run, some find nothing relevant."""
    rng = random.Random(seed)
    docs = [f"d{i:02d}" for i in range(40)]
    qrels = {f"q{i}": {doc: rng.randint(0, 3) for doc in rng.sample(docs, 12)} for i in range(15)}
    run = {
        query: {doc: float(rng.randint(0, 9)) for doc in rng.sample(docs, 25)} for query in qrels if rng.random() < 0.8
    }
    return qrels, run


def ranked(scores: dict) -> list[str]:
    """trec_eval's order: by score, equal scores by document id, both from large to small."""
    return sorted(scores, key=lambda doc: (scores[doc], doc), reverse=True)


def ndcg(judged: dict, scores: dict, k: int) -> float:
    def gain(grades):
        return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades[:k], 1))

    ideal = gain(sorted(judged.values(), reverse=True))
    return gain([judged.get(doc, 0) for doc in ranked(scores)]) / ideal if ideal else 0.0


def reciprocal_rank(judged: dict, scores: dict, k: int, relevant: int) -> float:
    ranks = [rank for rank, doc in enumerate(ranked(scores)[:k], 1) if judged.get(doc, 0) >= relevant]
    return 1 / ranks[0] if ranks else 0.0


@pytest.mark.parametrize("seed, relevant", [(0, 1), (1, 1), (2, 2), (3, 3)])
def test_metrics_equal_trec_eval(seed, relevant):
    qrels, run = random_case(seed)
    theirs = {
        "nDCG@10": "ndcg_cut_10",
        "Recall@10": "recall_10",
        "Recall@100": "recall_100",
        "MAP": "map",
        "Hit@5": "success_5",
    }
    found = pytrec_eval.RelevanceEvaluator(qrels, set(theirs.values()), relevance_level=relevant).evaluate(run)
    ours = metrics.evaluate(qrels, run, list(theirs), per_query=True, relevant=relevant)
    for name, their_name in theirs.items():
        expected = [found.get(query, {their_name: 0.0})[their_name] for query in qrels]
        np.testing.assert_allclose(ours[name], expected, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("seed, relevant", [(4, 1), (5, 2), (6, 3)])
def test_ndcg_and_mrr_equal_plain_loops(seed, relevant):
    qrels, run = random_case(seed)
    ours = metrics.evaluate(qrels, run, ["nDCG@10", "MRR@10"], per_query=True, relevant=relevant)
    np.testing.assert_allclose(ours["nDCG@10"], [ndcg(qrels[q], run.get(q, {}), 10) for q in qrels], atol=1e-9)
    expected = [reciprocal_rank(qrels[q], run.get(q, {}), 10, relevant) for q in qrels]
    np.testing.assert_allclose(ours["MRR@10"], expected, atol=1e-9)


def test_means_are_over_all_judged_queries():
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}}
    assert metrics.evaluate(qrels, {"q1": {"a": 1.0}}, ["Recall@10"]) == {"Recall@10": 0.5}


def test_ndcg_ideal_counts_relevant_documents_that_were_not_retrieved():
    qrels = {"q": {f"d{i}": 1 for i in range(5)}}
    value = metrics.evaluate(qrels, {"q": {"d0": 9.0, "x": 8.0, "y": 7.0}}, ["nDCG@10"])["nDCG@10"]
    assert value == pytest.approx(0.3391602, abs=1e-7)


def test_per_query_values_are_in_the_order_of_the_judgements():
    qrels = {"b": {"x": 1}, "a": {"x": 1}, "c": {"x": 1}}
    run = {"a": {"x": 1.0}, "b": {"y": 2.0, "x": 1.0}}
    assert metrics.evaluate(qrels, run, ["MRR@10"], per_query=True)["MRR@10"].tolist() == [0.5, 1.0, 0.0]


def test_relevant_is_the_lowest_grade_of_the_binary_metrics_only():
    qrels, run = {"q": {"a": 1, "b": 2}}, {"q": {"a": 2.0, "b": 1.0}}
    found = metrics.evaluate(qrels, run, ["MRR@10", "Recall@1", "nDCG@1"], relevant=2)
    assert found == {"MRR@10": 0.5, "Recall@1": 0.0, "nDCG@1": 0.5}


def test_hit_rate_is_not_precision():
    qrels, run = {"q": {"a": 1}}, {"q": {"a": 3.0, "x": 2.0, "y": 1.0}}
    assert metrics.evaluate(qrels, run, ["Hit@5", "P@5"]) == {"Hit@5": 1.0, "P@5": 0.2}


def test_empty_run_scores_zero():
    assert metrics.evaluate({"q": {"a": 1}}, {}) == dict.fromkeys(metrics.DEFAULT, 0.0)
    assert metrics.evaluate({"q": {"a": 1}}, {"q": {}}) == dict.fromkeys(metrics.DEFAULT, 0.0)


def test_two_names_of_one_metric_give_the_same_value():
    found = metrics.evaluate({"q": {"a": 1}}, {"q": {"x": 2.0, "a": 1.0}}, ["MRR@10", "RR@10"])
    assert found == {"MRR@10": 0.5, "RR@10": 0.5}


@pytest.mark.parametrize("number", [int, np.float32, np.float64])
def test_scores_may_be_any_kind_of_number(number):
    run = {"q": {"x": number(2), "a": number(1)}}
    assert metrics.evaluate({"q": {"a": 1}}, run, ["MRR@10"]) == {"MRR@10": 0.5}


@pytest.mark.parametrize("name", ["Foo@10", "ndcg@10", "nDCG@ten", "nDCG@0", "nDCG@-1", "Recall", ""])
def test_unknown_metric_is_refused_with_examples(name):
    with pytest.raises(ValueError, match=rf"metric '{name}' is not known .*; try one of nDCG@10, MRR@10"):
        metrics.evaluate({"q": {"a": 1}}, {"q": {"a": 1.0}}, [name])


def test_query_without_judgements_is_refused():
    with pytest.raises(ValueError, match=r"the run has query 'z' \(1 in all\) without judgements"):
        metrics.evaluate({"q": {"a": 1}}, {"z": {"a": 1.0}})


def test_nan_score_is_refused():
    with pytest.raises(ValueError, match="the score of document 'x' for query 'q' is NaN"):
        metrics.evaluate({"q": {"a": 1}}, {"q": {"x": float("nan"), "a": 1.0}})


def test_judgements_without_queries_are_refused():
    with pytest.raises(ValueError, match="there is no judged query"):
        metrics.evaluate({}, {})


def test_bootstrap_of_a_constant_difference_is_that_difference():
    before = np.random.default_rng(0).random(30)
    assert metrics.paired_bootstrap(before, before + 0.25) == pytest.approx((0.25, 0.25))


def test_bootstrap_agrees_with_scipy():
    rng = np.random.default_rng(3)
    before, after = rng.random(60), rng.random(60) + 0.1
    found = metrics.paired_bootstrap(before, after, confidence=0.9)
    theirs = bootstrap((after - before,), np.mean, confidence_level=0.9, method="percentile", rng=rng)
    assert found == pytest.approx(tuple(theirs.confidence_interval), abs=0.005)


def test_bootstrap_depends_on_its_seed_only():
    before, after = np.random.default_rng(0).random((2, 20))
    assert metrics.paired_bootstrap(before, after) == metrics.paired_bootstrap(before, after)
    assert metrics.paired_bootstrap(before, after) != metrics.paired_bootstrap(before, after, seed=1)


def test_identical_runs_have_p_one():
    values = np.random.default_rng(0).random(50)
    assert metrics.randomisation_test(values, values) == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_p_of_few_queries_equals_the_enumeration_of_all_swaps(seed):
    before, after = np.random.default_rng(seed).random((2, 8)).round(2)
    difference = after - before
    means = [abs((difference * signs).mean()) for signs in itertools.product((1, -1), repeat=8)]
    expected = np.mean([mean >= abs(difference.mean()) - 1e-12 for mean in means])
    assert metrics.randomisation_test(before, after) == pytest.approx(expected)


def test_p_of_ten_gains_is_two_of_all_swaps():
    assert metrics.randomisation_test([0.0] * 10, [0.5] * 10) == pytest.approx(2 / 2**10)


def test_p_of_one_query_is_one():
    assert metrics.randomisation_test([0.1], [0.9]) == 1.0


@pytest.mark.parametrize("test", [metrics.paired_bootstrap, metrics.randomisation_test])
@pytest.mark.parametrize("a, b", [([1.0], [1.0, 2.0]), ([], []), ([[1.0]], [[1.0]])])
def test_values_of_different_queries_are_refused(test, a, b):
    with pytest.raises(ValueError, match="both need one value for each of the same queries"):
        test(a, b)


@pytest.mark.parametrize("relevant_doc, rank", [("a", 2), ("c", 1)])
def test_all_metrics_break_a_tie_in_the_same_way(relevant_doc, rank):
    run = {"q": {"a": 1.0, "b": 0.5, "c": 1.0}}  # trec_eval: of equal scores the larger id comes first
    found = metrics.evaluate({"q": {relevant_doc: 1}}, run, ["MRR@10", "nDCG@10", "Hit@1"])
    assert found == pytest.approx({"MRR@10": 1 / rank, "nDCG@10": 1 / math.log2(rank + 1), "Hit@1": float(rank == 1)})


@pytest.mark.parametrize("n", [1, 7, 40, 3000])
def test_bootstrap_in_parts_equals_all_resamples_at_once(monkeypatch, n):
    monkeypatch.setattr(metrics, "PICKS", 1000)  # parts of 1000, 142, 25 and 1 resamples
    before, after = np.random.default_rng(0).normal(size=(2, n))
    picks = np.random.default_rng(3).integers(n, size=(501, n))
    expected = np.quantile((after - before)[picks].mean(axis=1), [0.025, 0.975])
    assert metrics.paired_bootstrap(before, after, n_resamples=501, seed=3) == pytest.approx(tuple(expected), abs=1e-12)
