"""Cross-encoders: scores against the library's own predict, losses by hand, slices, lists of candidates, calibration."""

import json
import math
import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification

from retrieval_lab import fusion, lexical, llm, llm_scalar, reranker, reranker_data, tiny
from retrieval_lab.corpora import Collection
from retrieval_lab.training import Config

LONG = "the tram runs every ten minutes. " * 12  # 396 characters and tokens; the model reads 128
PAIRS = [
    ("tram", "every ten minutes"),
    ("tram", ""),
    ("", "ferry"),
    ("在这中国", "我是 a b"),
    ("{x} %s", LONG),
    ("a", "b"),
]


@pytest.fixture(scope="module", params=["bert", "xlm-roberta", "modernbert", "pooled"])
def any_model(request):
    return tiny.cross_encoder(request.param)


@pytest.fixture(scope="module")
def model():
    return tiny.cross_encoder()


def logits(model, pairs):
    """One pair at a time, without padding, by the plain library."""
    return np.array([model.predict(pair, activation_fn=torch.nn.Identity()) for pair in pairs])


@pytest.mark.parametrize("budget", [1, 300, 4096])
def test_score_equals_the_librarys_predict(any_model, budget):
    found = reranker.score(any_model, PAIRS, budget=budget)
    assert found.dtype == np.float32 and found.shape == (len(PAIRS),)
    np.testing.assert_allclose(found, logits(any_model, PAIRS), atol=1e-5)


def test_score_by_hand(model):
    """The first token's state through the pooler and the head, by matrix products."""
    features = model.tokenizer("tram", "ten minutes", return_tensors="pt")
    bert = model.model.bert
    with torch.no_grad():
        states = bert(**features).last_hidden_state[0, 0]
        pooled = torch.tanh(bert.pooler.dense.weight @ states + bert.pooler.dense.bias)
        by_hand = model.model.classifier.weight @ pooled + model.model.classifier.bias
    assert reranker.score(model, [("tram", "ten minutes")])[0] == pytest.approx(by_hand.item(), abs=1e-5)


def test_sigmoid_squeezes_the_logits(model):
    raw, squeezed = reranker.score(model, PAIRS), reranker.score(model, PAIRS, sigmoid=True)
    np.testing.assert_allclose(squeezed, [1 / (1 + math.exp(-x)) for x in raw], atol=1e-6)


def test_scores_come_in_the_order_of_the_pairs(model):
    order = random.Random(0).sample(range(len(PAIRS)), len(PAIRS))
    found = reranker.score(model, [PAIRS[i] for i in order], budget=200)
    np.testing.assert_allclose(found, reranker.score(model, PAIRS)[order], atol=1e-5)


def test_no_pairs_give_no_scores(model):
    assert reranker.score(model, []).shape == reranker.score(model, [], slices=True).shape == (0,)


@pytest.mark.parametrize("bad", ["ab", ("query", "doc", "more"), ("query", ["a", "b"]), ("query", None)])
def test_pair_that_is_not_two_texts_is_refused_with_its_place(model, lang, bad):
    words = {"en": r"pair 1 is .*give \(query, document\)", "zh": r"第 1 对是.*应为 \(查询, 文档\)"}
    with pytest.raises(ValueError, match=words[lang]):
        reranker.score(model, [("a", "b"), bad])


@pytest.mark.parametrize("doc, kept", [("ferry", "ferry[SEP]"), ("z" * 500, "z" * 50 + "[SEP]")])
def test_query_longer_than_the_limit_does_not_lose_the_document(any_model, doc, kept):
    for pair in [(LONG, doc), *reranker_data.slices(any_model, LONG, doc)]:
        ids = any_model.preprocess([pair])["input_ids"][0]
        assert len(ids) <= 128 and any_model.tokenizer.decode(ids).replace(" ", "").endswith(kept)


def test_short_document_scores_the_same_with_and_without_slices(any_model):
    short = [pair for pair in PAIRS if pair[1] != LONG] + [(LONG, "ferry"), ("tram", "a" * 121)]  # 3 special + 4 + 121
    assert all(reranker_data.slices(any_model, *pair) == [pair] for pair in short)
    np.testing.assert_array_equal(reranker.score(any_model, short, slices=True), reranker.score(any_model, short))


def test_long_document_has_the_score_of_its_best_slice(any_model):
    pieces = reranker_data.slices(any_model, "tram", LONG)
    assert len(pieces) > 3
    expected = max(logits(any_model, pieces))
    assert reranker.score(any_model, [("a", "b"), ("tram", LONG)], slices=True)[1] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("n", [122, 150, 300, 999])
@pytest.mark.parametrize("query", ["tram", "q" * 60, "q" * 500])
def test_slices_cover_the_document_and_fit(model, n, query):
    doc = "".join(random.Random(n).choices("abcdefgh ", k=n))
    pieces = reranker_data.slices(model, query, doc)
    end = 0
    for asked, piece in pieces:
        features = model.tokenizer(asked, piece)
        assert len(features["input_ids"]) <= 128 and features["input_ids"].count(2) == 2  # never a doubled [SEP]
        start = doc.index(piece, max(0, end - len(piece)))
        assert start <= end  # no gap
        end = start + len(piece)
    assert end == n and pieces[0][1] == doc[: len(pieces[0][1])]


def test_word_that_answers_at_the_end_of_a_long_document_is_read(model):
    doc = "a" * 400 + "ferry"
    assert reranker_data.slices(model, "tram", doc)[-1][1].endswith("ferry")
    cut, other = ("tram", doc), ("tram", "a" * 400 + "trams")
    assert logits(model, [cut]) == logits(model, [other])
    assert reranker_data.slices(model, *cut)[-1] != reranker_data.slices(model, *other)[-1]


def test_rerank_returns_places_in_the_list_best_first(model):
    docs = ["ferry", "", "every ten minutes", "ferry", LONG]
    found = reranker.rerank(model, "tram", docs)
    scores = logits(model, [("tram", doc) for doc in docs])
    assert list(found) == sorted(range(5), key=lambda i: -scores[i])  # equal documents keep their order
    assert all(type(place) is int and type(value) is float for place, value in found.items())
    assert list(found.values()) == pytest.approx(scores[list(found)], abs=1e-5)
    assert list(reranker.rerank(model, "tram", docs, top_k=2)) == list(found)[:2]


def test_rerank_of_none_and_of_one(model):
    assert reranker.rerank(model, "tram", []) == {}
    assert list(reranker.rerank(model, "tram", ["ferry"])) == [0]


def test_rerank_refuses_one_string(model, lang):
    words = {"en": "docs is one string .*give a list", "zh": "docs 是一个字符串.*要给列表"}
    with pytest.raises(ValueError, match=words[lang]):
        reranker.rerank(model, "tram", "ferry")


def test_rerank_refuses_top_k_below_one(model, lang):
    with pytest.raises(ValueError, match={"en": "top_k=0; use 1 or more", "zh": "top_k=0；应不小于 1"}[lang]):
        reranker.rerank(model, "tram", ["ferry"], top_k=0)


# loading


def test_plain_encoder_gets_a_fresh_head_and_says_so(tmp_path, capsys, lang):
    folder = tiny.folder("bert", tmp_path)
    loaded = reranker.load(folder)
    assert isinstance(loaded, CrossEncoder) and loaded.num_labels == 1 and not loaded.training
    words = {"en": "a fresh head: train it", "zh": "新加了一个随机的头"}
    assert words[lang] in capsys.readouterr().out
    again, other = reranker.load(folder), reranker.load(folder, seed=1)
    np.testing.assert_array_equal(logits(loaded, PAIRS), logits(again, PAIRS))
    assert np.abs(logits(loaded, PAIRS) - logits(other, PAIRS)).max() > 1e-4


def test_fresh_head_leaves_the_random_numbers_alone(tmp_path):
    tiny.folder("bert", tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    reranker.load(tmp_path)
    assert torch.rand(1) == expected


def move(folder, place: str) -> None:
    """Older versions of sentence-transformers keep the transformer in a folder of its own."""
    (folder / place).mkdir()
    for file in folder.iterdir():
        if file.is_file() and file.name not in ("modules.json", "config_sentence_transformers.json"):
            file.rename(folder / place / file.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = place
    (folder / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("place", ["", "0_Transformer"])
def test_retriever_gives_its_weights_to_the_reranker(tmp_path, place, pooling):
    retriever = tiny.encoder(pooling=pooling, seed=3)
    retriever.save_pretrained(str(tmp_path))
    if place:
        move(tmp_path, place)
    loaded = reranker.load(tmp_path)
    weights = (loaded.model.bert if pooling == "cls" else loaded.model).state_dict()
    for name, tensor in retriever[0].auto_model.state_dict().items():
        torch.testing.assert_close(weights[name], tensor)


def test_pooled_score_by_hand(tmp_path):
    """The mean of the pair's token vectors times the head: no step in between, padding left out."""
    model = tiny.cross_encoder("pooled")
    features = model.tokenizer("tram", "ten minutes", return_tensors="pt")
    with torch.no_grad():
        mean = model.model(**features).last_hidden_state[0].mean(0)  # (32,)
        by_hand = model[-1].linear.weight @ mean + model[-1].linear.bias
    found = reranker.score(model, [("tram", "ten minutes"), ("a", LONG)])  # the second one pads the first
    assert found[0] == pytest.approx(by_hand.item(), abs=1e-5)


def test_retriever_that_pools_by_the_first_token_gives_transformers_own_classifier(tmp_path):
    """Such a reranker loads in every library that knows sequence classification."""
    tiny.encoder(pooling="cls").save_pretrained(str(tmp_path / "retriever"))
    model = reranker.load(tmp_path / "retriever")
    model.save_pretrained(str(tmp_path / "saved"))
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        expected = plain(**model.tokenizer("tram", "ten minutes", return_tensors="pt")).logits[0]
    assert reranker.score(model, [("tram", "ten minutes")]) == pytest.approx(expected.numpy(), abs=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "pooled"])
def test_saved_reranker_is_loaded_as_it_is_by_us_and_by_the_plain_library(tmp_path, capsys, architecture):
    model = tiny.cross_encoder(architecture, seed=2)
    model.save_pretrained(str(tmp_path))
    capsys.readouterr()
    for again in (reranker.load(tmp_path), CrossEncoder(str(tmp_path), device="cpu")):
        np.testing.assert_allclose(logits(again, PAIRS), logits(model, PAIRS), atol=1e-6)
    assert capsys.readouterr().out == ""


def test_decoder_is_refused_with_the_way_to_go(tmp_path, lang):
    tiny.folder("llama", tmp_path)
    words = {"en": "is a decoder; llm.load makes a reranker of it", "zh": "是解码器；用 llm.load"}
    with pytest.raises(ValueError, match=words[lang]):
        reranker.load(tmp_path)


def test_classifier_of_several_classes_is_refused(tmp_path, lang):
    base = tiny.folder("bert", tmp_path / "base")
    CrossEncoder(str(base), num_labels=3, device="cpu").save_pretrained(str(tmp_path / "three"))
    words = {"en": "has 3 outputs: it sorts pairs into classes", "zh": "有 3 个输出，是给文本对分类的"}
    with pytest.raises(ValueError, match=words[lang]):
        reranker.load(tmp_path / "three")


# training


def flat(n: int = 12) -> Dataset:
    """Each query with one document that repeats it, one that half does, and one that does not."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnop", k=6)) for _ in range(n)]
    rows = [
        (q, d, label) for q in words for d, label in ((q, 1.0), (q[:3] + "zzz", 0.5), ("".join(sorted(q))[::-1], 0.0))
    ]
    return Dataset.from_dict(dict(zip(("query", "document", "label"), map(list, zip(*rows, strict=True)), strict=True)))


def triplets(n: int = 12) -> Dataset:
    rows = [flat(n)[3 * i : 3 * i + 3]["document"] for i in range(n)]
    columns = {"query": [r[0] for r in rows], "positive": [r[0] for r in rows]}
    return Dataset.from_dict(columns | {"negative_1": [r[1] for r in rows], "negative_2": [r[2] for r in rows]})


def config(tmp_path, **changes) -> Config:
    plain = {
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 4,
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0,
    }
    return Config(output_dir=str(tmp_path / "run"), **(plain | changes))


def loss_of(loss_type, scores, labels):
    """The library's loss object on given logits: three documents of one query."""
    model = tiny.cross_encoder()
    data = Dataset.from_dict({"query": ["q"] * len(scores), "document": list("abcd"[: len(scores)]), "label": labels})
    rows = reranker_data.rows(data, loss_type, reranker.LABEL_TEMPERATURE)
    loss = reranker._loss(model, loss_type, rows)
    model.forward = lambda features, **_: {"scores": torch.tensor(scores, dtype=torch.float32).unsqueeze(1)}
    label = rows["label"][:] if loss_type.startswith("point") else [torch.tensor(row) for row in rows["label"]]
    return loss(
        [rows["query"][:], rows["document"][:]], torch.tensor(label) if loss_type.startswith("point") else label
    )


def test_point_losses_by_hand():
    assert loss_of("point_ce", [0.0, 2.0], [1.0, 0.5]).item() == pytest.approx(0.9100376, abs=1e-6)
    assert loss_of("point_mse", [0.0], [1.0]).item() == pytest.approx(0.25, abs=1e-6)


def test_pairwise_loss_by_hand():
    """RankNet in bits, summed over the pairs of which one is better: log2(1 + e^-(better - worse))."""
    found = loss_of("pairwise", [2.0, 1.0], [1.0, 0.0]).item()
    assert found == pytest.approx(math.log2(1 + math.exp(-1)), abs=1e-5)


def test_listwise_loss_by_hand():
    """Cross-entropy between softmax(labels / 0.1) and softmax(scores)."""
    scores, labels = np.array([2.0, 1.0, 0.0]), np.array([1.0, 1 / 3, 0.0])
    target = np.exp(labels / 0.1) / np.exp(labels / 0.1).sum()
    log_softmax = scores - np.log(np.exp(scores).sum())
    found = loss_of("listwise", scores.tolist(), labels.tolist()).item()
    assert found == pytest.approx(-(target * log_softmax).sum(), abs=1e-5)
    assert target[0] > 0.99


@pytest.mark.parametrize("loss_type", reranker.LOSSES)
def test_every_loss_learns_to_put_the_better_document_first(tmp_path, loss_type):
    data = flat()
    model = tiny.cross_encoder()
    size = 12 if loss_type.startswith("point") else 4
    options = {"num_train_epochs": 30, "per_device_train_batch_size": size, "learning_rate": 3e-3}
    trained = reranker.train(model, data, config(tmp_path, loss_type=loss_type, **options))
    assert trained is model and not model.training
    scores = reranker.score(model, list(zip(data["query"], data["document"], strict=True))).reshape(-1, 3)
    assert (scores[:, 0] > scores[:, 2]).mean() > 0.8


def test_listwise_is_the_default(tmp_path):
    def trained(**options):
        return logits(reranker.train(tiny.cross_encoder(), flat(), config(tmp_path, max_steps=2, **options)), PAIRS)

    np.testing.assert_array_equal(trained(), trained(loss_type="listwise"))
    assert np.abs(trained() - trained(loss_type="pairwise")).max() > 1e-4


def test_one_step_equals_a_step_written_by_hand(tmp_path):
    data = triplets(4)
    ours, by_hand = tiny.cross_encoder(), tiny.cross_encoder()
    reranker.train(ours, data, config(tmp_path, max_steps=1, max_grad_norm=1e9))
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=1e-3, weight_decay=0.0)
    columns = ("positive", "negative_1", "negative_2")
    pairs = [(row["query"], row[name]) for row in data for name in columns]
    features = by_hand.tokenizer(*map(list, zip(*pairs, strict=True)), padding=True, return_tensors="pt")
    scores = by_hand.eval().model(**features).logits.view(4, 3)
    target = torch.softmax(torch.tensor([10.0, 0.0, 0.0]), 0)
    (-(target * scores.log_softmax(1)).sum(1).mean()).backward()
    optimizer.step()
    np.testing.assert_allclose(logits(ours, PAIRS), logits(by_hand, PAIRS), atol=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta", "modernbert", "pooled"])
def test_frozen_layers_stay_and_are_free_again_afterwards(tmp_path, architecture):
    model = tiny.cross_encoder(architecture)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    reranker.train(model, flat(4), config(tmp_path, max_steps=1, weight_decay=0.1), freeze_layers=1)
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert not any("embeddings" in name or "layer.0." in name or "layers.0." in name for name in moved)
    assert any("layer.1." in name or "layers.1." in name for name in moved)
    assert all(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("n", [-1, 3])
def test_more_frozen_layers_than_there_are_is_refused(tmp_path, lang, n):
    words = {"en": f"freeze_layers={n}, but the model has 2 layers", "zh": f"freeze_layers={n}，但模型只有 2 层"}
    with pytest.raises(ValueError, match=words[lang]):
        reranker.train(tiny.cross_encoder(), flat(4), config(tmp_path), freeze_layers=n)


def test_rows_of_every_format_become_lists():
    expected = {"query": ["q"], "document": [["a", "b"]], "label": [[1.0, 0.0]]}
    shapes = [
        {"query": ["q"], "positive": ["a"], "negative_1": ["b"]},
        {"query": ["q", "q"], "document": ["a", "b"], "label": [1.0, 0.0]},
        {"query": ["q", "q"], "document": ["a", "b"], "score": [1.0, 0.0], "group": [0, 0]},
        {"query": ["q"], "document": [["a", "b"]], "label": [[1.0, 0.0]]},
    ]
    for columns in shapes:
        assert reranker_data.rows(Dataset.from_dict(columns), "pairwise", 0.1)[:] == expected


def test_rows_of_every_format_become_single_documents():
    expected = {"query": ["q", "q"], "document": ["a", "b"], "label": [1.0, 0.0]}
    for columns in (expected, {"query": ["q"], "positive": ["a"], "negative_1": ["b"]}):
        assert reranker_data.rows(Dataset.from_dict(columns), "point_ce", 0.1)[:] == expected


def test_prompts_of_the_file_are_put_before_the_query():
    data = Dataset.from_dict({"query": ["q"], "positive": ["a"], "negative_1": ["b"], "prompt_for_query": ["find: "]})
    assert reranker_data.rows(data, "listwise", 0.1)["query"][:] == ["find: q"]


def test_pairs_alone_train_listwise_with_negatives_of_the_batch(tmp_path):
    pairs = triplets().select_columns(["query", "positive"])
    model = tiny.cross_encoder()
    before = logits(model, PAIRS)
    reranker.train(model, pairs, config(tmp_path, max_steps=2))
    assert np.abs(logits(model, PAIRS) - before).max() > 1e-3


def test_rows_with_a_text_in_common_never_share_negatives_of_a_batch():
    pairs = Dataset.from_dict({"query": ["a", "a", "b", "c"], "positive": ["1", "2", "1", "3"]})
    for batch in reranker_data.sampler(tiny.cross_encoder(), pairs)(pairs, 4, False):
        assert not {0, 1} <= set(batch) and not {0, 2} <= set(batch)


@pytest.mark.parametrize("loss_type", ["point_ce", "point_mse", "pairwise", "lambda"])
def test_pairs_alone_are_refused_by_losses_that_need_negatives(tmp_path, lang, loss_type):
    words = {"en": "needs documents that do not answer.*mine negatives", "zh": "需要答不了的文档.*先挖掘负例"}
    with pytest.raises(ValueError, match=words[lang]):
        data = Dataset.from_dict({"query": ["a"], "positive": ["b"]})
        reranker.train(tiny.cross_encoder(), data, config(tmp_path, loss_type=loss_type))


@pytest.mark.parametrize("loss_type", ["pairwise", "lambda", "listwise"])
def test_queries_of_one_document_each_are_refused_by_losses_that_compare_documents(tmp_path, lang, loss_type):
    words = {"en": "each of these 2 queries has one: .*point_ce", "zh": "这 2 个查询各只有一篇.*point_ce"}
    data = Dataset.from_dict({"query": ["a", "b"], "document": ["c", "d"], "label": [1.0, 0.0]})
    with pytest.raises(ValueError, match=words[lang]):
        reranker.train(tiny.cross_encoder(), data, config(tmp_path, loss_type=loss_type))
    assert len(reranker_data.rows(data, "point_ce", 0.1)) == 2


def test_unknown_loss_is_refused(tmp_path, lang):
    words = {"en": "loss_type='bce' is not known; use one of point_ce", "zh": "不认识 loss_type='bce'；可用：point_ce"}
    with pytest.raises(ValueError, match=words[lang]):
        reranker.train(tiny.cross_encoder(), flat(), config(tmp_path, loss_type="bce"))


BAD = [
    {"query": [], "document": [], "label": []},
    {"text": ["a"], "document": ["b"], "label": [1.0]},
    {"query": ["a"], "document": ["b"]},
]


@pytest.mark.parametrize("columns", BAD)
def test_data_of_another_shape_is_refused(tmp_path, lang, columns):
    words = {
        "en": "training needs rows with query, positive, negative_1",
        "zh": "训练数据要有 query、positive、negative_1",
    }
    with pytest.raises(ValueError, match=words[lang]):
        reranker.train(tiny.cross_encoder(), Dataset.from_dict(columns), config(tmp_path))


@pytest.mark.parametrize("label", [3.0, -0.5, float("nan")])
def test_label_outside_zero_to_one_is_refused_with_its_query(tmp_path, lang, label):
    data = Dataset.from_dict({"query": ["tram"], "document": ["b"], "label": [label]})
    words = {
        "en": "query 'tram' has the label .*min_label, max_label",
        "zh": "查询 'tram' 的标签是.*min_label、max_label",
    }
    with pytest.raises(ValueError, match=words[lang]):
        reranker.train(tiny.cross_encoder(), data, config(tmp_path))


def test_batches_hold_rows_of_like_length(model):
    lengths = [5, 100, 6, 90, 7, 80, 8, 70]
    data = Dataset.from_dict(
        {"query": ["q"] * 8, "document": [["a", "b" * n] for n in lengths], "label": [[1.0, 0]] * 8}
    )
    for batch in reranker_data.sampler(model, data)(data, 4, False):
        assert len({lengths[i] > 50 for i in batch}) == 1


# candidates


class Fixed:
    name = "fixed"

    def __init__(self, order):
        self.order = order

    def search(self, queries, k):
        return {q: {d: -float(i) for i, d in enumerate(self.order[:k])} for q in queries}


def test_candidates_are_the_answer_the_hardest_drawn_ones_and_an_easy_one():
    corpus = {name: name.upper() for name in "abcdefgh"}
    qrels = {"q": {"f": 3, "b": 1, "c": 0, "h": 2}}
    city = Collection("city", "en", "train", "CC0", corpus, {"q": "which?"}, qrels)
    labels = {name.upper(): 0 for name in corpus} | {"B": pytest.approx(1 / 3), "F": 1, "H": pytest.approx(2 / 3)}
    last = set()
    for seed in range(40):
        row = reranker.candidates(Fixed("abcdefgh"), city, n_docs=4, depth=4, seed=seed)[0]
        assert row["query"] == "which?" and row["document"][:2] == ["F", "A"]  # the answer, then the hardest
        assert row["document"][2] in "BCD"  # drawn from the depth
        assert row["label"] == [labels[text] for text in row["document"]]
        assert len(set(row["document"])) == 4
        last.add(row["document"][3])
    assert last == set("BCDEGH")  # from the whole collection
    assert reranker.candidates(Fixed("fab"), city, n_docs=2)[0]["document"] == ["F", "A"]


def graded(qrels):
    return Collection("city", "en", "train", "CC0", {"a": "A", "b": "B"}, {q: q for q in "qr"}, qrels)


def test_query_whose_best_grade_is_zero_is_left_out_with_a_notice(lang):
    words = {"en": "1 of 2 queries left out", "zh": "去掉了 2 个查询中的 1 个"}
    with pytest.warns(UserWarning, match=words[lang]):
        found = reranker.candidates(Fixed("ab"), graded({"q": {"a": 0, "b": 0}, "r": {"b": 2}}), n_docs=2)
    assert found[:] == {"query": ["r"], "document": [["B", "A"]], "label": [[1.0, 0.0]]}


@pytest.mark.parametrize("judged", [{}, {"r": {}}])
def test_query_without_judgements_is_named(lang, judged):
    words = {"en": r"query 'r' \(1 in all\) has no judgements", "zh": "查询 'r'（共 1 个）没有标注"}
    with pytest.raises(ValueError, match=words[lang]):
        reranker.candidates(Fixed("ab"), graded({"q": {"a": 1}} | judged), n_docs=2)


def test_collection_without_an_answer_is_refused(lang):
    words = {"en": "no query has a document above grade 0", "zh": "没有一个查询有 0 级以上的文档"}
    with pytest.raises(ValueError, match=words[lang]):
        reranker.candidates(Fixed("ab"), graded({"q": {"a": 0}, "r": {"b": 0}}), n_docs=2)


def test_small_collection_gives_short_lists():
    city = Collection("city", "en", "train", "CC0", {"a": "A", "b": "B"}, {"q": "?"}, {"q": {"b": 1}})
    assert reranker.candidates(Fixed("ab"), city, n_docs=3)[0]["document"] == ["B", "A"]


def test_first_stage_that_finds_nothing_but_the_answer_is_named(lang):
    city = Collection("city", "en", "train", "CC0", {"a": "tram", "b": "pool"}, {"q": "tram?"}, {"q": {"a": 3}})
    words = {"en": "BM25 finds no document for query 'q'", "zh": "对查询 'q'（'tram\\?'），BM25 除答案外没找到"}
    with pytest.raises(ValueError, match=words[lang]):
        reranker.candidates(lexical.BM25(city), city, n_docs=2, depth=2)


def test_seed_decides_the_draw():
    city = Collection("city", "en", "train", "CC0", {n: n for n in "abcdefgh"}, {"q": "?"}, {"q": {"a": 3}})
    draws = [reranker.candidates(Fixed("abcdefgh"), city, 4, seed=seed)[0]["document"] for seed in (0, 0, 1, 2, 3)]
    assert draws[0] == draws[1] and len(set(map(tuple, draws))) > 1


@pytest.mark.parametrize("n_docs, depth", [(1, 20), (6, 5)])
def test_candidate_lists_of_one_or_deeper_than_the_first_stage_are_refused(harbour, lang, n_docs, depth):
    words = {
        "en": f"n_docs={n_docs}, depth={depth}; a list needs 2",
        "zh": f"n_docs={n_docs}，depth={depth}；每个列表至少 2",
    }
    with pytest.raises(ValueError, match=words[lang]):
        reranker.candidates(Fixed("ab"), harbour, n_docs, depth=depth)


# what scores mean


def test_threshold_has_the_best_f1_of_all_cuts():
    rng = np.random.default_rng(0)
    labels = rng.random(60) < 0.3
    scores = rng.normal(size=60) + labels

    def f1(cut):
        chosen = scores >= cut
        return 2 * (chosen & labels).sum() / (chosen.sum() + labels.sum())

    found = reranker.threshold(scores, labels)
    assert f1(found) == max(map(f1, scores))


def test_threshold_without_a_true_label_is_refused(lang):
    with pytest.raises(ValueError, match={"en": "no label is true", "zh": "没有一个标签为真"}[lang]):
        reranker.threshold([0.1, 0.2], [False, False])


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta", "modernbert", "pooled"])
def test_calibrated_model_gives_the_share_of_answers_and_keeps_the_order(tmp_path, architecture):
    model = tiny.cross_encoder(architecture)
    pairs = [("q", "".join(random.Random(i).choices("abcdefgh", k=9))) for i in range(300)]
    raw = reranker.score(model, pairs)
    standard = (raw - raw.mean()) / raw.std()
    labels = np.random.default_rng(0).random(300) < 1 / (1 + np.exp(-(2 * standard - 1)))
    assert reranker.calibrate(model, raw, labels) is model
    model.save_pretrained(str(tmp_path))
    probability = CrossEncoder(str(tmp_path), device="cpu").predict(pairs)  # sigmoid is the library's default
    assert probability.mean() == pytest.approx(labels.mean(), abs=2e-3)  # holds at the optimum of a fit with an offset
    assert (np.argsort(raw[:50]) == np.argsort(reranker.score(model, pairs)[:50])).all()
    slope = np.polyfit(standard, np.log(probability / (1 - probability)), 1)[0]
    assert slope == pytest.approx(2, abs=0.7)


def test_calibration_needs_both_kinds_and_scores_that_help(lang):
    words = {"en": "all labels are equal", "zh": "标签全都一样"}
    with pytest.raises(ValueError, match=words[lang]):
        reranker.calibrate(tiny.cross_encoder(), [1.0, 2.0], [True, True])
    words = {"en": "higher scores go with fewer answers", "zh": "分数越高，答案反而越少"}
    with pytest.raises(ValueError, match=words[lang]):
        reranker.calibrate(tiny.cross_encoder(), [1.0, 2.0, 3.0, 4.0], [True, True, False, False])


@pytest.mark.parametrize("family", [llm, llm_scalar])
def test_line_that_a_decoder_cannot_keep_is_given_instead(tmp_path, lang, family):
    """Two of three right on either side of 0: the best line has the slope s with sigmoid(s) = 2 / 3, which is ln 2."""
    model = family.load(tiny.chat_folder("llama", tmp_path))
    scores, labels = [1, 1, 1, -1, -1, -1], [True, True, False, False, False, True]
    words = {"en": r"sigmoid\(0\.693 \* score", "zh": r"最后一层没有偏置.*sigmoid\(0\.693 \* score"}
    with pytest.raises(ValueError, match=words[lang]):
        reranker.calibrate(model, scores, labels)


def test_fused_scores_do_not_care_about_calibration():
    first, raw = {"a": 0.9, "b": 0.7, "c": 0.1}, {"a": -1.0, "b": 3.0, "c": 1.0}
    changed = {d: 0.3 * s + 2 for d, s in raw.items()}
    assert fusion.interpolate(first, raw, 0.5) == pytest.approx(fusion.interpolate(first, changed, 0.5))
