"""The measures of an answer, by hand."""

import math

import pytest
from langchain_core.documents import Document

from retrieval_lab import rag_metrics
from retrieval_lab.rag_answers import Citation
from retrieval_lab.rag_metrics import (
    choose_threshold,
    citation_correctness,
    context_precision,
    context_recall,
    judge,
    overlap,
)


def result(answer: str, *sources: str, citations=()) -> dict:
    documents = [Document(source, metadata={"source": source}) for source in sources]
    return {"documents": documents, "answer": answer, "citations": list(citations)}


RIGHT, WRONG_SOURCE = Citation(1, "x", "a", ""), Citation(2, "x", "b", "")
BROKEN = Citation(1, "x", "a", "these words are not in source 1")


def test_context_measures():
    assert context_recall(["a", "b", "a"], {"a", "c", "d", "e"}) == 0.25
    assert context_precision(["a", "b", "a"], {"a"}) == pytest.approx(2 / 3)
    assert context_precision([], {"a"}) == 0
    assert math.isnan(context_recall(["a"], set()))


def test_citation_counts_only_with_the_right_words_from_a_relevant_source():
    assert citation_correctness([RIGHT, WRONG_SOURCE, BROKEN, RIGHT], {"a"}) == 0.5
    assert citation_correctness([], {"a"}) == 0


@pytest.mark.parametrize(
    "answer, gold, expected",
    [
        ("the fee is 12 crowns", "12 crowns", 0.8),
        ("tram tram", "tram", 2 / 3),
        ("ferry", "tram", 0),
        ("", "tram", 0),
        ("加急费二十元", "加急费二十元", 1),
    ],
)
def test_overlap_is_the_f1_of_shared_words(answer, gold, expected):
    assert overlap(answer, gold) == pytest.approx(expected)


def test_answered_right_looks_at_the_first_citation():
    assert judge(result("“x” [1] “x” [2]", "a", "b", citations=[RIGHT, WRONG_SOURCE]), {"a"}) == {
        "abstained": 0, "context recall": 1, "context precision": 0.5, "citation correctness": 0.5, "answered right": 1,
    }  # fmt: skip
    assert judge(result("…", "a", "b", citations=[WRONG_SOURCE, RIGHT]), {"a"})["answered right"] == 0


def test_gold_words_are_looked_for_in_the_answer():
    row = judge(result("“It costs 12 crowns.” [1]", "a", citations=[RIGHT]), {"a"}, gold="12 crowns")
    assert row["gold quoted"] == 1
    assert row["answer overlap"] == pytest.approx(2 * 2 / (3 + 2))  # cost, 12, crown against 12, crown
    assert judge(result("Not found in the sources."), {"a"}, gold="12 crowns")["gold quoted"] == 0
    assert (
        judge(result("“It costs 12 crowns.” [1]", "a", citations=[RIGHT]), {"a"}, gold="2 crowns")["gold quoted"] == 0
    )
    assert judge(result("“It costs 12” [1, 2] crowns", "a"), {"a"}, gold="12 crowns")["gold quoted"] == 1
    quoted = result("“Say ‘ten’ (10).” [1]", "a", citations=[RIGHT])  # the answerer's marks for “ten” [10]
    assert judge(quoted, {"a"}, gold="“ten” [10]")["gold quoted"] == 1


def test_abstaining_is_no_right_answer_and_has_no_citations():
    row = judge(result("Not found in the sources.", "a"), {"a"})
    assert row["abstained"] == 1 and row["answered right"] == 0 and math.isnan(row["citation correctness"])
    assert judge(result("Not found in the sources."), set()) == {"abstained": 1}


@pytest.mark.parametrize(
    "yes, no, expected",
    [
        ([0.8, 0.9], [0.1, 0.2], 0.5),  # apart: half-way
        ([0.9, 0.5], [0.6], 0.75),  # 0.55 and 0.75: (1/2 + 0) / 2 and (1/2 + 1) / 2
        ([0.9], [float("-inf")], 0.9),  # nothing was found for the other
    ],
)
def test_threshold_has_the_best_balanced_accuracy(yes, no, expected):
    assert choose_threshold(yes, no) == pytest.approx(expected)


def test_threshold_needs_both_kinds(lang):
    words = {"en": "3 answerable and 0 unanswerable", "zh": "有答案的问题 3 个，没有答案的 0 个"}
    with pytest.raises(ValueError, match=words[lang]):
        choose_threshold([1, 2, 3], [])


class Chain:
    """Answers from a dictionary."""

    def __init__(self, **results):
        self.results = results

    def invoke(self, question):
        return self.results[question]


def test_table_compares_each_row_with_the_one_above(harbour):
    refused = result("Not found in the sources.", "pool")
    tram, ferry, wrong = (Citation(1, "x", s, "") for s in ("tram", "ferry", "pool"))
    good = {"q1": result("…", "tram", citations=[tram]), "q2": result("…", "ferry", citations=[ferry]), "q3": refused}
    poor = {"q1": result("…", "tram", citations=[tram]), "q2": result("…", "pool", citations=[wrong]), "q3": refused}
    named = {harbour.queries[q]: q for q in harbour.queries}
    ask = lambda answers: Chain(**{text: answers[q] for text, q in named.items()}, zebra=refused)  # noqa: E731
    frames = {
        name: rag_metrics.evaluate(ask(a), harbour, {"u": "zebra"}) for name, a in (("poor", poor), ("good", good))
    }
    found = rag_metrics.table(frames)
    assert found["answered right"].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert found["citation correctness"].tolist() == pytest.approx([1 / 2, 1])
    assert found["answered"].tolist() == pytest.approx([2 / 3, 2 / 3])
    assert found["abstained right"].tolist() == [1, 1]
    assert found["Δ answered right"].tolist() == ["", "+0.333"]


def test_frames_of_other_questions_are_refused(harbour):
    frame = rag_metrics.evaluate(Chain(**dict.fromkeys(harbour.queries.values(), result("…"))), harbour, {})
    with pytest.raises(ValueError, match="second was asked other questions"):
        rag_metrics.table({"first": frame, "second": frame.iloc[1:]})
