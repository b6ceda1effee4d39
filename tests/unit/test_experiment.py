"""The comparison table: its numbers, its baseline, and what it refuses."""

import re

import numpy as np
import pandas as pd
import pytest

from retrieval_lab import experiment, metrics


class Fixed:
    """A system with a fixed run."""

    def __init__(self, name, run):
        self.name, self.run = name, run

    def search(self, queries, k):
        return {query_id: self.run.get(query_id, {}) for query_id in queries}


@pytest.fixture
def systems():
    right = {"q1": {"tram": 1.0}, "q2": {"ferry": 1.0, "pool": 0.5}, "q3": {"library": 1.0}}
    second = {query: {"none": 9.0} | docs for query, docs in right.items()}
    return [Fixed("nothing", {}), Fixed("second", second), Fixed("right", right)]


def test_rows_hold_the_metrics_of_each_system(systems, harbour):
    table = experiment.compare(systems, harbour)
    assert table.index.tolist() == ["nothing", "second", "right"]
    assert table["MRR@10"].tolist() == [0.0, 0.5, 1.0]
    assert table["nDCG@10"].tolist()[::2] == [0.0, 1.0]
    assert table["Recall@100"].tolist() == [0.0, 1.0, 1.0]
    assert (table["ms/query"] >= 0).all()


def test_binary_metrics_use_the_collections_own_grade(systems, harbour):
    only_partial = Fixed("partial", {"q2": {"pool": 1.0}})  # grade 1, relevant is 2
    assert experiment.compare([only_partial], harbour, names=["Recall@10"]).loc["partial", "Recall@10"] == 0


def test_difference_interval_and_p_are_those_of_the_metrics_module(systems, harbour):
    table = experiment.compare(systems, harbour, names=["MRR@10"])
    before, after = np.zeros(3), np.full(3, 0.5)
    low, high = metrics.paired_bootstrap(before, after)
    assert table.loc["second", "Δ MRR@10"] == "+0.500"
    assert table.loc["second", "95 % interval"] == f"{low:+.3f} … {high:+.3f}" == "+0.500 … +0.500"
    assert table.loc["second", "p"] == "0.2500"  # 2 of the 8 swaps


@pytest.mark.parametrize(
    "baseline, differences",
    [
        (0, ["", "+0.500", "+1.000"]),
        ("nothing", ["", "+0.500", "+1.000"]),
        (2, ["-1.000", "-0.500", ""]),
        ("right", ["-1.000", "-0.500", ""]),
        ("above", ["", "+0.500", "+0.500"]),
    ],
)
def test_each_row_is_compared_with_its_baseline(systems, harbour, baseline, differences):
    table = experiment.compare(systems, harbour, baseline, names=["MRR@10"])
    assert table["Δ MRR@10"].tolist() == differences


@pytest.mark.parametrize("baseline", [3, -1, "BM25"])
def test_baseline_that_is_no_row_is_refused(systems, harbour, lang, baseline):
    words = {
        "en": "is no row; use one of 0 … 2, 'nothing', 'second', 'right', or 'above'",
        "zh": "不是表里的一行；可用：0 … 2",
    }
    with pytest.raises(ValueError, match=re.escape(f"baseline={baseline!r} ") + words[lang]):
        experiment.compare(systems, harbour, baseline)


def test_two_systems_of_one_name_are_refused(systems, harbour):
    with pytest.raises(ValueError, match=r"systems need names of their own, got \['right', 'right'\]"):
        experiment.compare([systems[2], systems[2]], harbour)


def test_one_system_alone_has_no_difference(systems, harbour):
    assert "p" not in experiment.compare(systems[:1], harbour).columns


def test_one_query_alone_has_p_one(systems, harbour):
    assert experiment.compare(systems, harbour.only(["q1"])).loc["right", "p"] == "1.0000"


def test_attributes_keep_values_and_runs(systems, harbour):
    table = experiment.compare(systems, harbour, names=["MRR@10"])
    assert table.attrs["per_query"]["second"].tolist() == [0.5, 0.5, 0.5]
    assert table.attrs["runs"]["right"]["q1"] == {"tram": 1.0}


def test_milliseconds_time_single_queries(harbour):
    asked = []

    class Counting(Fixed):
        def search(self, queries, k):
            asked.append(list(queries))
            return {}

    assert experiment.milliseconds(Counting("c", {}), harbour, n=2) >= 0
    assert asked == [["q1"], ["q2"]]


def test_shown_table_is_rounded_and_marks_the_best(systems, harbour):
    html = experiment.show(experiment.compare(systems, harbour), decimals=2).to_html()
    assert ">0.50<" in html and "font-weight: bold" in html


def test_shown_table_has_its_head_in_the_readers_language_and_the_table_keeps_its_own(systems, harbour, lang):
    table = experiment.compare(systems, harbour)
    html = experiment.show(table).to_html()
    words = {"en": (">system<", ">95 % interval<"), "zh": (">系统<", ">95 % 置信区间<")}
    assert all(word in html for word in words[lang]) and "nDCG@10" in html
    assert "95 % interval" in table.columns and table.index.name == "system"


def test_shown_table_rounds_what_was_joined_to_it_and_may_lack_columns(systems, harbour):
    table = experiment.compare(systems, harbour).drop(columns="ms/query").assign(MB=[0.5, 1.0, 2.25])
    assert ">2.250<" in experiment.show(table).to_html()


def test_table_without_a_ranking_metric_is_shown_too(lang):
    table = pd.DataFrame({"answered right": [0.5, 0.25]}, index=pd.Index(["a", "b"], name="system"))
    assert ">0.250<" in experiment.show(table).to_html()
