"""The demo on random weights: every row, every file, and models that later lessons find again."""

from dataclasses import replace

import numpy as np
import pytest

from retrieval_lab import demo, embedding, profiles, reranker, tiny


@pytest.fixture(autouse=True)
def tiny_profile(settings, monkeypatch, tmp_path):
    """SMOKE with a random encoder, and a cache of its own."""
    tiny.encoder().save_pretrained(str(tmp_path / "encoder"))
    small = replace(
        profiles.PROFILES["smoke"], encoders=(str(tmp_path / "encoder"),) * 2, n_train=8, n_lists=8, n_queries=6
    )
    monkeypatch.setitem(profiles.PROFILES, "smoke", small)
    monkeypatch.setenv("RETRIEVAL_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_demo_measures_each_stage_and_keeps_both_models(tmp_path, lang, capsys):
    table = demo.run(lang, tmp_path / "out")
    rows = {
        "en": ["BM25", "zero-shot", "fine-tuned", "retriever + cross-encoder", "cross-encoder alone"],
        "zh": ["BM25", "零样本", "微调后", "检索器 + 交叉编码器", "只用交叉编码器"],
    }
    assert list(table.index) == rows[lang]
    assert {"en": "done", "zh": "完成"}[lang] in capsys.readouterr().out
    assert (tmp_path / "out" / "table.csv").is_file() and (tmp_path / "out" / "figure.png").is_file()
    assert embedding.load(tmp_path / "out" / "model").encode("tram").shape == (32,)
    assert reranker.score(reranker.load(tmp_path / "out" / "reranker"), [("a", "b")]).shape == (1,)


def test_models_of_the_lessons_are_trained_once(monkeypatch):
    trained = []
    for family in (embedding, reranker):
        original = family.train

        def counted(model, *args, family=family, original=original, **options):
            trained.append(family.__name__)
            return original(model, *args, **options)

        monkeypatch.setattr(family, "train", counted)
    pairs = [("tram", "every ten minutes"), ("tram", "ferry")]
    first = reranker.score(demo.reranker("en"), pairs)
    np.testing.assert_array_equal(reranker.score(demo.reranker("en"), pairs), first)
    demo.retriever("en")
    assert trained == ["retrieval_lab.embedding", "retrieval_lab.reranker"]


def test_reranker_starts_from_the_retrievers_weights():
    """One short run moves them little; another start would be far away."""
    weights = demo.retriever("en")[0].auto_model.state_dict()
    tuned = demo.reranker("en").model.state_dict()
    name = "encoder.layer.0.attention.self.query.weight"
    assert (weights[name] - tuned[name]).abs().mean() < 0.1 * weights[name].abs().mean()
