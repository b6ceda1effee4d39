"""The Yes/No reranker on real weights: numbers by hand, words that split, a document longer than the room."""

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoModelForCausalLM, AutoTokenizer

from retrieval_lab import llm, models

PAIR = ("When does the pool open?", "The pool\nIt opens at seven.")
PAIRS = [PAIR, ("tram {x} %s", "The tram runs every ten minutes. " * 60), ("", "")]


@pytest.fixture(scope="module")
def model():
    return llm.load("smollm2", "en", max_seq_length=128)


def test_logits_by_hand_match_the_score(model):
    folder = models.resolve("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = (
        "<|im_start|>system\nDoes the document answer the query? Say Yes or No.<|im_end|>\n<|im_start|>user\n"
        f"Query: {PAIR[0]}\nDocument: {PAIR[1]}<|im_end|>\n<|im_start|>assistant\n"
    )
    causal = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = causal(**tokenizer(text, return_tensors="pt")).logits[0, -1]
    yes, no = tokenizer.convert_tokens_to_ids(["Yes", "No"])
    assert llm.score(model, [PAIR])[0] == pytest.approx((logits[yes] - logits[no]).item(), abs=1e-4)


def test_score_equals_predict_for_long_and_strange_texts(model):
    expected = [model.predict([pair])[0] for pair in PAIRS]
    # 1e-4: thirty layers in fp32, and logits of about 20
    np.testing.assert_allclose(llm.score(model, [*PAIRS, *PAIRS, *PAIRS]), expected * 3, atol=1e-4)


def test_chinese_no_is_two_tokens_and_refused_with_advice():
    with pytest.raises(ValueError, match="'否' is 2 tokens .*'Yes', 'No'"):
        llm.load("smollm2", "zh")


def test_saved_model_loads_in_sentence_transformers_alone(model, tmp_path):
    model.save_pretrained(str(tmp_path))
    plain = CrossEncoder(str(tmp_path), device="cpu")
    np.testing.assert_allclose(plain.predict(PAIRS), llm.score(model, PAIRS), atol=1e-4)
