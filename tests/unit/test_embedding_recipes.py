"""Which loss, rows and batches `embedding.train` makes of its data, and what reaches the model."""

import json
import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers.sentence_transformer.modules import Dense

from retrieval_lab import batching, embedding, embedding_recipes, formats, losses, tiny, training
from retrieval_lab.embedding_recipes import GroupBatchSampler, recipe
from retrieval_lab.training import Config

SCORED = Dataset.from_dict(
    {
        "query": ["a", "a", "b", "b", "b"],
        "document": ["a one", "a two", "b one", "b two", "b three"],
        "score": [0.8, 0.2, 3.0, 1.0, 0.0],
        "group": [0, 0, 1, 1, 1],
    }
)
PAIRS = Dataset.from_dict({"query": ["a", "b", "c"], "positive": ["a a", "b b", "c c"]})
TRIPLETS = PAIRS.add_column("negative_1", ["x", "y", "z"])
TEACHER = Dataset.from_dict({"query": ["a", "b"], "label": np.eye(2, 32).tolist()})


@pytest.fixture
def config(tmp_path):
    def make(**changes):
        plain = {
            "output_dir": str(tmp_path / "run"),
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 4,
            "max_steps": 4,
        }
        return Config(**(plain | changes))

    return make


@pytest.mark.parametrize(
    "data, settings, expected",
    [
        (PAIRS, {}, "MultipleNegativesRankingLoss"),
        (TRIPLETS, {}, "MultipleNegativesRankingLoss"),
        (TRIPLETS, {"mini_batch_size": 2}, "CachedMultipleNegativesRankingLoss"),
        (TRIPLETS, {"use_inbatch_neg": False}, "OwnNegatives"),
        (SCORED, {}, "GroupedKL"),
        (SCORED, {"loss_type": "cosent"}, "CoSENTLoss"),
        (TEACHER, {}, "TeacherVectors"),
        (PAIRS, {"mrl_dims": [8]}, "MatryoshkaLoss"),
    ],
)
def test_loss_follows_from_columns_and_configuration(config, data, settings, expected):
    assert type(recipe(tiny.encoder(), data, config(**settings)).loss).__name__ == expected


@pytest.mark.parametrize("data", [PAIRS, TRIPLETS, SCORED, TEACHER])
def test_each_kind_of_data_trains(config, data):
    before = tiny.encoder().encode("tram")
    model = embedding.train(tiny.encoder(), data, config())
    assert np.isfinite(model.encode("tram")).all() and np.abs(model.encode("tram") - before).max() > 1e-3


def test_kl_brings_the_ranking_to_that_of_the_scores(config):
    model = embedding.train(tiny.encoder(), SCORED, config(num_train_epochs=40, max_steps=-1))
    query = embedding.encode(model, ["b"], "query")[0]
    cosines = embedding.encode(model, ["b one", "b two", "b three"]) @ query
    assert cosines[0] > cosines[1] > cosines[2]


def test_distillation_brings_the_student_to_its_teacher(config):
    texts = [f"text {i}" for i in range(12)]
    vectors = tiny.encoder(seed=1).encode(texts)
    data = Dataset.from_dict({"query": texts, "label": vectors.tolist()})
    before = (tiny.encoder().encode(texts) * vectors).sum(1).mean()
    model = embedding.train(tiny.encoder(), data, config(num_train_epochs=20, max_steps=-1))
    assert (model.encode(texts) * vectors).sum(1).mean() > before + 0.2


def test_scored_pairs_without_groups_are_grouped_by_query(config):
    labels = recipe(tiny.encoder(), SCORED.remove_columns("group"), config()).rows["label"][:]
    assert [group for _, group in labels] == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("names", [[2**24] * 2 + [2**24 + 1] * 3, [7, 7, -1, -1, -1], ["x"] * 2 + ["y"] * 3])
@pytest.mark.parametrize("form", [None, "numpy", "torch"])
def test_groups_of_any_name_stay_apart_in_the_labels_float32(config, names, form):
    data = SCORED.remove_columns("group").add_column("group", names).with_format(form)
    labels = torch.tensor(recipe(tiny.encoder(), data, config()).rows["label"][:], dtype=torch.float32)
    assert labels[:, 1].tolist() == [0, 0, 1, 1, 1]
    embedding.train(tiny.encoder(), data, config(max_steps=1))


@pytest.mark.parametrize("data", [TRIPLETS, TEACHER])
def test_format_of_tensors_changes_nothing(config, data):
    vectors = [
        embedding.train(tiny.encoder(), d, config(max_steps=2)).encode("a") for d in (data, data.with_format("torch"))
    ]
    np.testing.assert_array_equal(*vectors)


def test_prompt_of_a_row_takes_the_place_of_the_models_query_prompt(config):
    data = TRIPLETS.add_column("prompt_for_query", ["find: ", "", "find: "])
    model = tiny.encoder(prompts={"query": "query: ", "document": "passage: "})
    parts = recipe(model, data, config())
    assert parts.rows["query"][:] == ["find: a", "b", "find: c"]
    assert parts.prompts == {"positive": "passage: ", "negative_1": "passage: "}


def test_models_prompts_are_used_where_rows_have_none(config):
    model = tiny.encoder(prompts={"query": "query: ", "document": "passage: "})
    assert recipe(model, SCORED, config()).prompts == {"query": "query: ", "document": "passage: "}
    assert recipe(model, PAIRS, config()).prompts == {"query": "query: ", "positive": "passage: "}


def test_texts_of_a_teacher_stand_as_they_are_because_some_are_documents(config, monkeypatch):
    model, seen = tiny.encoder(prompts={"query": "query: ", "document": "passage: "}), []
    assert recipe(model, TEACHER, config()).prompts is None
    model[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]["input_ids"].shape[1]))
    embedding.train(model, TEACHER, config(max_steps=1))
    assert max(seen) == 3  # [CLS] a [SEP]


def test_another_answer_to_a_query_is_never_its_negative():
    """Query a has two answers; query b shares the second. The row a-one must not meet b, in whose place a-two stands."""
    rows = [("a", "one"), ("a", "two"), ("b", "two"), *((f"q{i}", f"p{i}") for i in range(13))]
    data = Dataset.from_list([{"query": q, "positive": p} for q, p in rows])
    make = batching.sampler(tiny.encoder(), data, ["query", "positive"])
    for seed in range(20):
        for batch in make(data, 8, False, seed=seed):
            assert len({0, 1, 2} & set(batch)) <= 1


def test_negatives_drawn_anew_each_epoch_reach_the_loss_as_columns(config, tmp_path, monkeypatch):
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    seen, forward = set(), MultipleNegativesRankingLoss.forward

    def watched(self, features, labels):
        seen.update(tuple(row.tolist()) for row in features[2]["input_ids"])
        assert len(features) == 3  # query, positive, negative_1
        return forward(self, features, labels)

    monkeypatch.setattr(MultipleNegativesRankingLoss, "forward", watched)
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(f'{{"query": "{c}", "pos": ["{c}{c}"], "neg": ["x{c}", "y{c}"]}}' for c in "abcdef"))
    data = formats.read(file, "triplet", neg_nums=1, redraw=True)
    embedding.train(tiny.encoder(), data, config(num_train_epochs=2, max_steps=-1))
    assert len(seen) == 12  # both negatives of each of the six queries, one an epoch


def redrawn(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(f'{{"query": "{c}", "pos": ["{c}{c}"], "neg": ["x{c}", "y{c}"]}}' for c in "abcdef"))
    return formats.read(file, "triplet", neg_nums=1, redraw=True)


def test_further_column_of_redrawn_rows_is_refused_and_no_negative(config, tmp_path, lang):
    data = redrawn(tmp_path).add_column("source", ["somewhere"] * 6)
    words = {"en": r"does not read the columns source;.*remove_columns\(\['source'\]\)", "zh": "不读这些列：source；"}
    with pytest.raises(ValueError, match=words[lang]):
        recipe(tiny.encoder(), data, config())
    parts = recipe(tiny.encoder(), data.remove_columns(["source"]), config())
    assert list(parts.rows[0]) == ["query", "positive", "negative_1"]
    formats.set_epoch(parts.rows, 1)  # still drawn anew
    assert parts.rows[:]["negative_1"] != redrawn(tmp_path)[:]["negative_1"]


def test_transform_of_the_users_own_is_refused_with_a_remedy(config, lang):
    data = PAIRS.with_transform(lambda rows: {name: [text.upper() for text in rows[name]] for name in rows})
    words = {"en": r"transform of your own.*Dataset.from_dict\(data\[:\]\)", "zh": "自定义的 transform"}
    with pytest.raises(ValueError, match=words[lang]):
        recipe(tiny.encoder(), data, config())
    assert recipe(tiny.encoder(), Dataset.from_dict(data[:]), config()).rows["query"][:] == ["A", "B", "C"]


@pytest.mark.parametrize("batch_size", [2, 3, 5, 100])
def test_groups_stay_whole_or_are_cut_evenly_and_no_row_is_lost(batch_size):
    rng = random.Random(0)
    groups = [rng.randrange(12) for _ in range(70)]
    sizes = {group: groups.count(group) for group in set(groups)}
    sampler = GroupBatchSampler(
        range(70), batch_size, groups=groups, lengths=[rng.randrange(1, 50) for _ in groups], seed=1
    )
    drawn = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) and max(map(len, batches)) <= batch_size
        assert sorted(row for batch in batches for row in batch) == list(range(70))
        for batch in batches:
            for group in {groups[row] for row in batch}:
                part = sum(groups[row] == group for row in batch)
                assert part == sizes[group] if sizes[group] <= batch_size else part >= min(2, batch_size // 2)
        drawn.append(batches)
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("n_groups", [1, 2, 3, 4, 5])
def test_each_process_gets_as_many_batches(monkeypatch, n_groups):
    monkeypatch.setattr(embedding_recipes, "get_world_size", lambda: 4)
    rows = range(2 * n_groups)
    batches = list(GroupBatchSampler(rows, 2, groups=[row // 2 for row in rows], lengths=[1] * len(rows)))
    assert len(batches) == (4 if n_groups < 5 else 8) and {row for batch in batches for row in batch} == set(rows)


def test_unknown_loss_is_refused(config, lang):
    words = {
        "en": "loss_type='mse' is not known; use one of in_batch, kl",
        "zh": "不认识 loss_type='mse'；可用：in_batch、kl",
    }
    with pytest.raises(ValueError, match=words[lang]):
        recipe(tiny.encoder(), PAIRS, config(loss_type="mse"))


@pytest.mark.parametrize(
    "data, settings, loss",
    [
        (SCORED, {}, "kl"),
        (SCORED, {"loss_type": "cosent"}, "cosent"),
        (TEACHER, {}, "teacher"),
        (TRIPLETS, {"use_inbatch_neg": False}, "in_batch, use_inbatch_neg=False"),
    ],
)
def test_gradcache_is_refused_without_in_batch_negatives(config, lang, data, settings, loss):
    words = {
        "en": f"mini_batch_size=2 would do nothing: .* not for {loss}; .* lower per_device_train_batch_size",
        "zh": f"mini_batch_size=2 不会起作用：.*不用于 {loss}；.*调小 per_device_train_batch_size",
    }
    with pytest.raises(ValueError, match=words[lang]):
        recipe(tiny.encoder(), data, config(mini_batch_size=2, **settings))


UNREAD = [
    (PAIRS, {"teacher_temperature": 0.5}, "in_batch"),
    (SCORED, {"use_inbatch_neg": False}, "kl"),
    (SCORED, {"loss_type": "cosent", "use_inbatch_neg": False}, "cosent"),
    (SCORED, {"loss_type": "cosent", "teacher_temperature": 0.5}, "cosent"),
    (TEACHER, {"use_inbatch_neg": False}, "teacher"),
]


@pytest.mark.parametrize("data, settings, loss", UNREAD)
def test_setting_that_the_loss_does_not_read_is_refused(config, lang, data, settings, loss):
    name, value = list(settings.items())[-1]
    words = {
        "en": f"{name}={value} would do nothing: the loss {loss} does not read it",
        "zh": f"{name}={value} 不会起作用",
    }
    with pytest.raises(ValueError, match=words[lang]):
        recipe(tiny.encoder(), data, config(**settings))


def test_temperatures_for_other_losses_of_a_run_are_let_through_for_a_teachers_vectors(config):
    """Lesson 01b and configs/embedding_distill.yaml set them once for several losses."""
    assert recipe(tiny.encoder(), TEACHER, config(temperature=0.02, teacher_temperature=0.08))


@pytest.mark.parametrize("data", [PAIRS, SCORED])
def test_distillation_weights_for_another_loss_are_refused(config, lang, data):
    words = {"en": "weights={'cosine': 1} would do nothing", "zh": "weights={'cosine': 1} 不会起作用"}
    with pytest.raises(ValueError, match=words[lang]):
        embedding.train(tiny.encoder(), data, config(), weights={"cosine": 1})


def test_data_without_the_losss_columns_is_refused(config, lang):
    words = {
        "en": "loss_type 'kl' needs rows with columns query, document, score; got 3 rows",
        "zh": "loss_type 'kl' 需要",
    }
    with pytest.raises(ValueError, match=words[lang]):
        recipe(tiny.encoder(), PAIRS, config(loss_type="kl"))


def test_scored_pairs_with_nothing_to_compare_are_refused(config, lang):
    words = {"en": "2 scored pairs, each of another query", "zh": "2 个打分对各属于不同的查询"}
    with pytest.raises(ValueError, match=words[lang]):
        recipe(tiny.encoder(), SCORED.select([0, 2]), config())


def test_dims_beyond_the_model_are_refused_for_a_teachers_vectors(config, lang):
    words = {"en": r"mrl_dims \[8, 64\] go beyond the model's 32 dims", "zh": "超过了模型的 32 维"}
    with pytest.raises(ValueError, match=words[lang]):
        recipe(tiny.encoder(), TEACHER, config(mrl_dims=[8, 64]))


def test_batches_of_one_scored_pair_are_refused(config, lang):
    words = {"en": "per_device_train_batch_size=1: a softmax", "zh": "per_device_train_batch_size=1：只有一篇"}
    with pytest.raises(ValueError, match=words[lang]):
        recipe(tiny.encoder(), SCORED, config(per_device_train_batch_size=1))


def test_pairs_without_any_negative_are_refused(config, lang):
    words = {"en": "use_inbatch_neg=False leaves these pairs without any negative", "zh": "use_inbatch_neg=False 时"}
    with pytest.raises(ValueError, match=words[lang]):
        recipe(tiny.encoder(), PAIRS, config(use_inbatch_neg=False))


def test_teacher_of_another_width_is_refused_before_training(config, lang):
    data = Dataset.from_dict({"query": ["a"], "label": [[0.0] * 47 + [1.0]]})
    words = {"en": "teacher's vectors have 48 dims, the model's 32", "zh": "教师的向量是 48 维"}
    with pytest.raises(ValueError, match=words[lang]):
        recipe(tiny.encoder(), data, config())
    assert recipe(tiny.encoder(), data, config(), weights={"structure": 1.0}).loss.weights == {"structure": 1.0}


def test_model_with_a_head_is_not_sent_to_add_another(config, lang):
    data, model = Dataset.from_dict({"query": ["a"], "label": [[0.0] * 47 + [1.0]]}), tiny.encoder()
    model.insert(2, Dense(32, 8))
    words = {"en": "the model's 8; leave the cosine term out", "zh": "模型的是 8 维；去掉余弦项"}
    with pytest.raises(ValueError, match=words[lang]):
        recipe(model, data, config())
    words = {"en": "8 dims; leave the larger ones out$", "zh": "8 维；去掉更大的$"}
    with pytest.raises(ValueError, match=words[lang]):
        recipe(model, PAIRS, config(mrl_dims=[16]))


def test_average_is_the_weighted_mean_and_leaves_the_models_alone():
    one, two = tiny.encoder(seed=0), tiny.encoder(seed=1)
    kept = one.encode("tram")
    mixed = embedding.average([one, two], [0.25, 0.75])
    for name, tensor in mixed.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, 0.25 * one.state_dict()[name] + 0.75 * two.state_dict()[name])
    np.testing.assert_array_equal(one.encode("tram"), kept)
    np.testing.assert_allclose(embedding.average([one, one]).encode("tram"), kept, atol=1e-6)


def test_card_of_an_average_names_its_parents_and_not_only_the_first(config, tmp_path):
    trained = embedding.train(tiny.encoder(), PAIRS, config())
    mixed = embedding.average([trained, tiny.encoder()], [0.25, 0.75])
    training.save(mixed, tmp_path / "mixed")
    first, second = json.loads((tmp_path / "mixed" / "lab_card.json").read_text(encoding="utf-8"))["average_of"]
    assert first == {"weight": 0.25} | trained.lab_card and set(second) == {"weight", "model"}
    assert set(trained.lab_card) > {"loss", "data_hash"}  # the parent keeps its own


def test_weights_of_an_average_may_be_an_array(tmp_path):
    models = [tiny.encoder(), tiny.encoder(seed=1)]
    mixed = embedding.average(models, np.array([0.25, 0.75]))
    np.testing.assert_array_equal(mixed.encode("tram"), embedding.average(models, [0.25, 0.75]).encode("tram"))
    assert json.dumps(mixed.lab_card)


def test_no_models_are_no_average(lang):
    with pytest.raises(ValueError, match={"en": "0 models with weights", "zh": "0 个模型"}[lang]):
        embedding.average([])


@pytest.mark.parametrize("weights", [[0.5, 0.6], [1.0], [0.2, 0.3, 0.5]])
def test_weights_that_are_no_average_are_refused(weights, lang):
    words = {"en": "2 models with weights .*add up to 1", "zh": "2 个模型，权重 .*和为 1"}
    with pytest.raises(ValueError, match=words[lang]):
        embedding.average([tiny.encoder(), tiny.encoder()], weights)


def test_one_model_is_no_average():
    with pytest.raises(ValueError, match="1 models with weights"):
        embedding.average([tiny.encoder()])


def test_models_of_different_layers_are_not_averaged(lang):
    words = {"en": "average only models that started from the same one", "zh": "只能平均同源的模型"}
    with pytest.raises(ValueError, match=words[lang]):
        embedding.average([tiny.encoder("bert"), tiny.encoder("modernbert")])


def test_every_loss_has_rows_and_batches():
    names = set(embedding_recipes.COLUMNS)
    assert names == set(embedding_recipes._ROWS) == set(embedding_recipes._LOSSES) == set(embedding_recipes._SAMPLERS)
    assert losses.DISTILLATION_WEIGHTS == {"cosine": 10.0, "structure": 200.0, "triplet": 20.0}
