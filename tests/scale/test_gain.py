"""The promise of the README, kept in small: a few hundred training questions raise a real encoder by more than luck, shuffled ones do not."""

import numpy as np

from retrieval_lab import corpora, demo, embedding, metrics, search, training

CONFIG = training.Config(num_train_epochs=1, max_seq_length=96, output_dir="runs/test")


def ndcg(model, collection):
    run = search.Dense(model, collection).search(collection.queries, 10)
    return metrics.evaluate(collection.qrels, run, ["nDCG@10"], per_query=True)["nDCG@10"]


def test_real_pairs_help_by_more_than_the_interval_and_shuffled_pairs_do_not():
    city = corpora.load("city_services", "en")
    data = demo.training_data("en").shuffle(seed=0).select(range(320)).select_columns(["query", "positive"])
    order = np.random.default_rng(0).permutation(len(data))
    shuffled = data.select_columns("query").add_column("positive", [data["positive"][i] for i in order])
    before = ndcg(embedding.load("minilm"), city)
    after = ndcg(embedding.train(embedding.load("minilm"), data, CONFIG), city)
    noise = ndcg(embedding.train(embedding.load("minilm"), shuffled, CONFIG), city)
    assert metrics.paired_bootstrap(before, after)[0] > 0
    assert metrics.paired_bootstrap(before, noise)[0] <= 0
