"""What a widget shows, without a browser: the view is a function of what is chosen, and a table stands in without a kernel."""

import sys

import numpy as np
import pytest

from retrieval_lab import widgets
from retrieval_lab.colbert import Alignment
from retrieval_lab.widgets import TokenMatches, TokenState


@pytest.fixture
def alignments():
    first = Alignment(["tram", "late"], ["the", "<b>", "tram"], np.array([[0.1, 0.2, 0.9], [0.3, 0.4, -0.1]]))
    second = Alignment(["tram", "late"], ["bus"], np.array([[0.5], [-0.25]]))
    return [first, second]


def shades(view: str) -> list[str]:
    return [part.split(")")[0] for part in view.split("rgba(0,114,178,")[1:]]


def test_chosen_token_shades_the_document_by_its_cosines_and_frames_the_best(alignments):
    view = widgets.token_view(alignments, TokenState(0, 0))
    assert shades(view) == ["0.10", "0.20", "0.90"]
    assert view.count("outline") == 1 and "outline" in view.split("<span")[3] and "tram → tram: 0.90" in view


def test_negative_cosine_is_not_shaded(alignments):
    assert shades(widgets.token_view(alignments, TokenState(0, 1)))[2] == "0.00"


def test_no_token_chosen_shades_what_the_sum_is_made_of(alignments):
    view = widgets.token_view(alignments, TokenState(0))
    assert shades(view) == ["0.00", "0.40", "0.90"] and "1.30" in view and "outline" not in view


def test_text_is_escaped(alignments):
    for page in (widgets.token_view(alignments, TokenState(0, 1)), widgets.token_table(alignments, ["a", "b"])):
        assert "&lt;b&gt;" in page and "<b></" not in page


def test_table_has_each_tokens_best_match_and_the_sums(alignments):
    table = widgets.token_table(alignments, ["one", "two"])
    assert "<tr><th>tram</th><td>tram 0.90</td><td>bus 0.50</td></tr>" in table
    assert "<b>1.30</b>" in table and "<b>0.25</b>" in table


def test_shell_follows_the_menus(alignments):
    document, token, view = TokenMatches(alignments, ["one", "two"]).shell().children
    assert view.value == widgets.token_view(alignments, TokenState())
    token.value = 1
    assert view.value == widgets.token_view(alignments, TokenState(0, 1))
    document.value = 1
    assert view.value == widgets.token_view(alignments, TokenState(1, 1))


def test_saved_page_keeps_a_table_beside_the_widget(alignments, monkeypatch):
    bundle = TokenMatches(alignments, ["one", "two"])._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle and "<table>" in bundle["text/html"]
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert set(TokenMatches(alignments, ["one", "two"])._repr_mimebundle_()) == {"text/plain", "text/html"}


@pytest.mark.parametrize("names", [[], ["one"]])
def test_names_must_fit_the_documents(alignments, names, lang):
    words = {"en": f"2 alignments with {len(names)} names", "zh": f"2 个对齐结果，{len(names)} 个名称"}
    with pytest.raises(ValueError, match=words[lang]):
        TokenMatches(alignments, names)


def test_choosing_what_is_not_there_fails(alignments):
    with pytest.raises(IndexError):
        widgets.token_view(alignments, TokenState(5))
