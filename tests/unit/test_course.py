"""Exercise checks: right, wrong, broken, and never a stop."""

import numpy as np
import pandas as pd
import pytest
import torch

from retrieval_lab import course

RIGHT = {
    "number": (lambda: 0.1 + 0.2, 0.3),
    "string": (lambda: "tram", "tram"),
    "flag": (lambda: np.bool_(True), True),
    "list": (lambda: [1.0, 2.0], [1, 2]),
    "array for list": (lambda: np.array([1, 2]), [1, 2]),
    "tensor with gradient": (lambda: torch.ones(2, requires_grad=True), [1, 1]),
    "half precision": (lambda: torch.tensor([1.0, 2.0], dtype=torch.bfloat16), torch.tensor([1.0, 2.0])),
    "list of tensors": (lambda: [torch.tensor(1.0), torch.tensor(2.0)], [1, 2]),
    "words": (lambda: ["a", "b"], ["a", "b"]),
    "array of words": (lambda: np.array(["a", "b"]), ["a", "b"]),
    "dict": (lambda: {"a": 0.5, "b": [1]}, {"b": [1.0], "a": 0.5}),
    "series": (lambda: pd.Series([1, 2]), [1, 2]),
    "set": (lambda: {"a", "b"}, {"b", "a"}),
}

WRONG = {
    "number": (lambda: 0.3001, 0.3),
    "shape": (lambda: [1, 1], 1),
    "broadcast": (lambda: np.array(["a", "a"]), "a"),
    "array for flag": (lambda: np.array([True, False]), True),
    "missing key": (lambda: {"a": 1}, {"a": 1, "b": 2}),
    "no dict": (lambda: 1, {"a": 1}),
    "not a number": (lambda: float("nan"), 1.0),
    "words": (lambda: np.array(["a", "b"]), ["a", "c"]),
    "ragged": (lambda: [[1], [2, 3]], [[1], [2]]),
    "table": (lambda: pd.DataFrame({"a": ["x", "y"]}), [1, 2]),
    "table for string": (lambda: pd.DataFrame({"a": ["x", "y"]}), "x"),
    "function": (lambda: len, 3),
    "string for number": (lambda: "tram", 3),
    "dict for number": (lambda: {}, 3),
}


class Hostile:
    """Raises whatever is done with it."""

    def __repr__(self, *_, **__):
        raise RuntimeError("no repr")

    __eq__ = __array__ = __len__ = __float__ = __repr__
    __hash__ = None


@pytest.mark.parametrize("case", RIGHT)
def test_right_answer_is_called_right(case, lang, capsys):
    course.check("mean", *RIGHT[case])
    assert capsys.readouterr().out == {"en": "mean: right ✓\n", "zh": "mean：正确 ✓\n"}[lang]


@pytest.mark.parametrize("case", WRONG)
def test_wrong_answer_is_called_wrong(case, lang, capsys):
    course.check("mean", *WRONG[case])
    assert capsys.readouterr().out.startswith({"en": "mean: not yet. ", "zh": "mean：还不对。"}[lang])


@pytest.mark.parametrize("found", [None, ..., [None, 1.0]])
def test_unfilled_answer_is_told_what_to_do(found, lang, capsys):
    course.check("mean", lambda: found, 1)
    assert {"en": "not yet. Replace the ... by your code.", "zh": "还不对。把 ... 换成你的代码。"}[
        lang
    ] in capsys.readouterr().out


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), KeyError("a"), RecursionError(), AssertionError("no")])
def test_error_of_the_learners_code_is_shown_and_not_raised(error, lang, capsys):
    def answer():
        raise error

    course.check("mean", answer, 1)
    assert type(error).__name__ in capsys.readouterr().out


def test_value_that_cannot_be_compared_or_shown_does_not_raise(lang, capsys):
    course.check("mean", Hostile, 1)
    course.check("mean", lambda: 2, Hostile())
    assert "RuntimeError: no repr" in capsys.readouterr().out


def test_wrong_answer_shows_both_values_cut_to_a_line(capsys):
    course.check("mean", lambda: list(range(1000)), [0.5])
    out = capsys.readouterr().out
    assert out.startswith("mean: not yet. got [0, 1, 2,") and out.endswith("..., expected [0.5]\n") and len(out) < 200


def test_tolerance_is_absolute(capsys):
    course.check("m", lambda: 100.4, 100, tolerance=0.5)
    course.check("n", lambda: 100.6, 100, tolerance=0.5)
    assert capsys.readouterr().out == "m: right ✓\nn: not yet. got 100.6, expected 100\n"


def test_check_returns_nothing_so_that_a_cell_shows_only_the_verdict():
    assert course.check("m", lambda: 1, 1) is None


@pytest.mark.parametrize("lang, words", [("en", "profile SMOKE · torch "), ("zh", "运行档位 SMOKE · torch ")])
def test_setup_says_in_one_line_what_the_run_will_be(lang, words, capsys, monkeypatch):
    monkeypatch.setenv("RETRIEVAL_LAB_LANG", "en")  # so that the change below is undone
    course.setup(lang)
    assert words in capsys.readouterr().out.splitlines()[-1]


def test_setup_fixes_the_seed(capsys, monkeypatch):
    monkeypatch.setenv("RETRIEVAL_LAB_LANG", "en")
    draws = []
    for _ in range(2):
        course.setup("en")
        draws.append((torch.rand(3).tolist(), np.random.rand(3).tolist()))
    assert draws[0] == draws[1]


def test_setup_refuses_an_unknown_language(monkeypatch):
    monkeypatch.setenv("RETRIEVAL_LAB_LANG", "en")
    with pytest.raises(ValueError, match="language 'fr' is not known"):
        course.setup("fr")
