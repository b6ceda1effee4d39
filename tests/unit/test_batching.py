"""Batches by length: nothing lost, nothing twice, nothing that clashes."""

import random
import time
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset

from retrieval_lab import colbert, embedding, tiny
from retrieval_lab.batching import BucketBatchSampler, checked_columns, token_budget


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", [1, 64, 500, 10**6])
def test_every_index_comes_once_and_the_budget_holds(seed, budget):
    rng = random.Random(seed)
    lengths = [rng.randint(1, 200) for _ in range(rng.randint(1, 80))]
    batches = token_budget(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = max(lengths[i] for i in batch) * len(batch)
        assert padded <= budget or len(batch) == 1


def test_text_longer_than_the_budget_is_alone():
    assert token_budget([50, 3, 3], budget=6) == [[0], [1, 2]]


def test_batches_are_as_full_as_the_budget_allows():
    assert [len(batch) for batch in token_budget([10] * 20, budget=70)] == [7, 7, 6]


def test_no_texts_no_batches():
    assert token_budget([]) == []


def sampler(n=100, batch_size=8, drop_last=False, texts=None, seed=0, window=8, lengths=None, world_size=1):
    rng = random.Random(99)
    lengths = lengths or [rng.randint(5, 200) for _ in range(n)]
    texts = texts or [{f"q{i}", f"p{i}"} for i in range(n)]
    data = Dataset.from_dict({"query": [""] * n})
    options = {"lengths": lengths, "texts": texts, "seed": seed, "window": window, "world_size": world_size}
    return BucketBatchSampler(data, batch_size, drop_last, **options)


def crowded(n: int, seed: int = 1) -> list[set]:
    """Texts of which many are shared."""
    rng = random.Random(seed)
    return [{f"q{rng.randint(0, n // 3)}", f"p{rng.randint(0, n // 2)}", f"n{rng.randint(0, n)}"} for _ in range(n)]


@pytest.mark.parametrize("n, batch_size", [(1, 8), (8, 8), (100, 8), (101, 16), (30, 100)])
@pytest.mark.parametrize("make", [lambda n: None, crowded])
def test_each_row_comes_once_an_epoch(n, batch_size, make):
    batches = list(sampler(n, batch_size, texts=make(n)))
    assert sorted(i for batch in batches for i in batch) == list(range(n))
    assert max(map(len, batches)) <= batch_size


@pytest.mark.parametrize("seed", range(4))
def test_no_text_occurs_twice_in_a_batch(seed):
    texts = crowded(120, seed)
    for batch in sampler(120, 16, texts=texts, seed=seed):
        assert max(Counter(text for i in batch for text in texts[i]).values()) == 1


def test_rows_that_all_clash_come_one_by_one():
    assert sorted(sampler(5, 4, texts=[{"same", f"p{i}"} for i in range(5)])) == [[0], [1], [2], [3], [4]]


def test_epochs_differ_and_come_back_the_same():
    one = sampler()
    epochs = []
    for epoch in (0, 1, 2, 0):
        one.set_epoch(epoch)
        epochs.append(list(one))
    assert epochs[0] == epochs[3]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_order_depends_on_the_seed_only():
    assert list(sampler(seed=3)) == list(sampler(seed=3))
    assert list(sampler(seed=3)) != list(sampler(seed=4))


@pytest.mark.parametrize("texts", [None, crowded(100)])
def test_drop_last_keeps_whole_batches_only(texts):
    kept, every = sampler(drop_last=True, texts=texts), sampler(texts=texts)
    assert sorted(kept) == sorted(batch for batch in every if len(batch) == 8)


@pytest.mark.parametrize("drop_last", [False, True])
def test_length_is_the_number_of_batches(drop_last):
    one = sampler(101, drop_last=drop_last, texts=crowded(101))
    assert len(one) == len(list(one))


def test_batches_hold_texts_of_like_length():
    """Padding of the whole epoch, against the same rows drawn at random."""
    one = sampler(800, 8)
    order = list(range(800))
    random.Random(0).shuffle(order)
    drawn = [order[i : i + 8] for i in range(0, 800, 8)]

    def padding(batches):
        return sum(max(one.lengths[i] for i in batch) * len(batch) for batch in batches) / sum(one.lengths)

    assert padding(one) < 1.2 < 1.5 < padding(drawn)


def test_long_and_short_batches_are_mixed():
    one = sampler(64, 8, lengths=list(range(1, 65)))
    first = [one.lengths[batch[0]] for batch in one]
    assert first not in (sorted(first), sorted(first, reverse=True))


@pytest.mark.parametrize("n", [17, 33, 97])
def test_row_that_is_left_over_gets_a_second_one(n):
    """Alone it would have no negative, and its step would teach nothing."""
    batches = list(sampler(n, 16))
    assert min(map(len, batches)) == 2 and sum(map(len, batches)) == n


@pytest.mark.parametrize("seed", range(4))
def test_every_epoch_has_the_promised_number_of_batches(seed):
    """The trainer counts them once; a surplus would never be reached, a lack would cut the last step off."""
    texts = crowded(120, seed)
    one = sampler(120, 16, texts=texts, seed=seed)
    for epoch in range(8):
        one.set_epoch(epoch)
        batches = list(one)
        assert len(batches) == len(one)
        assert sorted(i for batch in batches for i in batch) == list(range(120))
        assert all(max(Counter(text for i in batch for text in texts[i]).values()) == 1 for batch in batches)


@pytest.mark.parametrize("n, world_size", [(48, 2), (53, 2), (50, 4)])
def test_processes_share_the_batches_that_one_process_would_make(n, world_size):
    """Same rows a step, equally many in each process, and no text twice over all of them."""
    texts = crowded(n)
    many, one = sampler(n, 4, texts=texts, world_size=world_size), sampler(n, 4 * world_size, texts=texts)
    pieces = list(many)
    joint = [pieces[i : i + world_size] for i in range(0, len(pieces), world_size)]
    assert len(pieces) == len(many)
    for parts in joint:
        assert len({len(part) for part in parts}) == 1
        rows = [i for part in parts for i in part]
        assert max(Counter(text for i in rows for text in texts[i]).values()) == 1
    if n % (4 * world_size) == 0 and min(map(len, one)) == 4 * world_size:
        assert [sorted(i for part in parts for i in part) for parts in joint] == [sorted(batch) for batch in one]
    assert n - sum(map(len, pieces)) == sum(len(batch) % world_size for batch in one)


def naive(one: BucketBatchSampler, order: list[int]) -> list[list[int]]:
    """Each batch goes through all rows that are left, in their order."""
    batches = []
    while order:
        batch = []
        for index in order:
            if len(batch) < one.rows and all(one.texts[index].isdisjoint(one.texts[other]) for other in batch):
                batch.append(index)
        batches.append(batch)
        order = [index for index in order if index not in batch]
    return batches


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n, batch_size", [(1, 4), (120, 16), (121, 3), (60, 100)])
def test_batches_are_those_of_a_walk_over_all_rows_that_are_left(n, batch_size, seed):
    one = sampler(n, batch_size, drop_last=True, texts=crowded(n, seed))
    order = random.Random(seed).sample(range(n), n)
    assert one._without_repeats(list(order)) == naive(one, order)


def test_200_000_rows_are_laid_into_batches_in_seconds():
    """A list of all rows that are left, copied for every batch, takes time with their square: here 8 s instead of 0.2."""
    n, one = 200_000, sampler(8)
    one.texts = [{i} for i in range(n)]
    start = time.process_time()
    assert len(one._without_repeats(list(range(n)))) == n // 8
    assert time.process_time() - start < 3


def test_texts_without_a_token_share_a_batch_with_the_shortest_other():
    assert token_budget([0, 9, 0, 2], budget=100) == [[1], [3, 0, 2]]
    assert token_budget([0, 9, 8], budget=100) == [[1], [2, 0]]
    assert token_budget([0, 0]) == [[0, 1]]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """Its tokenizer adds no token of its own, so an empty text has none."""
    return tiny.chat_folder("llama", tmp_path_factory.mktemp("decoder"))


@pytest.mark.parametrize("texts", [["", "tram"], ["a ferry to the pier", "", "tram", ""]])
def test_empty_text_is_encoded_as_the_library_does(decoder, texts):
    model = embedding.load(decoder, "mean")
    np.testing.assert_allclose(
        embedding.encode(model, texts), model.encode_document(texts, normalize_embeddings=True), atol=1e-5
    )
    assert [len(vectors) for vectors in colbert.encode(colbert.load(decoder), texts)] == [
        len(model.tokenizer(text)["input_ids"]) for text in texts
    ]


def test_only_empty_texts_are_refused(decoder, lang):
    words = {"en": "none of 2 texts has a token.*leave empty texts out", "zh": "2 个文本都没有词元.*把空文本去掉"}
    for encode, model in ((embedding.encode, embedding.load(decoder, "mean")), (colbert.encode, colbert.load(decoder))):
        with pytest.raises(ValueError, match=words[lang]):
            encode(model, ["", ""])


def test_prompt_in_place_of_the_models_own_counts_as_tokens(decoder):
    model = embedding.load(decoder, "mean", prompts={"query": "query: ", "document": ""})
    assert embedding.encode(model, ["", "tram"], "query", prompt="").shape == (2, 32)
    assert np.linalg.norm(embedding.encode(model, [""], prompt="find")) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name, values", [("hard_negative", ["x", "y"]), ("label", [[1.0], [0.0]])])
def test_column_that_would_be_dropped_is_refused_by_name(lang, name, values):
    data = Dataset.from_dict({"query": ["a", "b"], "positive": ["c", "d"], "negative_1": ["e", "f"], name: values})
    words = {"en": f"does not read the columns {name}; its columns are query, positive", "zh": f"不读这些列：{name}；"}
    with pytest.raises(ValueError, match=words[lang]):
        checked_columns(data)
    assert checked_columns(data.remove_columns(name)) == ["query", "positive", "negative_1"]
