"""Loading, encoding and training, against the library's own encode and against a training loop written out by hand."""

import json
import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from transformers import AutoModel, AutoTokenizer

from retrieval_lab import batching, colbert, embedding, sparse, tiny

PROMPTS = {"query": "query: ", "document": "passage: "}
LONG = "the tram runs every ten minutes. " * 61  # over 2,000 characters
TEXTS = ["tram", "", "在这中国", LONG, "我是 a b，不是 c", "{x} %s {} %d", " ", "ferry to the north pier", "出" * 2000]


@pytest.fixture(scope="module")
def model():
    return tiny.encoder(prompts=PROMPTS)


@pytest.fixture(scope="module", params=["bert", "xlm-roberta", "modernbert"])
def any_model(request):
    return tiny.encoder(request.param, prompts=PROMPTS)


def one_by_one(model, texts, kind):
    call = {"query": model.encode_query, "document": model.encode_document}[kind]
    return np.stack([call(text) for text in texts])


@pytest.mark.parametrize("kind", ["query", "document"])
@pytest.mark.parametrize("budget", [1, 300, 2048])
def test_encode_equals_the_librarys_encode(any_model, kind, budget):
    found = embedding.encode(any_model, TEXTS, kind, budget)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, one_by_one(any_model, TEXTS, kind), atol=1e-5)


@pytest.mark.parametrize("size", [1, 7, 32])
def test_encode_in_batches_of_any_size_gives_the_same_vectors(model, size):
    texts = [f"text {i:02d} 在" for i in range(64)]
    n_tokens = len(model.tokenizer("passage: text 00 在")["input_ids"])
    sizes = []
    hook = model[0].register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0]["input_ids"].shape))
    found = embedding.encode(model, texts, budget=size * n_tokens)
    hook.remove()
    assert max(rows for rows, _ in sizes) == size and all(rows * width <= size * n_tokens for rows, width in sizes)
    np.testing.assert_allclose(found, one_by_one(model, texts, "document"), atol=1e-5)


def test_vector_does_not_depend_on_batch_mates_or_padding(any_model):
    alone = embedding.encode(any_model, ["tram"])[0]
    for mates in (["ferry"], [LONG, "", "在"], ["a"] * 40):
        for place in (0, len(mates)):
            texts = [*mates[:place], "tram", *mates[place:]]
            np.testing.assert_allclose(embedding.encode(any_model, texts, budget=10**6)[place], alone, atol=1e-5)


def test_vectors_come_in_the_order_of_the_texts(model):
    order = random.Random(0).sample(range(len(TEXTS)), len(TEXTS))
    shuffled = embedding.encode(model, [TEXTS[i] for i in order])
    np.testing.assert_allclose(shuffled, embedding.encode(model, TEXTS)[order], atol=1e-5)


@pytest.mark.parametrize("text", ["tram", "{x} and %s", "{}", "query: tram"])
def test_prompt_is_applied_once_and_leaves_the_text_alone(model, text):
    plain = tiny.encoder()  # the same weights without prompts
    for kind, prompt in (("query", "query: "), ("document", "passage: ")):
        found = embedding.encode(model, [text], kind)[0]
        np.testing.assert_allclose(found, plain.encode(prompt + text), atol=1e-6)
        assert np.abs(found - plain.encode(text)).max() > 1e-3
        assert np.abs(found - plain.encode(prompt * 2 + text)).max() > 1e-3


def test_vectors_have_unit_length_even_where_the_model_does_not_normalise(tmp_path):
    bare = embedding.load(tiny.folder("bert", tmp_path), pooling="mean")
    assert np.linalg.norm(bare.encode("tram")) > 1.5
    np.testing.assert_allclose(np.linalg.norm(embedding.encode(bare, TEXTS), axis=1), 1, atol=1e-5)


def test_no_texts_give_no_vectors(model):
    assert embedding.encode(model, []).shape == (0, 32)


def test_one_string_is_refused_instead_of_being_read_by_letter(model, lang):
    with pytest.raises(
        ValueError, match={"en": "texts is one string .*give a list", "zh": "texts 是一个字符串.*要给列表"}[lang]
    ):
        embedding.encode(model, "tram")


def test_unknown_kind_is_refused(model, lang):
    words = {"en": "kind='passage'; use 'query' or 'document'", "zh": "kind='passage'；只能是"}
    with pytest.raises(ValueError, match=words[lang]):
        embedding.encode(model, ["tram"], "passage")


def test_plain_checkpoint_without_pooling_is_refused(tmp_path, lang):
    tiny.folder("bert", tmp_path)
    words = {
        "en": "does not say how its token vectors become one vector; give pooling='cls'",
        "zh": "没有写明怎样把词元向量合成一个向量",
    }
    with pytest.raises(ValueError, match=words[lang]):
        embedding.load(tmp_path)


@pytest.mark.parametrize("pooling", ["cls", "mean", "lasttoken"])
def test_plain_checkpoint_with_pooling_pools_so(tmp_path, pooling):
    tiny.folder("bert", tmp_path)
    tokens = AutoTokenizer.from_pretrained(tmp_path)("a tram", return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(tmp_path)(**tokens).last_hidden_state[0]
    expected = {"cls": states[0], "mean": states.mean(0), "lasttoken": states[-1]}[pooling]
    np.testing.assert_allclose(embedding.load(tmp_path, pooling).encode("a tram"), expected, atol=1e-5)


def test_conflicting_pooling_is_refused(model, tmp_path, lang):
    model.save_pretrained(str(tmp_path))
    words = {
        "en": "was trained with pooling .*mean.*, not 'cls'; leave `pooling` out",
        "zh": "训练时用的池化是.*mean.*，不是 'cls'",
    }
    with pytest.raises(ValueError, match=words[lang]):
        embedding.load(tmp_path, pooling="cls")


def test_the_same_pooling_may_be_repeated(model, tmp_path):
    model.save_pretrained(str(tmp_path))
    for loaded in (embedding.load(tmp_path), embedding.load(tmp_path, pooling="mean")):
        np.testing.assert_allclose(loaded.encode("tram"), model.encode("tram"), atol=1e-6)


OTHERS = {
    "CrossEncoder": (tiny.cross_encoder, "reranker.load"),
    "MultiVectorEncoder": (lambda: colbert.from_encoder(tiny.encoder()), "colbert.load"),
}


@pytest.mark.parametrize("pooling", [None, "cls"])
@pytest.mark.parametrize("kind", OTHERS)
def test_model_of_another_kind_is_refused_and_never_pooled_in_silence(tmp_path, lang, kind, pooling):
    make, how = OTHERS[kind]
    make().save_pretrained(str(tmp_path))
    words = {"en": f"was saved as a {kind}, .* load it with {how}", "zh": f"是作为 {kind} 保存的.*用 {how} 加载它"}
    with pytest.raises(ValueError, match=words[lang]):
        embedding.load(tmp_path, pooling)


def test_sparse_model_is_refused_with_what_loads_it(tmp_path):
    sparse.load(tiny.m3_folder(tmp_path / "m3")).save_pretrained(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match="was saved as a SparseEncoder, .* load it with sparse.load"):
        embedding.load(tmp_path / "saved")


def test_saved_transformer_without_pooling_is_asked_for_one_and_keeps_its_prompts_and_length(tmp_path, lang):
    whole = tiny.encoder(prompts=PROMPTS)
    SentenceTransformer(modules=[whole[0]], prompts=PROMPTS).save_pretrained(str(tmp_path))
    with pytest.raises(
        ValueError, match={"en": "does not say how its token vectors", "zh": "没有写明怎样把词元向量"}[lang]
    ):
        embedding.load(tmp_path)
    loaded = embedding.load(tmp_path, "mean")
    np.testing.assert_allclose(embedding.encode(loaded, TEXTS), embedding.encode(whole, TEXTS), atol=1e-5)
    assert loaded.prompts == PROMPTS and loaded.max_seq_length == whole.max_seq_length


@pytest.mark.parametrize("alias, pooling", [("last", "lasttoken"), ("weighted", "weightedmean"), ("avg", "mean")])
def test_pooling_goes_by_the_names_that_a_configuration_knows(tmp_path, alias, pooling):
    assert embedding.load(tiny.folder("bert", tmp_path), alias)[1].pooling_mode == pooling


def test_unknown_pooling_is_refused_with_the_known_ones(tmp_path, lang):
    words = {"en": "pooling='first' is not known; use one of cls", "zh": "不认识 pooling='first'；可用：cls"}
    with pytest.raises(ValueError, match=words[lang]):
        embedding.load(tiny.folder("bert", tmp_path), "first")


def rows(n: int = 24, negatives: bool = False, seed: int = 0) -> Dataset:
    """Distinct random words; a positive is its query backwards."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(4, 20))) for _ in range(2 * n)]
    columns = {"query": words[:n], "positive": [word[::-1] for word in words[:n]]}
    return Dataset.from_dict(columns | ({"negative_1": words[n:]} if negatives else {}))


def info_nce(model, data, temperature: float = 0.05):
    """In-batch softmax over all positives and negatives, written out; prompts are put in front by hand."""

    def vectors(texts, prompt):
        features = model.tokenizer([prompt + text for text in texts], padding=True, return_tensors="pt")
        tokens = model[0].auto_model(**features).last_hidden_state
        mask = features["attention_mask"].unsqueeze(-1)
        mean = (tokens * mask).sum(1) / mask.sum(1)
        return mean / mean.norm(dim=1, keepdim=True)

    queries = vectors(data["query"], model.prompts.get("query") or "")
    prompt = model.prompts.get("document") or ""
    docs = [vectors(data[name], prompt) for name in data if name != "query"]
    scores = queries @ torch.cat(docs).T / temperature  # (n, n * columns)
    own = torch.arange(len(queries))
    return (scores.logsumexp(dim=1) - scores[own, own]).mean()


@pytest.mark.parametrize("negatives", [False, True])
@pytest.mark.parametrize("prompts", [None, PROMPTS])
def test_two_steps_equal_a_loop_written_by_hand(config, negatives, prompts):
    data = rows(16, negatives)
    ours, by_hand = tiny.encoder(prompts=prompts), tiny.encoder(prompts=prompts)
    embedding.train(ours, data, config(max_steps=2, max_grad_norm=1e9))

    lengths = batching.sampler(by_hand, data, data.column_names)(data, 8, False).lengths
    texts = [set(row.values()) for row in data]
    batches = batching.BucketBatchSampler(data, 8, lengths=lengths, texts=texts, seed=0)
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=1e-3, weight_decay=0.0)
    for batch in batches:
        optimizer.zero_grad()
        info_nce(by_hand, data[batch]).backward()
        optimizer.step()
    moved = np.abs(by_hand.encode(data["query"]) - tiny.encoder().encode(data["query"])).max()
    assert moved > 1e-2
    np.testing.assert_allclose(ours.encode(data["query"]), by_hand.encode(data["query"]), atol=1e-5)
    for (name, mine), other in zip(ours.named_parameters(), by_hand.parameters(), strict=True):
        if not name.endswith("key.bias"):  # the softmax ignores it: its gradient is rounding
            torch.testing.assert_close(mine, other, atol=1e-5, rtol=0, msg=name)


def test_loss_falls(config):
    data, model = rows(), tiny.encoder()
    before = info_nce(model, data[:]).item()
    embedding.train(model, data, config(num_train_epochs=8))
    assert info_nce(model, data[:]).item() < before / 2


def test_training_is_deterministic_for_a_seed(config):
    data = rows()

    def trained(seed):
        torch.manual_seed(random.randrange(1000))  # what was drawn before does not matter
        return embedding.train(tiny.encoder(), data, config(num_train_epochs=1, seed=seed, dropout=True)).encode("tram")

    one, same, other = trained(3), trained(3), trained(4)
    assert (one == same).all() and np.abs(one - other).max() > 1e-4


def test_each_epoch_draws_other_batches(config, monkeypatch):
    drawn = {}
    original = batching.BucketBatchSampler.__iter__

    def recorded(self):
        drawn[self.epoch] = list(original(self))
        return iter(drawn[self.epoch])

    monkeypatch.setattr(batching.BucketBatchSampler, "__iter__", recorded)
    embedding.train(tiny.encoder(), rows(), config(num_train_epochs=3))
    assert sorted(drawn) == [0, 1, 2] and drawn[0] != drawn[1] != drawn[2]


def test_a_negative_never_meets_the_row_whose_answer_it_is(tmp_path, monkeypatch):
    """Otherwise the loss pushes that row's query away from its own answer."""
    answers = [f"answer {i}" for i in range(16)]
    columns = {"query": [f"query {i}" for i in range(16)], "positive": answers, "negative_1": answers[1:] + answers[:1]}
    data, met = Dataset.from_dict(columns), []
    sampler = batching.sampler(tiny.encoder(), data, data.column_names)(data, 8, False)
    for batch in sampler:
        met += [i for i in batch if (i + 1) % 16 in batch]
    assert met == []


def rates(model):
    return [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]


def test_dropout_is_off_while_training_and_restored(config, monkeypatch):
    model, seen = tiny.encoder(), []
    usual = rates(model)
    assert max(usual) > 0
    train = SentenceTransformerTrainer.train
    monkeypatch.setattr(
        SentenceTransformerTrainer, "train", lambda self, **options: (seen.append(rates(model)), train(self))
    )
    embedding.train(model, rows(8), config(max_steps=1))
    embedding.train(model, rows(8), config(max_steps=1, dropout=True))
    assert set(seen[0]) == {0.0} and seen[1] == usual == rates(model)
    assert not model.training


def test_error_while_training_leaves_the_model_as_it_was(config, monkeypatch):
    def stopped(self, **options):
        assert model.max_seq_length == 16
        raise KeyboardInterrupt

    model = tiny.encoder()
    usual = rates(model)
    monkeypatch.setattr(SentenceTransformerTrainer, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        embedding.train(model, rows(8), config(max_seq_length=16))
    assert model.max_seq_length == 128 and rates(model) == usual


def test_training_length_cuts_texts_and_is_undone(config):
    model, widths = tiny.encoder(), []
    model[0].register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0]["input_ids"].shape[1]))
    data = Dataset.from_dict({"query": ["a b"] * 2, "positive": ["c" * 90, "d" * 90]})
    embedding.train(model, data, config(max_steps=1, max_seq_length=16))
    assert max(widths) == 16 and model.max_seq_length == 128


@pytest.mark.parametrize("prompts", [{"passage": "passage: "}, {"document": "", "passage": "passage: "}, PROMPTS])
def test_training_uses_the_prompts_that_encoding_uses(config, monkeypatch, prompts):
    model, seen = tiny.encoder(prompts=prompts), []
    train = SentenceTransformerTrainer.train
    monkeypatch.setattr(
        SentenceTransformerTrainer, "train", lambda self, **options: (seen.append(self.args.prompts), train(self))
    )
    embedding.train(model, rows(8), config(max_steps=1, learning_rate=1e-9))
    plain = tiny.encoder(prompts={"query": "", "document": ""})
    used = seen[0] or {}
    for kind, column in (("query", "query"), ("document", "positive")):
        expected = plain.encode(used.get(column, "") + "tram")
        np.testing.assert_allclose(embedding.encode(model, ["tram"], kind)[0], expected, atol=1e-5)


def test_saved_model_is_a_plain_sentence_transformer(tmp_path, config):
    model = embedding.train(tiny.encoder(prompts=PROMPTS), rows(), config(num_train_epochs=1))
    model.save_pretrained(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert json.loads((tmp_path / "saved" / "config_sentence_transformers.json").read_text())["prompts"] == PROMPTS
    for kind in ("query", "document"):
        expected = embedding.encode(model, TEXTS, kind)
        np.testing.assert_allclose(one_by_one(again, TEXTS, kind), expected, atol=1e-5)


def test_train_changes_and_returns_the_model_it_was_given(config):
    model = tiny.encoder()
    assert embedding.train(model, rows(8), config(max_steps=1)) is model


BAD = {
    "no rows": {"query": [], "positive": []},
    "no positive": {"query": ["a"], "document": ["b"]},
    "no query": {"text": ["a"], "positive": ["b"]},
}


def test_columns_go_by_their_names_and_not_by_their_order(config):
    data = rows(8).add_column("negative_1", [f"no {i}" for i in range(8)])
    other = data.select_columns(["negative_1", "positive", "query"])
    one, same = (embedding.train(tiny.encoder(), d, config(max_steps=2)).encode("tram") for d in (data, other))
    assert (one == same).all()


def test_prompt_in_place_of_the_models_own(model):
    np.testing.assert_allclose(
        embedding.encode(model, ["tram", ""], "query", prompt="find: "),
        model.encode(["find: tram", "find: "], normalize_embeddings=True),
        atol=1e-5,
    )


@pytest.mark.parametrize("case", BAD)
def test_data_of_another_shape_is_refused(config, lang, case):
    data = Dataset.from_dict(BAD[case])
    words = {
        "en": f"training needs rows with columns query, positive.*; got {len(data)} rows with ",
        "zh": f"训练数据要有 query、positive.*现在是 {len(data)} 行",
    }
    with pytest.raises(ValueError, match=words[lang]):
        embedding.train(tiny.encoder(), data, config())
