"""MaxSim against a double loop; loading against a hand computation; training against a loop written out."""

import math
import random
import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.util.similarity import maxsim as library_maxsim
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from retrieval_lab import batching, colbert, colbert_models, corpora, search, sparse, tiny
from retrieval_lab.training import Config

PROMPTS = {"query": "query: ", "document": "passage: "}
TEXTS = [
    "tram",
    "a b, c.",
    "在这中国",
    "the tram runs every ten minutes. " * 9,
    "{x} %s",
    " ",
    "ferry to the north pier",
]


def by_loops(query, doc) -> float:
    """MaxSim as its definition reads."""
    total = 0.0
    for q in query.tolist():
        best = -math.inf
        for d in doc.tolist():
            best = max(best, sum(a * b for a, b in zip(q, d, strict=True)))
        total += best
    return total


def unit(*shape, seed=0):
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=-1)


@pytest.fixture(scope="module")
def model():
    return colbert.from_encoder(tiny.encoder(prompts=PROMPTS))


def test_maxsim_by_hand():
    assert colbert.maxsim(torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])).item() == pytest.approx(1.8)


@pytest.mark.parametrize("seed", range(5))
def test_maxsim_equals_the_double_loop_and_the_library(seed):
    query, doc = unit(3 + seed, 8, seed=seed), unit(2 + 3 * seed, 8, seed=seed + 50)
    expected = by_loops(query, doc)
    assert colbert.maxsim(query, doc).item() == pytest.approx(expected, abs=1e-5)
    assert library_maxsim(query, doc).item() == pytest.approx(expected, abs=1e-5)


def test_negative_score_stays_negative():
    assert colbert.maxsim(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])).item() == -1.0


@pytest.mark.parametrize("n_padding", [1, 7])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("fill", [0.0, 9.0])
def test_padding_sets_no_floor_and_adds_nothing(n_padding, left, fill):
    query, doc = unit(4, 8), -unit(4, 8).mean(dim=0, keepdim=True)  # all cosines below 0
    expected = by_loops(query, doc)
    assert expected < 0
    parts, masks = [], []
    for tokens in (query, doc):
        padding = torch.full((n_padding, 8), fill)
        parts.append(torch.cat([padding, tokens] if left else [tokens, padding]))
        real = torch.ones(len(tokens)), torch.zeros(n_padding)
        masks.append(torch.cat(real[::-1] if left else real))
    assert colbert.maxsim(*parts, *masks).item() == pytest.approx(expected, abs=1e-5)


def test_other_width_is_refused(lang):
    words = {"en": "query has 2 dims but doc has 3; encode both", "zh": "查询是 2 维，文档是 3 维"}
    with pytest.raises(ValueError, match=words[lang]):
        colbert.maxsim(torch.eye(2), torch.eye(3))


@pytest.mark.parametrize("side", ["query", "doc"])
def test_a_side_without_tokens_is_refused(lang, side):
    words = {"en": f"{side} has no token", "zh": {"query": "查询没有词元", "doc": "文档没有词元"}[side]}
    with pytest.raises(ValueError, match=words[lang]):
        colbert.maxsim(torch.eye(2), torch.eye(2), **{f"{side}_mask": torch.zeros(2)})


def check_encode(model, texts, kind, budget=2048):
    call = {"query": model.encode_query, "document": model.encode_document}[kind]
    for text, vectors in zip(texts, colbert.encode(model, texts, kind, budget), strict=True):
        alone = call(text)
        assert vectors.shape == alone.shape and vectors.dtype == torch.float32
        np.testing.assert_allclose(vectors, alone, atol=1e-5)


@pytest.mark.parametrize("kind", ["query", "document"])
@pytest.mark.parametrize("budget", [1, 2048])
@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta", "modernbert"])
def test_encode_equals_the_librarys_encode_of_each_text_alone(kind, budget, architecture):
    encoder = tiny.encoder(architecture, prompts=PROMPTS)
    check_encode(colbert.from_encoder(encoder, query_expansion=24, skip_punctuation=True), TEXTS, kind, budget)


def test_vectors_do_not_depend_on_batch_mates_or_their_order(model):
    order = random.Random(0).sample(range(len(TEXTS)), len(TEXTS))
    together = colbert.encode(model, TEXTS)
    for place, vectors in zip(order, colbert.encode(model, [TEXTS[i] for i in order]), strict=True):
        np.testing.assert_allclose(vectors, together[place], atol=1e-5)


def test_every_token_of_the_prompted_text_has_a_vector(model):
    (vectors,) = colbert.encode(model, ["tram"])
    assert vectors.shape == (len("passage: tram") + 2, 32)
    np.testing.assert_allclose(vectors.norm(dim=1), 1, atol=1e-5)


def test_one_string_is_refused(model, lang):
    with pytest.raises(ValueError, match={"en": "texts is one string", "zh": "texts 是一个字符串"}[lang]):
        colbert.encode(model, "tram")


def test_query_expansion_fills_short_queries_and_cuts_no_long_one():
    plain, filled = (colbert.from_encoder(tiny.encoder(), query_expansion=n) for n in (None, 16))
    assert [len(v) for v in colbert.encode(filled, ["tram", "t" * 40], "query")] == [16, 42]
    assert [len(v) for v in colbert.encode(filled, ["tram"])] == [6]
    (short,), (alone,) = (colbert.encode(model, ["tram"], "query") for model in (filled, plain))
    np.testing.assert_allclose(short[:6], alone, atol=1e-5)  # the mask tokens look on, nothing looks at them
    found = colbert.align(filled, "tram", "tram").query_tokens
    assert found == ["[CLS]", "t", "r", "a", "m", "[SEP]"] + ["[MASK]"] * 10


def test_punctuation_is_left_out_of_documents_only():
    model = colbert.from_encoder(tiny.encoder(), skip_punctuation=True)
    assert colbert.align(model, "a, b!", "a, b!").doc_tokens == ["[CLS]", "a", "␣", "b", "[SEP]"]
    assert colbert.align(model, "a, b!", "a").query_tokens == ["[CLS]", "a", ",", "␣", "b", "!", "[SEP]"]


def test_punctuation_of_a_byte_level_tokenizer_is_left_out():
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=["<pad>"], show_progress=False)
    fast.train_from_iterator(["好，", "是。", " ，", "，", "。"] * 9, trainer)  # "！" stays three bytes
    text = PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="<pad>")
    skipped = colbert_models._punctuation(text)
    read = [text.convert_tokens_to_string([token]).strip() for token in skipped]
    assert {"，", "。", ",", "."} <= set(read) <= set(colbert_models.PUNCTUATION)
    kept = [token for token in text.tokenize("a，b。c") if token not in skipped]
    assert text.convert_tokens_to_string(kept) == "abc"


def test_markers_are_one_token_each_and_come_first():
    with pytest.warns(UserWarning, match=r"new tokens \[Q\], \[D\]"):
        model = colbert.from_encoder(tiny.encoder(prompts={"query": "", "document": "x"}), markers=("[Q]", "[D]"))
    alignment = colbert.align(model, "a", "b")
    assert alignment.query_tokens == ["[CLS]", "[Q]", "␣", "a", "[SEP]"]
    assert alignment.doc_tokens == ["[CLS]", "[D]", "␣", "x", "b", "[SEP]"]
    table = model[0].auto_model.get_input_embeddings().weight
    np.testing.assert_allclose(table[-1].detach(), table[:-2].mean(dim=0).detach(), atol=1e-6)


def test_markers_that_the_tokenizer_has_add_no_weight(recwarn):
    model = colbert.from_encoder(tiny.encoder(), markers=("[MASK]", "[UNK]"))
    assert colbert.align(model, "a", "b").query_tokens[:2] == ["[CLS]", "[MASK]"] and not recwarn.list
    assert len(model[0].auto_model.get_input_embeddings().weight) == len(tiny.tokenizer())


@pytest.mark.parametrize("markers", [("[Q]",), ("[Q] ", "[D]"), ("", "[D]"), (1, 2)])
def test_markers_of_another_shape_are_refused(lang, markers):
    words = {"en": "give two tokens without blanks", "zh": "要给两个不含空格的词元"}
    with pytest.raises(ValueError, match=words[lang]):
        colbert.from_encoder(tiny.encoder(), markers=markers)


def test_without_dim_no_weight_is_new(recwarn):
    encoder = tiny.encoder(prompts=PROMPTS)
    model = colbert.from_encoder(encoder)
    assert not recwarn.list and model.get_embedding_dimension() == 32
    assert {n for n, _ in model.named_parameters()} == {n for n, _ in encoder.named_parameters()}
    features = encoder.tokenizer(["query: tram"], return_tensors="pt")
    with torch.no_grad():
        states = encoder[0].auto_model(**features).last_hidden_state[0]
    expected = torch.nn.functional.normalize(states, dim=1)
    np.testing.assert_allclose(colbert.encode(model, ["tram"], "query")[0], expected, atol=1e-5)


def test_new_projection_is_said_aloud_and_fixed_by_the_seed(lang):
    words = {"en": "the projection 32 -> 8 is new: its weights are random", "zh": "投影层 32 -> 8 是新加的"}
    found = []
    for seed in (0, 0, 1):
        with pytest.warns(UserWarning, match=words[lang]):
            found.append(colbert.encode(colbert.from_encoder(tiny.encoder(), 8, seed=seed), ["tram"])[0])
    assert found[0].shape == (6, 8)
    assert (found[0] == found[1]).all() and (found[0] - found[2]).abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:the projection")
def test_projection_of_full_width_changes_no_cosine():
    plain, turned = colbert.from_encoder(tiny.encoder()), colbert.from_encoder(tiny.encoder(), 32)
    cosines = [colbert.align(model, "tram", "a ferry").similarity for model in (plain, turned)]
    np.testing.assert_allclose(*cosines, atol=1e-5)


@pytest.mark.parametrize("dim", [0, 33])
def test_impossible_dim_is_refused(lang, dim):
    words = {
        "en": f"dim={dim}; the encoder's tokens have 32 dims, use 1 to 32",
        "zh": f"dim={dim}；.*32 维，可用 1 到 32",
    }
    with pytest.raises(ValueError, match=words[lang]):
        colbert.from_encoder(tiny.encoder(), dim)


@pytest.mark.filterwarnings("ignore:new tokens")
def test_the_encoder_itself_is_not_changed():
    encoder = tiny.encoder(prompts=PROMPTS)
    before = encoder.encode("tram"), len(encoder.tokenizer)
    colbert.from_encoder(encoder, markers=("[Q]", "[D]"), query_expansion=16)
    np.testing.assert_array_equal(encoder.encode("tram"), before[0])
    assert len(encoder.tokenizer) == before[1] and encoder[0].query_expansion is None


def test_encoders_own_dense_layer_is_kept_at_token_level(tmp_path):
    from sentence_transformers.sentence_transformer.modules import Dense

    encoder = tiny.encoder()
    encoder.insert(2, Dense(32, 8, activation_function=torch.nn.Identity()))
    model = colbert.from_encoder(encoder)
    (tokens,) = colbert.encode(model, ["tram"])
    with torch.no_grad():
        states = encoder[0].auto_model(**encoder.tokenizer(["tram"], return_tensors="pt")).last_hidden_state[0]
        expected = torch.nn.functional.normalize(encoder[2].linear(states), dim=1)
    np.testing.assert_allclose(tokens, expected, atol=1e-5)


def test_load_of_a_bare_checkpoint_asks_for_no_pooling(tmp_path):
    model = colbert.load(tiny.folder("bert", tmp_path))
    with torch.no_grad():
        tokens = AutoTokenizer.from_pretrained(tmp_path)("tram", return_tensors="pt")
        states = AutoModel.from_pretrained(tmp_path)(**tokens).last_hidden_state[0]
    expected = torch.nn.functional.normalize(states, dim=1)
    np.testing.assert_allclose(colbert.encode(model, ["tram"])[0], expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:new tokens", "ignore:the projection")
def test_decoder_gives_token_vectors_of_the_text_without_its_chat_template(tmp_path):
    folder = tiny.chat_folder("llama", tmp_path)
    model = colbert.load(folder)
    ids = model.tokenizer("tram")["input_ids"]
    assert model.encode_document("tram", output_value=None)["input_ids"].tolist() == ids
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder)(torch.tensor([ids])).last_hidden_state[0]
    expected = torch.nn.functional.normalize(states, dim=1)
    torch.testing.assert_close(colbert.encode(model, ["tram", "a ferry to the quay"])[0], expected, atol=1e-5, rtol=0)


def test_saved_model_is_loaded_as_it_is(tmp_path, recwarn):
    options = {"markers": ("[Q]", "[D]"), "query_expansion": 16, "skip_punctuation": True}
    model = colbert.from_encoder(tiny.encoder(prompts=PROMPTS), 8, **options)
    model.save_pretrained(str(tmp_path))
    recwarn.clear()
    for again in (colbert.load(tmp_path), colbert.load(tmp_path, 8), MultiVectorEncoder(str(tmp_path), device="cpu")):
        for kind in ("query", "document"):
            for one, other in zip(colbert.encode(again, TEXTS, kind), colbert.encode(model, TEXTS, kind), strict=True):
                np.testing.assert_allclose(one, other, atol=1e-5)
    assert not [w for w in recwarn.list if issubclass(w.category, UserWarning)]


@pytest.mark.parametrize(
    "asked", [{"dim": 4}, {"markers": ("a", "b")}, {"query_expansion": 8}, {"skip_punctuation": True}]
)
def test_other_settings_for_a_saved_model_are_refused(tmp_path, lang, asked):
    tiny.multi_vector_encoder().save_pretrained(str(tmp_path))
    words = {
        "en": f"is a multi-vector model with 128 dims.*{next(iter(asked))}=",
        "zh": "本身就是多向量模型，有自己的 128 维",
    }
    with pytest.raises(ValueError, match=words[lang]):
        colbert.load(tmp_path, **asked)


@pytest.fixture(params=["bare", "sentence-transformers"])
def m3(request, tmp_path):
    """A folder laid out as bge-m3's: an XLM-R encoder and two loose linear layers."""
    if request.param == "bare":
        tiny.folder("xlm-roberta", tmp_path)
    else:
        tiny.encoder("xlm-roberta", "cls").save_pretrained(str(tmp_path))
    torch.manual_seed(7)
    layers = {"colbert_linear.pt": torch.nn.Linear(32, 24), "sparse_linear.pt": torch.nn.Linear(32, 1)}
    for name, layer in layers.items():
        torch.save(layer.state_dict(), tmp_path / name)
    return tmp_path, layers["colbert_linear.pt"]


def m3_vectors(folder, linear, text):
    """All tokens but the first through the layer, scaled to length 1: FlagEmbedding's convention."""
    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        projected = linear(AutoModel.from_pretrained(folder)(**tokens).last_hidden_state[0, 1:])
    return projected / projected.norm(dim=1, keepdim=True)


def test_m3_folder_gets_its_own_linear_layer(m3, tmp_path, recwarn):
    folder, linear = m3
    model = colbert.load(folder)
    query, docs = "a tram", ["the tram.", "在中国", "ferry to the pier"]
    expected = [
        by_loops(q := m3_vectors(folder, linear, query), m3_vectors(folder, linear, doc)) / len(q) for doc in docs
    ]
    np.testing.assert_allclose(colbert.score(model, [(query, doc) for doc in docs]), expected, atol=1e-5)
    model.save_pretrained(str(tmp_path / "saved"))
    again = MultiVectorEncoder(str(tmp_path / "saved"), device="cpu")
    found = again.similarity(again.encode_query([query]), again.encode_document(docs))[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not [w for w in recwarn.list if "random" in str(w.message)]


def test_m3_layer_of_another_model_is_refused(m3, lang):
    torch.save(torch.nn.Linear(16, 16).state_dict(), m3[0] / "colbert_linear.pt")
    words = {"en": "takes 16 dims, the encoder beside it gives 32", "zh": "需要 16 维，旁边的编码器给出 32 维"}
    with pytest.raises(ValueError, match=words[lang]):
        colbert.load(m3[0])


def test_m3_takes_no_other_dim(m3, lang):
    with pytest.raises(ValueError, match={"en": "dim=8 cannot be had", "zh": "不能再给 dim=8"}[lang]):
        colbert.load(m3[0], 8)


def test_score_equals_maxsim_of_each_pair(model):
    pairs = [("tram", "the tram"), ("a b", "ferry"), ("tram", "ferry")]
    expected = [by_loops(model.encode_query(q), model.encode_document(d)) for q, d in pairs]
    np.testing.assert_allclose(colbert.score(model, pairs), expected, atol=1e-4)
    assert colbert.score(model, []).shape == (0,)


def test_score_reranks_a_first_stage(model):
    docs = {"d1": "the tram", "d2": "ferry", "d3": "a b"}
    faq = corpora.Collection("faq", "en", "test", "none", docs, {"q": "tram"}, {"q": {"d1": 1}})
    first = search.Dense(tiny.encoder(prompts=PROMPTS), faq)
    run = search.Reranked(first, model, faq, depth=3, score=colbert.score).search(faq.queries, 3)["q"]
    expected = {d: by_loops(model.encode_query("tram"), model.encode_document(text)) for d, text in docs.items()}
    assert list(run) == sorted(expected, key=expected.get, reverse=True)


def test_alignment_adds_up_to_the_score(model):
    found = colbert.align(model, "tram", "the tram")
    assert found.query_tokens[:3] == ["[CLS]", "q", "u"] and found.doc_tokens[-2] == "m"
    assert found.shares.sum() == pytest.approx(colbert.score(model, [("tram", "the tram")])[0], abs=1e-4)
    assert found.similarity[2, found.best[2]] == found.similarity[2].max()


def rows(n=16, negatives=False, seed=0) -> Dataset:
    """Distinct random words; a positive is its query backwards."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(4, 20))) for _ in range(2 * n)]
    columns = {"query": words[:n], "positive": [word[::-1] for word in words[:n]]}
    return Dataset.from_dict(columns | ({"negative_1": words[n:]} if negatives else {}))


def scored_rows(n=16) -> Dataset:
    data = rows(n, negatives=True).to_dict()
    rng = random.Random(1)
    labels = [[rng.random() * 3, rng.random()] for _ in range(n)]
    return Dataset.from_dict(data | {"label": labels})


def tokens_of(model, texts, prompt):
    """Unit token vectors with gradient, one tensor a text, prompts put in front by hand."""
    vectors = []
    for text in texts:
        features = model.tokenizer([prompt + text], return_tensors="pt")
        vectors.append(torch.nn.functional.normalize(model[0].auto_model(**features).last_hidden_state[0], dim=1))
    return vectors


def mean_scores(queries, docs):
    return torch.stack([torch.stack([(q @ d.T).max(dim=1).values.mean() for d in docs]) for q in queries])


def loss_by_hand(model, batch, kind):
    queries = tokens_of(model, batch["query"], PROMPTS["query"])
    columns = [tokens_of(model, batch[c], PROMPTS["document"]) for c in ("positive", "negative_1") if c in batch]
    if kind == "in_batch":
        scores = mean_scores(queries, [doc for column in columns for doc in column]) / 0.05
        own = torch.arange(len(queries))
        return (scores.logsumexp(dim=1) - scores[own, own]).mean()
    own = [[(q @ d.T).max(dim=1).values for d in docs] for q, *docs in zip(queries, *columns, strict=True)]
    label = torch.tensor(batch["label"])
    if kind == "margin_mse":
        margins = torch.stack([one.sum() - other.sum() for one, other in own])
        return ((margins - (label[:, 0] - label[:, 1])) ** 2).mean()
    student = (torch.stack([torch.stack([s.mean() for s in row]) for row in own]) / 0.05).log_softmax(dim=1)
    teacher = (label / 0.5).softmax(dim=1)
    return (teacher * (teacher.log() - student)).sum(dim=1).mean() * 0.05**2


CASES = [("in_batch", False, None), ("in_batch", True, None), ("in_batch", True, 4), ("distill", True, None)]


@pytest.mark.parametrize("kind, negatives, mini_batch_size", [*CASES, ("margin_mse", True, None)])
def test_two_steps_equal_a_loop_written_by_hand(config, kind, negatives, mini_batch_size):
    data = rows(negatives=negatives) if kind == "in_batch" else scored_rows()
    ours, by_hand = (colbert.from_encoder(tiny.encoder(prompts=PROMPTS)) for _ in range(2))
    settings = {"loss_type": kind, "mini_batch_size": mini_batch_size, "teacher_temperature": 0.5}
    colbert.train(ours, data, config(max_steps=2, max_grad_norm=1e9, **settings))
    texts = [name for name in data.column_names if name != "label"]
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=1e-3, weight_decay=0.0)
    for batch in batching.sampler(by_hand, data, texts)(data, 8, False):
        optimizer.zero_grad()
        loss_by_hand(by_hand, data[batch], kind).backward()
        optimizer.step()
    untrained = colbert.from_encoder(tiny.encoder(prompts=PROMPTS))
    vectors = [torch.cat(colbert.encode(m, data["query"], "query")) for m in (ours, by_hand, untrained)]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=2e-4)
    assert (vectors[1] - vectors[2]).abs().max() > 1e-2


@pytest.mark.parametrize("kind", colbert.LOSSES)
def test_loss_is_the_one_written_by_hand(kind):
    model, data = colbert.from_encoder(tiny.encoder(prompts=PROMPTS)), scored_rows(4)
    loss = colbert._loss(model, kind, Config(teacher_temperature=0.5))
    features = []
    for column, task in (("query", "query"), ("positive", "document"), ("negative_1", "document")):
        features.append(dict(model.preprocess(data[column][:], prompt=PROMPTS[task], task=task)) | {"task": task})
    found = loss(features, torch.tensor(data["label"][:]))
    assert found.item() == pytest.approx(loss_by_hand(model, data[:], kind).item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["in_batch", "distill"])
def test_prompt_of_a_row_takes_the_place_of_the_models_query_prompt(config, kind):
    data = rows(4) if kind == "in_batch" else scored_rows(4)
    expected = {"find: " + query for query in data["query"]} | {PROMPTS["document"] + doc for doc in data["positive"]}
    model, read = colbert.from_encoder(tiny.encoder(prompts=PROMPTS)), set()
    model[0].register_forward_pre_hook(lambda _, inputs: read.update(map(tuple, inputs[0]["input_ids"].tolist())))
    own = data.add_column("prompt_for_query", ["find: "] * len(data))
    colbert.train(model, own, config(max_steps=1, loss_type=kind))
    found = {tuple(token for token in tokens if token != model.tokenizer.pad_token_id) for tokens in read}
    assert {tuple(model.tokenizer(text)["input_ids"]) for text in expected} <= found
    assert len(found) == 4 * (2 if kind == "in_batch" else 3)


def test_training_brings_the_answer_up(config):
    data, model = rows(24), colbert.from_encoder(tiny.encoder(prompts=PROMPTS))

    def right():
        scores = model.similarity(
            colbert.encode(model, data["query"], "query"), colbert.encode(model, data["positive"])
        )
        return (scores.argmax(dim=1) == torch.arange(24)).float().mean().item()

    before = right()
    assert colbert.train(model, data, config(num_train_epochs=8)) is model
    assert right() > before + 0.3


def test_trained_model_scores_the_same_in_plain_sentence_transformers(tmp_path, config):
    model = colbert.train(colbert.from_encoder(tiny.encoder(prompts=PROMPTS)), rows(), config(max_steps=2))
    model.save_pretrained(str(tmp_path / "saved"))
    again = MultiVectorEncoder(str(tmp_path / "saved"), device="cpu")
    found = again.similarity(again.encode_query(TEXTS, batch_size=3), again.encode_document(TEXTS, batch_size=2))
    expected = model.similarity(colbert.encode(model, TEXTS, "query"), colbert.encode(model, TEXTS))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_rows_of_scored_documents_become_one_row_a_query():
    columns = {"query": ["a", "b", "a", "b"], "document": list("wxyz"), "score": [0.1, 3, 2, 1], "group": [0, 1, 0, 1]}
    found = colbert.one_row_a_query(Dataset.from_dict(columns)).to_list()
    first = {"query": "a", "document_1": "y", "document_2": "w", "label": [2, 0.1]}
    assert found == [first, {"query": "b", "document_1": "x", "document_2": "z", "label": [3, 1]}]
    assert colbert.one_row_a_query(Dataset.from_list(found)).to_list() == found


@pytest.mark.parametrize("groups, sizes", [([0, 0, 1], r"\[1, 2\]"), ([0, 1, 2], r"\[1\]")])
def test_groups_of_unlike_size_are_refused(lang, groups, sizes):
    data = Dataset.from_dict({"query": ["q"] * 3, "document": list("abc"), "score": [1.0] * 3, "group": groups})
    words = {"en": f"the queries have {sizes} documents each", "zh": f"各查询的文档数为 {sizes}"}
    with pytest.raises(ValueError, match=words[lang]):
        colbert.one_row_a_query(data)


def test_distillation_without_scores_is_refused(config, model, lang):
    words = {"en": "needs columns query, document, score, group", "zh": "需要 query、document、score、group 四列"}
    with pytest.raises(ValueError, match=words[lang]):
        colbert.train(model, rows(), config(loss_type="distill"))


def test_unknown_loss_is_refused(config, model, lang):
    words = {
        "en": "loss_type='hinge' is not known; use one of in_batch, distill, margin_mse",
        "zh": "不认识 loss_type='hinge'；可用：in_batch、distill、margin_mse",
    }
    with pytest.raises(ValueError, match=words[lang]):
        colbert.train(model, rows(), config(loss_type="hinge"))


@pytest.mark.parametrize("kind", ["distill", "margin_mse"])
def test_gradcache_is_refused_for_a_teachers_scores(config, model, lang, kind):
    words = {"en": f"mini_batch_size=4 would do nothing: .* not for {kind}", "zh": f"mini_batch_size=4 .*不用于 {kind}"}
    with pytest.raises(ValueError, match=words[lang]):
        colbert.train(model, scored_rows(), config(loss_type=kind, mini_batch_size=4))


def test_rows_without_positives_are_refused(config, model):
    with pytest.raises(ValueError, match="training needs rows with columns query, positive"):
        colbert.train(model, Dataset.from_dict({"query": ["a"], "text": ["b"]}), config())


def lists(**more) -> Dataset:
    columns = {
        "query": ["a", "b"],
        "document_1": ["x", "y"],
        "document_2": ["z", "w"],
        "label": [[1.0, 0.0], [2.0, 0.0]],
    }
    return Dataset.from_dict(columns | more)


@pytest.mark.parametrize("kind", ["distill", "margin_mse"])
def test_column_that_is_no_document_is_refused_by_name(config, model, lang, kind):
    """It would be scored as one more document."""
    words = {"en": "does not read the columns source; its columns are query, document_1", "zh": "不读这些列：source；"}
    with pytest.raises(ValueError, match=words[lang]):
        colbert.train(model, lists(source=["s1", "s2"]), config(loss_type=kind))


@pytest.mark.parametrize("label", [[[1.0, 0.0], [2.0]], [[1.0, 0.0], [2.0, 1.0, 0.0]]])
def test_label_with_another_number_of_scores_is_refused(config, model, lang, label):
    words = {
        "en": "row 1: label is .*; give a list of 2 scores, one for each of document_1, document_2",
        "zh": "第 1 行：label 是 .*；要给 2 个得分的列表",
    }
    with pytest.raises(ValueError, match=words[lang]):
        colbert.train(model, lists(label=label), config(loss_type="distill"))


def test_lists_are_taken_in_any_order_of_columns(config):
    other = lists().select_columns(["label", "document_1", "query", "document_2"])
    found = []
    for data in (lists(), other):
        settings = config(loss_type="distill", max_steps=2, save_strategy="no")
        found += colbert.encode(colbert.train(colbert.from_encoder(tiny.encoder()), data, settings), ["tram"])
    torch.testing.assert_close(*found)


def test_rows_of_one_query_keep_its_prompt():
    columns = {"query": ["a", "a"], "document": ["x", "y"], "score": [1.0, 2.0], "group": [0, 0]}
    found = colbert.one_row_a_query(Dataset.from_dict(columns | {"prompt_for_query": ["find: "] * 2}))
    assert found[0]["prompt_for_query"] == "find: " and found[0]["document_1"] == "y"
    assert colbert.one_row_a_query(found).to_list() == found.to_list()


@pytest.mark.parametrize("architecture, positions", [("bert", 130), ("xlm-roberta", 129)])
def test_query_expansion_beyond_the_positions_is_refused(lang, architecture, positions):
    encoder = tiny.encoder(architecture)
    words = {
        "en": f"query_expansion={positions + 1}; the encoder has {positions} positions, use 1 to {positions}",
        "zh": f"query_expansion={positions + 1}；编码器有 {positions} 个位置",
    }
    with pytest.raises(ValueError, match=words[lang]):
        colbert.from_encoder(encoder, query_expansion=positions + 1)
    (vectors,) = colbert.encode(colbert.from_encoder(encoder, query_expansion=positions), ["tram"], "query")
    assert len(vectors) == positions


@pytest.mark.parametrize("length", [-5, 1.5])
def test_query_expansion_that_is_no_number_of_tokens_is_refused(length):
    with pytest.raises(ValueError, match=f"query_expansion={length}; the encoder has 130 positions"):
        colbert.from_encoder(tiny.encoder(), query_expansion=length)


def test_query_expansion_of_zero_fills_nothing():
    assert colbert.from_encoder(tiny.encoder(), query_expansion=0)[0].query_expansion is None


@pytest.mark.parametrize("kind", ["CrossEncoder", "SparseEncoder"])
def test_folder_of_a_model_that_is_no_encoder_is_refused(tmp_path, lang, kind):
    model = tiny.cross_encoder() if kind == "CrossEncoder" else sparse.load(tiny.m3_folder(tmp_path / "m3"))
    model.save_pretrained(str(tmp_path / "saved"))
    words = {"en": f"was saved from a {kind}, trained to", "zh": f"是由 {kind} 保存的"}
    with pytest.raises(ValueError, match=words[lang]):
        colbert.load(tmp_path / "saved")


def test_no_warning_when_nothing_is_new():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        colbert.from_encoder(tiny.encoder(), query_expansion=8, skip_punctuation=True)
