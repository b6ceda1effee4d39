"""Figures: each gives an Axes that holds the numbers it was given; Chinese labels only where a font can draw them."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from retrieval_lab import plots


@pytest.fixture(autouse=True)
def closed():
    with plt.rc_context():
        yield
    plt.close("all")


@pytest.fixture
def table():
    frame = pd.DataFrame({"nDCG@10": [0.25, 0.75]}, index=["BM25", "dense"])
    frame.attrs["per_query"] = {"BM25": np.array([0.0, 0.5]), "dense": np.array([0.5, 1.0])}
    return frame


def words(ax) -> str:
    return " ".join([ax.get_title(), ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel()])


def test_comparison_draws_mean_and_interval_of_each_system(table):
    ax = plots.comparison(table)
    assert isinstance(ax, Axes)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["BM25", "dense"]
    bar, dot, *_ = ax.lines
    assert list(bar.get_xdata()) == [0.0, 0.5] and dot.get_xdata()[0] == 0.25
    assert "dense: +0.500 over BM25" in words(ax) and "nDCG@10" in ax.get_xlabel()


def test_heatmap_writes_each_number_into_its_cell():
    ax = plots.heatmap([[0.1, 0.2], [0.3, 0.4]], ["a", "b"], ["c", "d"], "title")
    assert isinstance(ax, Axes)
    assert {text.get_position(): text.get_text() for text in ax.texts} == {
        (0, 0): "0.10",
        (1, 0): "0.20",
        (0, 1): "0.30",
        (1, 1): "0.40",
    }
    assert not plots.heatmap([[1.0]], ["a"], ["c"], "title", numbers=False).texts


def test_map_shows_each_point_once_and_names_each_group():
    ax = plots.map_2d([[0, 0], [1, 1], [2, 0]], ["pool", "pool", "tram"], [True, False, False], "title")
    assert isinstance(ax, Axes)
    assert sum(len(dots.get_offsets()) for dots in ax.collections) == 3
    assert [text.get_text() for text in ax.texts] == ["pool", "tram"]


def test_map_refuses_more_groups_than_colours():
    groups = list("abcdefg")
    with pytest.raises(ValueError, match="7 groups, but only 6 colours"):
        plots.map_2d(np.zeros((7, 2)), groups, [False] * 7, "title")


def test_differences_are_sorted_and_counted():
    ax = plots.differences([0.5, 0.5, 0.5, 0.5], [1.0, 0.25, 0.5, 0.75])
    assert isinstance(ax, Axes)
    assert [bar.get_height() for bar in ax.patches] == [0.5, 0.25, 0.0, -0.25]
    assert "2 queries got better, 1 got worse" in words(ax)


@pytest.mark.parametrize("draw", ["comparison", "heatmap", "map_2d", "differences"])
def test_figures_are_drawn_into_the_axes_they_are_given(table, draw):
    given = plt.subplots()[1]
    inputs = {
        "comparison": [table],
        "heatmap": [[[1.0]], ["a"], ["b"], "t"],
        "map_2d": [[[0, 0]], ["a"], [True], "t"],
        "differences": [[0.0], [1.0]],
    }
    assert getattr(plots, draw)(*inputs[draw], ax=given) is given


@pytest.mark.parametrize("font, expected", [(None, "query"), ("Noto Sans CJK SC", "查询")])
def test_chinese_label_needs_a_chinese_font(chinese, monkeypatch, font, expected):
    monkeypatch.setattr(plots, "chinese_font", lambda: font)
    assert plots.label(en="query", zh="查询") == expected


def test_english_label_stays_english_with_a_chinese_font(monkeypatch):
    monkeypatch.setattr(plots, "chinese_font", lambda: "Noto Sans CJK SC")
    assert plots.label(en="query", zh="查询") == "query"


def test_figures_without_a_chinese_font_hold_no_chinese(table, chinese, monkeypatch):
    monkeypatch.setattr(plots, "chinese_font", lambda: None)
    text = words(plots.comparison(table)) + words(plots.differences([0.0], [1.0]))
    assert not any("\u4e00" <= character <= "\u9fff" for character in text)


def test_figures_with_a_chinese_font_are_chinese(table, chinese, monkeypatch):
    monkeypatch.setattr(plots, "chinese_font", lambda: "Noto Sans CJK SC")
    assert "dense 比 BM25 高 +0.500" in words(plots.comparison(table))
    assert "1 个查询变好，0 个变差" in words(plots.differences([0.0], [1.0]))


def test_style_says_how_to_get_a_font(chinese, monkeypatch, capsys):
    monkeypatch.setattr(plots, "chinese_font", lambda: None)
    plots.style()
    assert "没有找到中文字体" in capsys.readouterr().out


def test_style_uses_a_font_that_is_there(monkeypatch, capsys):
    monkeypatch.setattr(plots, "chinese_font", lambda: "SimHei")
    plots.style()
    assert plt.rcParams["font.sans-serif"] == ["SimHei", "DejaVu Sans"] and capsys.readouterr().out == ""


def test_font_is_looked_for_among_those_installed(monkeypatch):
    from matplotlib import font_manager

    class Font:
        name = "WenQuanYi Zen Hei"

    monkeypatch.setattr(font_manager.fontManager, "ttflist", [Font])
    assert plots.chinese_font.__wrapped__() == "WenQuanYi Zen Hei"
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
    assert plots.chinese_font.__wrapped__() is None
