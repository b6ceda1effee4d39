"""The head that prefixes share, and quality by dimension."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize

from retrieval_lab import embedding, embedding_recipes, matryoshka, metrics, search, tiny
from retrieval_lab.training import Config

TEXTS = ["tram", "the ferry to the north pier", ""]
ROWS = Dataset.from_dict({"query": list("abcdefgh"), "positive": [f"{c} {c}" for c in "abcdefgh"]})


def config(tmp_path, **changes):
    return Config(
        output_dir=str(tmp_path / "run"), max_steps=3, per_device_train_batch_size=4, learning_rate=1e-2, **changes
    )


def test_new_head_leaves_the_vectors_as_they_were():
    before = tiny.encoder().encode(TEXTS)
    np.testing.assert_allclose(matryoshka.add_head(tiny.encoder(), 32).encode(TEXTS), before, atol=1e-6)
    wider = matryoshka.add_head(tiny.encoder(), 40).encode(TEXTS)
    np.testing.assert_allclose(wider, np.pad(before, ((0, 0), (0, 8))), atol=1e-6)


def test_model_that_normalised_still_ends_on_normalise():
    model = matryoshka.add_head(tiny.encoder(), 48)
    assert isinstance(model[-1], Normalize) and isinstance(model[-2], Dense)
    np.testing.assert_allclose(np.linalg.norm(model.encode(TEXTS), axis=1), 1, atol=1e-6)


def test_model_that_did_not_normalise_ends_on_the_head(tmp_path):
    model = embedding.load(tiny.folder("bert", tmp_path), "mean")
    assert isinstance(matryoshka.add_head(model, 16)[-1], Dense)


def test_head_is_trained_saved_and_not_put_on_again(tmp_path, lang):
    model = matryoshka.add_head(tiny.encoder(), 16)
    embedding.train(model, ROWS, config(tmp_path, mrl_dims=[4, 8]))
    assert np.abs(model[2].linear.weight.detach().numpy() - np.eye(16, 32)).max() > 1e-3
    model.save_pretrained(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert [type(module) for module in again] == [type(module) for module in model]
    for dim in (4, 16):
        found = again.encode(TEXTS, truncate_dim=dim, normalize_embeddings=True)
        np.testing.assert_allclose(found, model.encode(TEXTS, truncate_dim=dim, normalize_embeddings=True), atol=1e-6)
    words = {"en": "has a head of 16 dims already", "zh": "已经带有一个 16 维的输出头"}
    with pytest.raises(ValueError, match=words[lang]):
        matryoshka.add_head(again, 16)


def test_head_of_no_width_is_refused(lang):
    with pytest.raises(ValueError, match={"en": "dim=0; use 1 or more", "zh": "dim=0；至少为 1"}[lang]):
        matryoshka.add_head(tiny.encoder(), 0)


def test_every_prefix_has_unit_length():
    model = tiny.encoder()
    with model.truncate_embeddings(8):
        np.testing.assert_allclose(np.linalg.norm(embedding.encode(model, TEXTS), axis=1), 1, atol=1e-6)


def test_prefix_loss_is_the_sum_of_the_losses_of_its_prefixes(tmp_path):
    model = tiny.encoder()
    vectors = {name: model.encode(ROWS[name][:4]) for name in ("query", "positive")}
    expected = 0.0
    for dim in (8, 32):
        queries, docs = (v[:, :dim] / np.linalg.norm(v[:, :dim], axis=1, keepdims=True) for v in vectors.values())
        scores = queries @ docs.T / 0.05
        expected += float(np.mean(np.log(np.exp(scores).sum(1)) - scores.diagonal()))
    small = Config(
        output_dir=str(tmp_path / "run"),
        max_steps=1,
        per_device_train_batch_size=4,
        learning_rate=1e-9,
        mrl_dims=[8],
        logging_steps=1,
    )
    loss = embedding_recipes.recipe(model, ROWS.select(range(4)), small).loss
    found = loss(
        [dict(model.tokenizer(ROWS[name][:4], padding=True, return_tensors="pt")) for name in ("query", "positive")],
        None,
    )
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_dims_beyond_the_model_are_refused(tmp_path, lang):
    words = {"en": r"mrl_dims \[8, 64\] go beyond the model's 32 dims", "zh": r"超过了模型的 32 维"}
    with pytest.raises(ValueError, match=words[lang]):
        embedding.train(tiny.encoder(), ROWS, config(tmp_path, mrl_dims=[8, 64]))


def test_quality_equals_searching_with_a_truncated_model(harbour):
    model = tiny.encoder()
    found = matryoshka.quality(search.Dense(model, harbour), harbour, [4, 32], metric="MRR@10")
    for dim in (4, 32):
        with model.truncate_embeddings(dim):
            run = search.Dense(model, harbour).search(harbour.queries, 10)
        expected = metrics.evaluate(harbour.qrels, run, ["MRR@10"], relevant=harbour.relevant)["MRR@10"]
        assert found[dim] == pytest.approx(expected)


def test_head_has_the_type_of_the_models_weights():
    model = matryoshka.add_head(tiny.encoder().to(torch.bfloat16), 48)
    assert model[2].linear.weight.dtype == torch.bfloat16 and model.encode("tram").shape == (48,)


@pytest.mark.parametrize("dim", [-4, 0, 33])
def test_dims_that_are_no_prefix_have_no_quality(harbour, lang, dim):
    words = {
        "en": rf"dims \[{dim}\] are no prefixes of vectors of 32 dims; use 1 to 32",
        "zh": "没有 .* 维的前缀；用 1 到 32",
    }
    with pytest.raises(ValueError, match=words[lang]):
        matryoshka.quality(search.Dense(tiny.encoder(), harbour), harbour, [32, dim])
