"""The recipes on real weights: a decoder as encoder, an average, negatives mined from the shipped corpus."""

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from retrieval_lab import corpora, demo, embedding, llm_lora, mining, models
from retrieval_lab.training import Config

TEXTS = ["A tram runs every ten minutes.", "", "Where do I renew my library card? " * 30]


def test_smollm2_gives_the_end_tokens_state_alone_in_a_batch_and_after_merging(tmp_path):
    model = embedding.load("smollm2", "lasttoken", prompts={"query": "Query: ", "document": ""})
    model.max_seq_length = 48
    folder = models.resolve("smollm2")
    tokenizer, bare = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    ids = tokenizer("Query: " + TEXTS[0])["input_ids"] + [tokenizer.eos_token_id]
    with torch.no_grad():
        expected = bare(torch.tensor([ids])).last_hidden_state[0, -1].numpy()
    found = model.encode_query(TEXTS[0])
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    for side in ("left", "right"):
        model.tokenizer.padding_side = side
        units = embedding.encode(model, TEXTS, "query")
        alone = np.concatenate([embedding.encode(model, [text], "query") for text in TEXTS])
        np.testing.assert_allclose(units, alone, atol=1e-4)

    settings = {"use_lora": True, "lora_target_modules": ["q_proj", "v_proj"], "max_steps": 2, "learning_rate": 1e-3}
    rows = demo.training_data("en", 8).select_columns(["query", "positive"])
    config = Config(output_dir=str(tmp_path / "run"), per_device_train_batch_size=4, max_seq_length=32, **settings)
    adapted = embedding.encode(embedding.train(model, rows, config), TEXTS, "query")
    assert np.abs(adapted - units).max() > 1e-3
    llm_lora.merge(model).save_pretrained(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"))
    np.testing.assert_allclose(again.encode_query(TEXTS, normalize_embeddings=True), adapted, atol=1e-3)


def test_average_of_a_model_with_itself_is_that_model():
    model = embedding.load("minilm")
    np.testing.assert_allclose(embedding.average([model, model]).encode(TEXTS), model.encode(TEXTS), atol=1e-6)


def test_filters_leave_fewer_unlabelled_answers_among_mined_negatives():
    train = corpora.load("city_services", "en", "train")
    pairs = demo.training_data("en").shuffle(seed=0).select(range(48)).select_columns(["query", "positive"])
    families = {text for text in pairs["positive"]}
    passages = list(dict.fromkeys([*families, *list(train.corpus.values())[:60]]))
    known = mining.answers(train)
    share = {}
    for name, filters in {"open": mining.Filters(percent=None), "filtered": mining.Filters(percent=0.9)}.items():
        mined = mining.mine_hard_negatives(embedding.load("minilm"), pairs, passages, filters=filters)
        share[name] = np.mean([row["negative_1"] in known[row["query"]] for row in mined])
    assert share["filtered"] <= share["open"]
    careful = mining.mine_hard_negatives(embedding.load("minilm"), pairs, passages, known=known)
    assert not any(row["negative_1"] in known[row["query"]] for row in careful)
