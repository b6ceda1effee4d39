"""The corpus' promise on real weights: a few hundred questions raise the encoder by more than luck, shuffled ones do not."""

from retrieval_lab import corpora, corpus_check


def test_english_corpus_passes_the_checks_that_train(monkeypatch):
    monkeypatch.setenv("RETRIEVAL_LAB_PROFILE", "fast")
    splits = {split: corpora.load("city_services", "en", split) for split in ("train", "dev", "test")}
    failed = [row for row in corpus_check._dense(splits) if not row[-1]]
    assert not failed
