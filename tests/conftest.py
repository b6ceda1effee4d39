"""Settings of all tests: English, the smallest profile, no progress bars, no hub."""

import os
import tempfile

SETTINGS = {
    "RETRIEVAL_LAB_QUIET": "1",
    "RETRIEVAL_LAB_LANG": "en",
    "RETRIEVAL_LAB_PROFILE": "smoke",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
    "RETRIEVAL_LAB_RUNS": tempfile.mkdtemp(prefix="retrieval-lab-runs-"),  # the reader's own run log stays as it is
}
os.environ.update(SETTINGS)  # before a test imports a library that reads them once

import pytest  # noqa: E402

from retrieval_lab.corpora import Collection  # noqa: E402


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """Every test starts from the same environment, whatever the one before it set."""
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def chinese(settings, monkeypatch):
    """Messages in Chinese."""
    monkeypatch.setenv("RETRIEVAL_LAB_LANG", "zh")


@pytest.fixture(params=["en", "zh"])
def lang(request, settings, monkeypatch):
    """The test runs once in each language; the value is the language."""
    monkeypatch.setenv("RETRIEVAL_LAB_LANG", request.param)
    return request.param


@pytest.fixture
def config(tmp_path):
    """A maker of settings for short training runs at a constant rate, which a loop written by hand can follow."""
    from retrieval_lab.training import Config

    short = {
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 8,
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0,
    }
    return lambda **changes: Config(output_dir=str(tmp_path / "run"), **(short | changes))


@pytest.fixture
def harbour():
    """Four documents, three queries, graded."""
    corpus = {
        "tram": "the tram leaves every ten minutes",
        "ferry": "the ferry crosses the river every hour",
        "pool": "the pool opens at seven, and the river bath at nine",
        "library": "books are lent for three weeks",
    }
    queries = {"q1": "when does the tram leave", "q2": "crossing the river", "q3": "lending books"}
    qrels = {"q1": {"tram": 3}, "q2": {"ferry": 3, "pool": 1}, "q3": {"library": 3}}
    details = {"q1": {"type": "plain", "nicknames": []}, "q2": {"type": "paraphrase", "nicknames": ["ferry"]}}
    return Collection("harbour", "en", "test", "CC0", corpus, queries, qrels, details, relevant=2)
