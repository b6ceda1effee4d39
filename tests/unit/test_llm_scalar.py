"""The decoder reranker with a head: formats, and the token it is read at, for every kind of padding and end token."""

import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder

from retrieval_lab import llm, llm_lora, llm_scalar, tiny
from retrieval_lab.training import Config

LONG = "the tram runs every ten minutes. " * 40
PAIRS = [("tram", "every ten minutes"), ("{x} %s", "在 {}"), ("", ""), ("pool", LONG), ("a</s>", "b<|im_end|>")]


def folder(path, architecture="llama", **options):
    return tiny.chat_folder(architecture, path, tiny.chat_tokenizer(**options))


def by_hand(model, text: str) -> np.ndarray:
    """One row, no padding: the head on the hidden state of the very last token."""
    ids = torch.tensor([model.tokenizer(text, add_special_tokens=False)["input_ids"]])
    decoder = model[0].model
    with torch.no_grad():
        states = decoder.base_model(ids).last_hidden_state
        return decoder.score(states[0, -1]).numpy()


CASES = list(itertools.product(["<|endoftext|>", "<|im_end|>", None], [False, True], [None, "</s>", "<|im_end|>", "!"]))


@pytest.mark.parametrize(("pad", "bos", "special"), CASES)
def test_head_reads_the_special_token_whatever_pads(tmp_path, pad, bos, special):
    model = llm_scalar.load(folder(tmp_path, pad=pad, bos=bos), special_token=special)
    texts = ["query: tram document: every ten minutes", "query: {x} %s document: 在 {}", "query:  document: "]
    end, start = special or "<|im_end|>", "<|im_start|>" if bos else ""
    expected = [by_hand(model, start + text + end)[0] for text in texts]
    np.testing.assert_allclose(llm.score(model, PAIRS[:3]), expected, atol=1e-5)
    for side in ("left", "right"):
        model.tokenizer.padding_side = side
        np.testing.assert_allclose(model.predict(PAIRS[:3]), expected, atol=1e-5)


@pytest.mark.parametrize("special", [None, "</s>", "<|im_end|>", "!"])
def test_special_token_is_one_token_and_not_the_padding(tmp_path, special):
    model = llm_scalar.load(folder(tmp_path, pad="<|im_end|>"), special_token=special)
    ids = llm.prompt_ids(model, PAIRS)
    end = model.tokenizer.convert_tokens_to_ids(special or "<|im_end|>")
    assert {row[-1] for row in ids} == {end}
    assert [row.count(end) for row in ids] == [1] * len(PAIRS)  # also where a text holds it
    assert end != model.tokenizer.pad_token_id == model[0].model.config.pad_token_id


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma"])
@pytest.mark.parametrize("budget", [1, 200, 10**6])
def test_score_equals_the_librarys_predict(tmp_path, architecture, budget):
    model = llm_scalar.load(folder(tmp_path, architecture), max_seq_length=128)
    np.testing.assert_allclose(llm.score(model, PAIRS, budget), model.predict(PAIRS, batch_size=1), atol=1e-5)


def test_long_document_is_cut_and_the_special_token_stays(tmp_path):
    model = llm_scalar.load(folder(tmp_path), max_seq_length=64, special_token="</s>")
    text = model.tokenizer.decode(llm.prompt_ids(model, [("pool", LONG)])[0])
    assert text.startswith("query: pool document: the tram runs") and text.endswith("</s>")


def test_long_document_that_comes_first_is_cut_at_its_end(tmp_path):
    model = llm_scalar.load(folder(tmp_path), document_first=True, max_seq_length=64)
    text = model.tokenizer.decode(llm.prompt_ids(model, [("pool", LONG)])[0])
    assert text.startswith("document: the tram runs") and text.endswith(" query: pool<|im_end|>")


@pytest.mark.parametrize(("first", "text"), [(False, "Q=a  | [b]</s>"), (True, "[b] | Q=a </s>")])
def test_formats_are_used_saved_and_restored(tmp_path, first, text):
    own = {"query_format": "Q={} ", "document_format": "[{}]", "seq": " | ", "special_token": "</s>"}
    own |= {"document_first": first}
    model = llm_scalar.load(folder(tmp_path / "base"), **own)
    assert model.tokenizer.decode(llm.prompt_ids(model, [("a", "b")])[0]) == text
    model.save_pretrained(str(tmp_path / "saved"))
    plain, again = CrossEncoder(str(tmp_path / "saved"), device="cpu"), llm_scalar.load(tmp_path / "saved")
    assert llm_scalar.formats(again) == own
    expected = llm.score(model, PAIRS)
    same = [
        i for i, (_, document) in enumerate(PAIRS) if not first or document != LONG
    ]  # there the library cuts elsewhere
    np.testing.assert_allclose(plain.predict([PAIRS[i] for i in same], batch_size=3), expected[same], atol=1e-5)
    np.testing.assert_allclose(llm.score(again, PAIRS), expected, atol=1e-5)


def test_several_outputs(tmp_path):
    model = llm_scalar.load(folder(tmp_path), num_labels=3)
    assert llm.score(model, PAIRS).shape == (5, 3)
    np.testing.assert_allclose(llm.score(model, PAIRS), model.predict(PAIRS, batch_size=1), atol=1e-5)


def test_fresh_head_is_the_same_for_a_seed(tmp_path):
    path = folder(tmp_path)
    one, same, other = (llm.score(llm_scalar.load(path, seed=seed), PAIRS) for seed in (0, 0, 1))
    assert (one == same).all() and np.abs(one - other).max() > 1e-4


@pytest.mark.parametrize("field", ["query_format", "document_format"])
@pytest.mark.parametrize("text", ["query: ", "{} and {}", "{x}"])
def test_format_that_would_lose_the_text_is_refused(tmp_path, lang, field, text):
    words = {"en": f"{field}=.* must hold {{}} exactly once", "zh": f"{field}=.*必须恰好有一个"}
    with pytest.raises(ValueError, match=words[lang]):
        llm_scalar.load(folder(tmp_path), **{field: text})


def test_model_without_an_end_token_needs_a_special_token(tmp_path, lang):
    tokenizer = tiny.chat_tokenizer()
    tokenizer.eos_token = None
    path = tiny.chat_folder("llama", tmp_path, tokenizer)
    with pytest.raises(
        ValueError, match={"en": "no end-of-text token; give special_token", "zh": "没有文本结束词元"}[lang]
    ):
        llm_scalar.load(path)
    assert llm_scalar.formats(llm_scalar.load(path, special_token="</s>"))["special_token"] == "</s>"


def test_lora_trains_adapters_and_head_and_merges_to_the_same_scores(tmp_path):
    words = [f"{a}{b}" for a in "abcdefgh" for b in "pq"]
    labels = [1.0] * 16 + [0.0] * 16
    data = Dataset.from_dict({"query": words * 2, "document": words + words[::-1], "label": labels})
    model = llm_scalar.load(folder(tmp_path / "base"))
    head = model[0].model.score.weight.detach().clone()
    settings = {"per_device_train_batch_size": 8, "learning_rate": 3e-3, "use_lora": True, "lora_r": 4}
    llm.train(model, data, Config(output_dir=str(tmp_path / "run"), num_train_epochs=2, **settings))
    expected = llm.score(model, PAIRS)
    llm_lora.merge(model).save_pretrained(str(tmp_path / "saved"))
    assert (model[0].model.score.weight - head).abs().max() > 1e-3
    np.testing.assert_allclose(llm.score(model, PAIRS), expected, atol=1e-5)
    np.testing.assert_allclose(CrossEncoder(str(tmp_path / "saved"), device="cpu").predict(PAIRS), expected, atol=1e-5)
