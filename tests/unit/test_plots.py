"""Figures: each gives an Axes that holds the numbers it was given; Chinese labels only where a font can draw them."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from retrieval_lab import plots
from retrieval_lab.colbert import Alignment


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
    assert ax.images[0].get_clim() == (0.0, 1.0)  # the same shade in every figure
    assert not plots.heatmap([[1.0]], ["a"], ["c"], "title", numbers=False).texts


def test_alignment_frames_each_rows_best_token_and_writes_its_share():
    found = Alignment(
        ["q1", "q2", "q3"], ["d1", "d2", "d3"], np.array([[0.1, 0.9, 0.2], [0.7, 0.1, 0.3], [0.0, 0.1, 0.8]])
    )
    ax = plots.alignment(found, "title", columns=2)
    assert isinstance(ax, Axes) and ax.get_title(loc="left") + ax.get_title() == "title"
    assert [text.get_text() for text in ax.texts] == ["0.90", "0.70", "0.80 → d3"]
    assert [(frame.get_x(), frame.get_y()) for frame in ax.patches] == [(0.5, -0.5), (-0.5, 0.5)]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["d1", "d2"]


def test_alignment_without_a_chinese_font_shows_places_instead_of_squares(monkeypatch):
    monkeypatch.setattr(plots, "chinese_font", lambda: None)
    ax = plots.alignment(Alignment(["渡", "tram"], ["轮", "é"], np.array([[0.9, 0.1], [0.2, 0.8]])), "渡轮")
    assert [[t.get_text() for t in ticks] for ticks in (ax.get_xticklabels(), ax.get_yticklabels())] == [
        ["#0", "é"],
        ["#0", "tram"],
    ]
    assert ax.get_title(loc="left") + ax.get_title() == ""


def test_map_shows_each_point_once_and_names_each_group():
    ax = plots.map_2d([[0, 0], [1, 1], [2, 0]], ["pool", "pool", "tram"], [True, False, False], "title")
    assert isinstance(ax, Axes)
    assert sum(len(dots.get_offsets()) for dots in ax.collections) == 3
    assert {text.get_text(): tuple(text.xy) for text in ax.texts} == {
        "pool": (1, 1),
        "tram": (2, 0),
    }  # amid the passages
    alone = plots.map_2d([[0, 0], [1, 1]], ["pool", "pool"], [True, True], "title")
    assert tuple(alone.texts[0].xy) == (0.5, 0.5)


def test_map_refuses_more_groups_than_colours(lang):
    groups = list("abcdefg")
    words = {"en": "7 groups, but only 6 colours", "zh": "有 7 组，而分得清的颜色只有 6 种"}
    with pytest.raises(ValueError, match=words[lang]):
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
    assert "dense 比 BM25 高 0.500" in words(plots.comparison(table))
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


def test_reliability_draws_the_share_of_answers_in_each_group():
    probabilities = np.array([0.1, 0.1, 0.2, 0.2, 0.8, 0.8, 0.9, 0.9])
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 1], bool)
    ax = plots.reliability(probabilities, labels, bins=2, name="model")
    assert ax.lines[1].get_xdata() == pytest.approx([0.15, 0.85]) and ax.lines[1].get_ydata() == pytest.approx(
        [0.25, 1]
    )
    assert "off the diagonal by 0.12" in words(ax) and ax.texts[0].get_text() == "model"  # (0.1 + 0.15) / 2
    plots.reliability(probabilities, labels, bins=2, ax=ax)
    assert ax.lines[3].get_color() != ax.lines[1].get_color()


def test_curve_names_the_best_point_and_draws_the_baseline():
    ax = plots.curve({5: 0.5, 10: 0.75, 20: 0.7}, "nDCG@10", "depth", baseline=0.6)
    assert list(ax.lines[0].get_xdata()) == [5, 10, 20] and ax.lines[1].get_ydata()[0] == 0.6
    assert "best: depth 10" in words(ax) and [text.get_text() for text in ax.texts] == ["0.500", "0.750", "0.700"]
