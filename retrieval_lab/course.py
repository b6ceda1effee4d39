"""What a notebook needs around its lesson: set-up in the reader's language, and checks of exercises that never stop a run.
Used by every lesson.
"""

import os
import warnings
from collections.abc import Callable

import numpy as np

from retrieval_lab.profiles import current, device, say


def setup(lang: str) -> None:
    """Fix language, seed and figure fonts for this kernel and say in one line what the run will be.

    Parameters
    ----------
    lang : "en" or "zh", the language of the notebook

    Raises
    ------
    ValueError
        If the language or the profile named in the environment is not known.
    """
    os.environ["RETRIEVAL_LAB_LANG"] = lang
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    profile = current()

    import pandas
    import torch
    from transformers import set_seed

    from retrieval_lab import plots

    set_seed(0)
    plots.style()
    pandas.set_option("display.max_colwidth", None)  # whole questions in tables
    # tqdm without ipywidgets says so at every bar; a text bar is what a saved page can show anyway.
    warnings.filterwarnings("ignore", message="IProgress not found", module="tqdm")
    line = f"torch {torch.__version__.split('+')[0]}, {device()}, {torch.get_num_threads()} threads"
    print(say(en=f"profile {profile.name.upper()} · {line}", zh=f"运行档位 {profile.name.upper()} · {line}"))


def check(name: str, answer: Callable, expected, tolerance: float = 1e-5) -> None:
    """Compare what an exercise returns with what it should return; print the verdict and never raise.

    Parameters
    ----------
    name : how the exercise calls the thing
    answer : a function without arguments, so that an error inside the learner's code is caught too
    expected : number, string, list, dict of numbers, array or tensor
    tolerance : largest allowed difference of numbers

    >>> check("two", lambda: 1 + 1, 2)
    two: right ✓
    """
    print(_verdict(name, *_judge(answer, expected, tolerance)))


def _judge(answer: Callable, expected, tolerance: float) -> tuple[bool, str]:
    """Whether the answer is right, and if not, why."""
    try:
        found = answer()
        parts = found if isinstance(found, list | tuple) else [found]
        if any(part is None or part is ... for part in parts):
            return False, say(en="Replace the ... by your code.", zh="把 ... 换成你的代码。")
        if _equal(found, expected, tolerance):
            return True, ""
        given, wanted = _short(found), _short(expected)
    except Exception as problem:  # whatever a learner's code or value raises is shown to the learner
        return False, f"{type(problem).__name__}: {problem}"
    return False, say(en=f"got {given}, expected {wanted}", zh=f"得到 {given}，应为 {wanted}")


def _verdict(name: str, right: bool, why: str) -> str:
    if right:
        return say(en=f"{name}: right ✓", zh=f"{name}：正确 ✓")
    return say(en=f"{name}: not yet. {why}", zh=f"{name}：还不对。{why}")


def _equal(found, expected, tolerance: float) -> bool:
    if isinstance(expected, dict):
        same_keys = isinstance(found, dict) and found.keys() == expected.keys()
        return same_keys and all(_equal(found[key], value, tolerance) for key, value in expected.items())
    if isinstance(expected, str):
        return isinstance(found, str) and found == expected
    try:
        found, expected = _array(found), _array(expected)
    except (TypeError, ValueError):  # not numbers
        found, expected = np.asarray(found, dtype=object), np.asarray(expected, dtype=object)
        return found.shape == expected.shape and bool(np.all(found == expected))
    return found.shape == expected.shape and bool(np.allclose(found, expected, atol=tolerance, rtol=0))


def _array(value) -> np.ndarray:
    return np.asarray(value.detach().cpu().double() if hasattr(value, "detach") else value, dtype=float)


def _short(value) -> str:
    text = repr(value.tolist() if hasattr(value, "tolist") else value)
    return text if len(text) <= 80 else text[:77] + "..."
