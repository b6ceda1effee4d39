"""Reranking the head of a first stage, by hand and with a scorer that can be read."""

import numpy as np
import pytest

from retrieval_lab import fusion, search


class First:
    """Finds every document for every query, scored by place."""

    name = "first"

    def __init__(self, doc_ids):
        self.doc_ids, self.asked = doc_ids, []

    def search(self, queries, k):
        self.asked.append(k)
        return {q: {d: 1.0 - 0.1 * i for i, d in enumerate(self.doc_ids[:k])} for q in queries}


def by_length(model, pairs):
    """The longer the document, the better."""
    return np.array([len(doc) for _, doc in pairs], float)


def reranked(harbour, **options):
    return search.Reranked(First(list(harbour.corpus)), None, harbour, **({"score": by_length} | options))


def test_weighted_sum_of_standardised_scores_by_hand():
    first = {"a": 0.9, "b": 0.7, "c": 0.5, "d": 0.1}  # of a, b, c: +-1.2247, 0
    second = {"a": 0.0, "b": 4.0, "c": 2.0}  # -1.2247, 1.2247, 0
    unit = 1.5**0.5
    found = fusion.interpolate(first, second, weight=0.75)
    expected = {"b": 0.75 * unit, "c": -0.25 * unit, "a": -0.5 * unit, "d": -0.5 * unit - 1}
    assert list(found) == list(expected)
    assert found == pytest.approx(expected)


def test_scale_of_either_score_does_not_matter():
    first, second = {"a": 0.9, "b": 0.7, "c": 0.6}, {"a": 1.0, "b": 5.0, "c": 4.0}
    stretched = {d: 1000 * s - 7 for d, s in second.items()}
    assert fusion.interpolate(first, stretched, 0.5) == pytest.approx(fusion.interpolate(first, second, 0.5))


def test_with_a_temperature_the_sum_is_the_order_of_the_product_of_both_softmaxes():
    first, second, temperature = {"a": 0.9, "b": 0.7, "c": 0.65}, {"a": 1.0, "b": 4.5, "c": 6.5}, 0.05
    one = np.exp(np.array(list(first.values())) / temperature)
    product = one / one.sum() * np.exp(list(second.values())) / np.exp(list(second.values())).sum()
    found = fusion.interpolate(first, second, 0.5, temperature)
    assert list(found) == [d for _, d in sorted(zip(product, "abc", strict=True), reverse=True)]
    assert np.ptp(2 * np.array([found[d] for d in "abc"]) - np.log(product)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("temperature", [0, -0.05])
def test_temperature_that_is_not_positive_is_refused(monkeypatch, lang, temperature):
    monkeypatch.setenv("RETRIEVAL_LAB_LANG", lang)
    with pytest.raises(ValueError, match=f"temperature={temperature}"):
        fusion.interpolate({"a": 1.0}, {"a": 1.0}, 0.5, temperature)


def test_weight_zero_keeps_the_first_order_and_weight_one_the_second():
    first, second = {"a": 3.0, "b": 2.0, "c": 1.0}, {"c": 3.0, "b": 2.0, "a": 1.0}
    assert list(fusion.interpolate(first, second, 0)) == ["a", "b", "c"]
    assert list(fusion.interpolate(first, second, 1)) == ["c", "b", "a"]


def test_documents_below_the_depth_stay_below_in_their_order():
    first = {"low": 0.1, "a": 0.9, "mid": 0.5, "b": 0.8}
    found = fusion.interpolate(first, {"a": -100.0, "b": 100.0})
    assert list(found) == ["b", "a", "mid", "low"]
    assert sorted(found.values(), reverse=True) == list(found.values()) and len(set(found.values())) == 4


def test_equal_scores_keep_the_order_of_the_first_stage():
    assert list(fusion.interpolate({"a": 0.1, "b": 0.9}, {"a": 5.0, "b": 5.0})) == ["b", "a"]


def test_nothing_found_stays_nothing():
    assert fusion.interpolate({}, {}) == {}
    assert fusion.interpolate({"a": 1.0}, {"a": 9.0}) == {"a": 0.0}  # one document has no spread


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_weight_outside_zero_to_one_is_refused(weight, lang):
    with pytest.raises(ValueError, match={"en": "weight=.*use 0 to 1", "zh": "weight=.*应在 0 到 1 之间"}[lang]):
        fusion.interpolate({"a": 1.0}, {"a": 1.0}, weight)


@pytest.mark.parametrize("second", [{"x": 1.0}, {"a": float("nan")}, {"a": float("inf")}])
def test_score_without_meaning_is_refused_with_its_document(second, lang):
    words = {
        "en": "document '[xa]' scored .*one finite score to each candidate",
        "zh": "文档 '[xa]' 的得分.*有限的得分",
    }
    with pytest.raises(ValueError, match=words[lang]):
        fusion.interpolate({"a": 1.0}, second)


def test_head_is_reranked_and_tail_is_kept(harbour):
    run = reranked(harbour, depth=3).search(harbour.queries, 4)
    assert all(list(docs) == ["pool", "ferry", "tram", "library"] for docs in run.values())


def test_first_stage_is_asked_for_the_depth_and_the_result_is_cut_to_k(harbour):
    system = reranked(harbour, depth=3)
    assert list(system.search({"q": "x"}, 1)["q"]) == ["pool"]
    system.search({"q": "x"}, 9)
    assert system.first.asked == [3, 9]


def test_model_gets_each_query_with_each_candidates_text(harbour):
    seen = []

    def score(model, pairs):
        seen.append((model, list(pairs)))
        return np.zeros(len(pairs))

    search.Reranked(First(["tram", "pool"]), "model", harbour, depth=2, score=score).search({"q": "?", "r": "!"}, 2)
    texts = harbour.corpus
    pairs = [("?", texts["tram"]), ("?", texts["pool"]), ("!", texts["tram"]), ("!", texts["pool"])]
    assert seen == [("model", pairs)]


def test_no_queries_give_an_empty_run(harbour):
    assert reranked(harbour).search({}, 5) == {}


@pytest.mark.parametrize("scores", [np.zeros(1), np.zeros((3, 1))])
def test_wrong_number_of_scores_is_refused(harbour, scores, lang):
    words = {
        "en": r"3 pairs gave scores of shape \(.*one score a pair",
        "zh": r"3 对文本得到形状为 \(.*每对文本一个得分",
    }
    with pytest.raises(ValueError, match=words[lang]):
        reranked(harbour, depth=3, score=lambda model, pairs: scores).search({"q": "x"}, 3)


def test_name_says_what_it_is(harbour):
    assert reranked(harbour).name == "first + reranker" and reranked(harbour, name="both").name == "both"


def test_two_weights_share_their_scores_and_other_pairs_are_scored_anew(harbour):
    calls = []

    def score(model, pairs):
        calls.append(len(pairs))
        return by_length(model, pairs)

    shared = search.remember_last(score)
    alone, both = (reranked(harbour, score=shared, depth=3, weight=weight) for weight in (1.0, 0.5))
    assert alone.search(harbour.queries, 3) != both.search(harbour.queries, 3)
    assert calls == [9]
    one = {"q1": harbour.queries["q1"]}
    alone.search(one, 3)
    both.search(harbour.queries, 3)
    assert calls == [9, 3, 9]
