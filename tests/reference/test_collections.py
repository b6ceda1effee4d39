"""BM25 on two public sets against published and independently measured values; skipped where the sets are not at hand."""

import os
from pathlib import Path

import pytest

from retrieval_lab import corpora, lexical, metrics

BESIDE = Path(__file__).parents[2].parent / "shared" / "datasets"
DATA = Path(os.environ.get("RETRIEVAL_LAB_DATA") or BESIDE)


@pytest.mark.parametrize(
    "name, split, low, high", [("scifact", "test", 0.67, 0.69), ("xquad-r-zh", "test", 0.80, 0.83)]
)
def test_bm25_reaches_the_known_ndcg(name, split, low, high, monkeypatch):
    if not (DATA / "beir" / name / "corpus.jsonl").is_file():
        pytest.skip(f"no {name} in {DATA / 'beir'}; set RETRIEVAL_LAB_DATA")
    monkeypatch.setenv("RETRIEVAL_LAB_DATA", str(DATA))
    collection = corpora.load(name, split=split)
    found = metrics.evaluate(collection.qrels, lexical.BM25(collection).search(collection.queries, 100), ["nDCG@10"])
    assert low <= found["nDCG@10"] <= high
