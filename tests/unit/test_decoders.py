"""Pooling against loops under padding on either side, and decoder LLMs as encoders: end token, prompts, adapters."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoModel, AutoTokenizer

from retrieval_lab import decoders, embedding, llm, llm_lora, llm_scalar, reranker, tiny
from retrieval_lab.training import Config

PROMPTS = {"query": "Instruct: find\nQuery: ", "document": ""}
TEXTS = ["tram", "the ferry to the north pier", "", "a b c " * 30]
BY_HAND = {
    "cls": lambda rows: rows[0],
    "mean": lambda rows: sum(rows) / len(rows),
    "lasttoken": lambda rows: rows[-1],
    "weightedmean": lambda rows: sum((i + 1) * row for i, row in enumerate(rows)) / sum(range(1, len(rows) + 1)),
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", BY_HAND)
def test_pooling_equals_a_loop_over_the_real_tokens(pooling, side):
    lengths, width = [1, 3, 5], 5
    tokens = torch.randn(3, width, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * n + [0] * (width - n) for n in lengths])
    mask = mask.flip(1) if side == "left" else mask
    found = Pooling(4, pooling)({"token_embeddings": tokens, "attention_mask": mask})["sentence_embedding"]
    for i in range(3):
        real = [tokens[i, j] for j in range(width) if mask[i, j]]
        torch.testing.assert_close(found[i], BY_HAND[pooling](real))


@pytest.mark.parametrize("pooling", BY_HAND)
def test_pooling_is_saved_and_does_not_see_batch_mates(tmp_path, pooling):
    model = embedding.load(tiny.folder("bert", tmp_path / "plain"), pooling)
    alone = np.stack([model.encode(text) for text in TEXTS])
    np.testing.assert_allclose(model.encode(TEXTS), alone, atol=1e-5)
    model.save_pretrained(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert again[1].pooling_mode == pooling
    np.testing.assert_allclose(again.encode(TEXTS), alone, atol=1e-5)


@pytest.fixture(params=["llama", "qwen2"])
def folder(request, tmp_path):
    return tiny.chat_folder(request.param, tmp_path / "plain")


@pytest.fixture
def model(folder):
    return embedding.load(folder, "lasttoken", prompts=PROMPTS)


@pytest.mark.parametrize("pooling", BY_HAND)
def test_text_is_read_without_the_chat_template_whatever_pools(folder, pooling):
    model, tokenizer = embedding.load(folder, pooling), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("tram")["input_ids"] + [tokenizer.eos_token_id] * (pooling == "lasttoken")
    assert model.preprocess(["tram"])["input_ids"].tolist() == [ids]
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder)(torch.tensor([ids])).last_hidden_state[0]
    np.testing.assert_allclose(model.encode("tram"), BY_HAND[pooling](states), atol=1e-5)


@pytest.mark.parametrize("pooling", BY_HAND)
def test_tokenizer_without_a_padding_token_encodes_several_texts_as_each_alone(tmp_path, pooling):
    text = tiny.chat_tokenizer()
    text.pad_token = None
    model = embedding.load(tiny.chat_folder("llama", tmp_path / "plain", text), pooling)
    texts = [text for text in TEXTS if text]  # without a token there is nothing to pool
    alone = np.stack([model.encode(text) for text in texts])
    np.testing.assert_allclose(model.encode(texts), alone, atol=1e-5)
    model.save_pretrained(str(tmp_path / "saved"))
    np.testing.assert_allclose(
        SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(texts), alone, atol=1e-5
    )


def test_vector_is_the_state_of_the_end_token_after_the_prompt(folder, model):
    tokenizer, bare = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    ids = tokenizer(PROMPTS["query"] + "tram")["input_ids"] + [tokenizer.eos_token_id]
    with torch.no_grad():
        expected = bare(torch.tensor([ids])).last_hidden_state[0, -1]
    np.testing.assert_allclose(model.encode_query("tram"), expected, atol=1e-5)


@pytest.mark.parametrize("pad", ["<|endoftext|>", "<|im_end|>"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_vector_does_not_depend_on_padding_even_where_padding_is_the_end_token(tmp_path, pad, side):
    text = tiny.chat_tokenizer(pad=pad)
    model = embedding.load(tiny.chat_folder("llama", tmp_path, text), "lasttoken")
    model.tokenizer.padding_side = side
    alone = np.stack([model.encode(t) for t in TEXTS])
    np.testing.assert_allclose(model.encode(TEXTS), alone, atol=1e-5)


def test_end_token_survives_truncation_and_saving(model, tmp_path):
    end = model.tokenizer.eos_token_id
    model.max_seq_length = 8
    assert model.tokenizer("tram " * 50, truncation=True, max_length=8)["input_ids"][-1] == end
    model.save_pretrained(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert again.tokenizer("tram")["input_ids"].count(end) == 1 and again.prompts == PROMPTS
    for call in ("encode_query", "encode_document"):
        np.testing.assert_allclose(getattr(again, call)(TEXTS), getattr(model, call)(TEXTS), atol=1e-5)


def test_start_token_of_the_tokenizer_is_kept(tmp_path):
    model = embedding.load(tiny.chat_folder("llama", tmp_path, tiny.chat_tokenizer(bos=True)), "lasttoken")
    ids = model.tokenizer("a")["input_ids"]
    assert ids[0] == model.tokenizer.bos_token_id and ids[-1] == model.tokenizer.eos_token_id and len(ids) == 3


def test_end_token_is_not_added_twice():
    tokenizer = tiny.tokenizer()  # ends on [SEP], which is its end token
    before = tokenizer("a")["input_ids"]
    decoders.append_eos(tokenizer)
    assert tokenizer("a")["input_ids"] == before
    chat = tiny.chat_tokenizer()
    decoders.append_eos(chat)
    decoders.append_eos(chat)
    assert chat("a")["input_ids"].count(chat.eos_token_id) == 1


def test_tokenizer_without_an_end_token_is_refused(lang):
    tokenizer = tiny.chat_tokenizer()
    tokenizer.eos_token = None
    words = {"en": "no end-of-sequence token, and last-token pooling needs one", "zh": "分词器没有结束符"}
    with pytest.raises(ValueError, match=words[lang]):
        decoders.append_eos(tokenizer)


def test_adapter_alone_is_trained_and_the_merged_model_equals_it(model, tmp_path):
    rows = Dataset.from_dict({"query": list("abcdefgh"), "positive": [f"{c} {c}" for c in "abcdefgh"]})
    settings = {"use_lora": True, "max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    before, untouched = model.encode(TEXTS), {n: p.clone() for n, p in model.named_parameters()}
    embedding.train(model, rows, Config(output_dir=str(tmp_path / "run"), **settings))
    for name, tensor in model.named_parameters():
        if "lora_" not in name:
            torch.testing.assert_close(tensor, untouched[name.replace(".base_layer", "")], rtol=0, atol=0)
    adapted = model.encode(TEXTS)
    assert np.abs(adapted - before).max() > 1e-3
    llm_lora.merge(model).save_pretrained(str(tmp_path / "saved"))
    np.testing.assert_allclose(model.encode(TEXTS), adapted, atol=1e-4)
    np.testing.assert_allclose(
        SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(TEXTS), adapted, atol=1e-4
    )


def test_first_weights_of_adapters_follow_the_seed(folder, tmp_path):
    rows = Dataset.from_dict({"query": list("abcd"), "positive": list("efgh")})

    def trained(seed):
        torch.manual_seed(hash(seed) % 1000 + 7)
        settings = Config(output_dir=str(tmp_path / "run"), use_lora=True, max_steps=2, learning_rate=1e-2, seed=seed)
        return embedding.train(embedding.load(folder, "lasttoken"), rows, settings).encode("tram")

    np.testing.assert_array_equal(trained(1), trained(1))
    assert np.abs(trained(1) - trained(2)).max() > 0


def test_decoder_is_told_from_an_encoder_however_it_was_saved(tmp_path):
    causal, encoder = tiny.chat_folder("llama", tmp_path / "causal"), tiny.folder("bert", tmp_path / "encoder")
    saved = {
        "answers": llm.load(causal),
        "head": llm_scalar.load(causal),
        "retriever": tiny.encoder(),
        "reranker": reranker.load(encoder),
    }
    for name, model in saved.items():
        model.save_pretrained(str(tmp_path / name))
    found = {name: decoders.is_decoder(tmp_path / name) for name in ("causal", "encoder", *saved)}
    expected = {"causal": True, "encoder": False, "answers": True, "head": True, "retriever": False, "reranker": False}
    assert found == expected


def test_model_without_a_pooling_is_told_from_one_that_needs_none(tmp_path):
    saved = {"whole": tiny.encoder(), "lone": SentenceTransformer(modules=[tiny.encoder()[0]])}
    for name, model in saved.items():
        model.save_pretrained(str(tmp_path / name))
    tiny.folder("bert", tmp_path / "plain")
    found = {name: decoders.only_transformer(tmp_path / name) for name in ("whole", "lone", "plain")}
    assert found == {"whole": False, "lone": True, "plain": False}
    file = tmp_path / "lone" / "sentence_bert_config.json"
    file.write_text('{"module_output_name": "sentence_embedding"}', encoding="utf-8")
    assert not decoders.only_transformer(tmp_path / "lone")
