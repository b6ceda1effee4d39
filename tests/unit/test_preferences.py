"""Scores by a language model's preference, against the loss that transformers itself computes."""

import numpy as np
import pytest
import torch

from retrieval_lab import preferences, tiny

PAIRS = [
    ("when does the tram leave", "the tram"),
    ("渡轮", "the ferry crosses the river every hour"),
    ("pool", "x"),
]


@pytest.fixture(scope="module")
def lm():
    return tiny.causal_lm()


def by_transformers(model, tokenizer, query, document, prefix="\nQuestion: ", max_length=160):
    passage = tokenizer(document, truncation=True, max_length=max_length)["input_ids"]
    assert passage.pop() == tokenizer.eos_token_id  # this tokenizer ends every text; the question goes on
    question = tokenizer(prefix + query, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([passage + question])
    labels = torch.tensor([[-100] * len(passage) + question])
    with torch.no_grad():
        return -model(input_ids=ids, labels=labels).loss.item()


def test_score_is_the_negative_loss_of_the_query_whatever_its_batch_mates(lm):
    expected = [by_transformers(*lm, query, document) for query, document in PAIRS]
    np.testing.assert_allclose(preferences.score(*lm, PAIRS), expected, atol=1e-5)
    np.testing.assert_allclose([preferences.score(*lm, [pair])[0] for pair in PAIRS], expected, atol=1e-5)


def test_prefix_and_length_are_used_and_the_query_is_never_cut(lm):
    query, document = "a long question about the tram", "the ferry crosses"
    expected = by_transformers(*lm, query, document, "\n问题：", 5)
    found = preferences.score(*lm, [(query, document)], prefix="\n问题：", max_length=5)
    assert found[0] == pytest.approx(expected, abs=1e-5)


def test_nothing_to_score_gives_nothing(lm):
    assert preferences.score(*lm, []).shape == (0,)


@pytest.mark.parametrize("pairs", [["ab", "cd"], [("a", "b", "c")]])
def test_what_is_no_pair_is_refused(lm, pairs, lang):
    with pytest.raises(
        ValueError,
        match={"en": "give .query, document., both strings", "zh": "应为 .查询, 文档.，两个都是字符串"}[lang],
    ):
        preferences.score(*lm, pairs)


def test_pair_without_a_token_to_score_is_refused(lm, lang):
    words = {
        "en": "pair 1: prefix and query together have no token",
        "zh": "第 1 对：prefix 和查询合起来没有可打分的词元",
    }
    with pytest.raises(ValueError, match=words[lang]):
        preferences.score(*lm, [("tram", "x"), ("", "x")], prefix="")
    assert np.isfinite(preferences.score(*lm, [("", "x")])).all()


def test_passage_that_holds_the_answer_is_preferred_by_a_real_model():
    lm = preferences.load("smollm2")
    question = "How much does a day ticket for the open-air pool cost?"
    passages = [
        "A day ticket for the open-air pool costs 6 crowns.",
        "Ship's logs are kept in the archive's second cellar.",
    ]
    right, wrong = preferences.score(*lm, [(question, passage) for passage in passages])
    assert right > wrong
