"""Every lesson runs from top to bottom, in a fresh kernel, in profile SMOKE.

One language stands for both where `lessons.py check` has proved the code cells equal; lesson 01 runs in Chinese too, on the other model.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from retrieval_lab import corpus_check

ROOT = Path(__file__).resolve().parents[2]
REGISTER = tomllib.loads((ROOT / "notebooks" / "lessons.toml").read_text(encoding="utf-8"))
RUNS = [(lesson["id"], "en") for lesson in REGISTER["lesson"]] + [("01", "zh")]


@pytest.mark.parametrize(("lesson", "lang"), RUNS)
def test_lesson_runs_from_top_to_bottom(lesson, lang, tmp_path):
    command = [
        sys.executable,
        "notebooks/lessons.py",
        "run",
        lesson,
        "--profile",
        "smoke",
        "--lang",
        lang,
        "--out",
        tmp_path,
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_sources_translations_and_generated_notebooks_agree():
    result = subprocess.run([sys.executable, "notebooks/lessons.py", "check"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_generated_data_agrees_with_its_sources():
    result = subprocess.run([sys.executable, "data/build.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_shipped_corpus_passes_every_quick_check():
    table = corpus_check.run(quick=True)
    assert table["ok"].all(), table[~table["ok"]].to_string()
