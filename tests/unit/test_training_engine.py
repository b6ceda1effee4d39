"""What `training.fit` does between the first and the last step, against loops written out in plain torch."""

import copy
import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer import losses
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback

from retrieval_lab import checkpoints, formats, run_log, tiny, training
from retrieval_lab.training import Config


@pytest.fixture(autouse=True)
def own_log(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRIEVAL_LAB_RUNS", str(tmp_path / "log"))


WORDS = [
    "tram",
    "ferry",
    "pool",
    "library",
    "bridge",
    "harbour",
    "market",
    "museum",
    "theatre",
    "school",
    "park",
    "tower",
]


def pairs(n=12):
    return Dataset.from_dict({"query": WORDS[:n], "positive": [word[::-1] for word in WORDS[:n]]})


def labelled(n=12):
    return pairs(n).add_column("label", [(i % 3) / 2 for i in range(n)])


def in_order(dataset, batch_size, drop_last, **options):
    return DefaultBatchSampler(SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last)


def config(tmp_path, **changes) -> Config:
    plain = {"lr": 0.1, "warmup_ratio": 0, "lr_scheduler_type": "constant", "max_grad_norm": 1e9, "epoch": 1}
    return Config(output_dir=str(tmp_path / "run"), **(plain | changes))


def fit(model, data, loss, config, **options):
    """Plain gradient descent in the data's order: Adam would blow differences of rounding up."""
    return training.fit(model, data, loss, config, **({"optim": "sgd", "batch_sampler": in_order} | options))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def trained(tmp_path, name, loss, data, **changes):
    model = tiny.encoder()
    fit(model, data, loss(model), config(tmp_path / name, **changes))
    return weights(model)


def by_hand(loss, data, groups):
    """One step per group of micro-batches: the mean of their losses."""
    model = tiny.encoder()
    loss = loss(model)
    with Config().applied_to(model.train()):
        for group in groups:
            model.zero_grad()
            for rows in group:
                texts = [model.preprocess(data[rows][name]) for name in ("query", "positive")]
                labels = torch.tensor(data[rows]["label"]) if "label" in data.column_names else None
                (loss(texts, labels) / len(group)).backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.1 * p.grad if p.grad is not None else 0
    return weights(model)


def close(one, other):
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


# Accumulation and batches


def test_three_micro_batches_of_two_are_one_batch_of_six_where_each_row_has_its_own_loss(tmp_path):
    small = trained(tmp_path, "a", losses.CosineSimilarityLoss, labelled(), batch_size=2, gradient_accumulation_steps=3)
    large = trained(tmp_path, "b", losses.CosineSimilarityLoss, labelled(), batch_size=6)
    assert (small - weights(tiny.encoder())).abs().max() > 1e-3
    close(small, large)


def test_accumulation_does_not_add_negatives_but_gradcache_does(tmp_path):
    ranking = losses.MultipleNegativesRankingLoss

    def cached(model):
        return losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)

    large = trained(tmp_path, "large", ranking, pairs(), batch_size=6)
    accumulated = trained(tmp_path, "sum", ranking, pairs(), batch_size=2, gradient_accumulation_steps=3)
    close(trained(tmp_path, "cached", cached, pairs(), batch_size=6), large)
    assert (accumulated - large).abs().max() > 1e-3


def test_last_partial_group_steps(tmp_path):
    """Seven rows in batches of two, two batches a step: rows 5 and 6, then the single row 7, make the second step."""
    found = trained(
        tmp_path, "a", losses.CosineSimilarityLoss, labelled(7), batch_size=2, gradient_accumulation_steps=2
    )
    groups = [[slice(0, 2), slice(2, 4)], [slice(4, 6), slice(6, 7)]]
    close(found, by_hand(losses.CosineSimilarityLoss, labelled(7), groups))
    odd = trained(tmp_path, "b", losses.CosineSimilarityLoss, labelled(5), batch_size=2, gradient_accumulation_steps=2)
    close(odd, by_hand(losses.CosineSimilarityLoss, labelled(5), [groups[0], [slice(4, 5)]]))


def test_batch_larger_than_the_data_is_one_batch_of_all(tmp_path):
    found = trained(tmp_path, "a", losses.MultipleNegativesRankingLoss, pairs(5), batch_size=64)
    close(found, by_hand(losses.MultipleNegativesRankingLoss, pairs(5), [[slice(0, 5)]]))


def test_negatives_are_drawn_anew_in_every_epoch(tmp_path):
    file = tmp_path / "triplets.jsonl"
    lines = [{"query": word, "pos": word[::-1], "neg": [f"{word} {i}" for i in range(4)]} for word in WORDS]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data, seen = formats.read(file, "triplet", neg_nums=2, redraw=True), []

    class Watch(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            seen.append({data[0][name] for name in ("negative_1", "negative_2")})

    model = tiny.encoder()
    fit(
        model,
        data,
        losses.MultipleNegativesRankingLoss(model),
        config(tmp_path, epoch=4, batch_size=64),
        callbacks=[Watch()],
    )
    every = {f"tram {i}" for i in range(4)}
    assert seen[0] | seen[1] == every == seen[2] | seen[3]  # every real negative before one repeats


# Evaluation


class Scripted(BaseEvaluator):
    """Gives the next of its scores and keeps what it saw."""

    def __init__(self, scores):
        super().__init__()
        self.scores, self.modes, self.weights = list(scores), [], []
        self.primary_metric, self.greater_is_better = "ndcg@10", True

    def __call__(self, model, output_path=None, epoch=-1, steps=-1):
        self.modes.append(model.training)
        self.weights.append(weights(model).clone())
        return {"ndcg@10": self.scores[len(self.weights) - 1]}


def evaluated(tmp_path, scores, **changes):
    model, evaluator = tiny.encoder(), Scripted(scores)
    fit(model, labelled(), losses.CosineSimilarityLoss(model), config(tmp_path, **changes), evaluator=evaluator)
    return model, evaluator


def test_best_epoch_is_returned_and_its_checkpoints_are_cleared(tmp_path):
    model, evaluator = evaluated(tmp_path, [0.1, 0.5, 0.9, 0.3], epoch=3)
    assert len(evaluator.weights) == 4  # before the first step, then after each epoch
    assert torch.equal(weights(model), evaluator.weights[2]) and not torch.equal(weights(model), evaluator.weights[3])
    assert list((tmp_path / "run").glob("checkpoint-*")) == []
    assert (model.lab_card["before"], model.lab_card["after"]) == (0.1, 0.9)


def test_training_stops_when_the_score_stops_rising(tmp_path):
    _, evaluator = evaluated(tmp_path, [0.1, 0.5, 0.4, 0.3, 0.9], epoch=9, early_stopping_patience=2)
    assert len(evaluator.weights) == 4


@pytest.mark.parametrize("changes", [{}, {"eval_strategy": "no"}])
def test_patience_without_evaluations_is_refused(tmp_path, lang, changes):
    words = {"en": "early_stopping_patience=2 counts evaluations, and none will be made", "zh": "而这里不会评估"}
    with pytest.raises(ValueError, match=words[lang]):
        if changes:
            evaluated(tmp_path, [0.1, 0.5], early_stopping_patience=2, **changes)
        else:
            saved(tmp_path, early_stopping_patience=2)


def test_model_is_in_eval_mode_while_evaluated_by_the_librarys_evaluator(tmp_path):
    from retrieval_lab import evaluators

    file = tmp_path / "val.jsonl"
    file.write_text("".join(json.dumps({"query": word, "pos": word[::-1]}) + "\n" for word in WORDS))
    model, modes = tiny.encoder(), []
    model[0].register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    loss = losses.MultipleNegativesRankingLoss(model)
    fit(model, pairs(), loss, config(tmp_path, epoch=2, batch_size=4, val_dataset=str(file), dropout=True))
    assert modes.count(True) == 2 * 3 * 2  # epochs, batches, columns; all others are evaluations
    assert modes.count(False) > 0 and modes[0] is False and modes[-1] is False
    assert model.lab_card["metric"] == "val_cosine_ndcg@10"
    assert evaluators.from_file(model, file)(model)["val_cosine_ndcg@10"] == pytest.approx(model.lab_card["after"])


def test_metric_that_the_evaluator_does_not_have_is_refused(tmp_path, lang):
    with pytest.raises(
        ValueError, match={"en": "='mrr' is not among ndcg@10", "zh": "='mrr' 不在这些指标里：ndcg@10"}[lang]
    ):
        evaluated(tmp_path, [0.1], metric_for_best_model="mrr")


def test_checkpoints_at_other_times_than_evaluations_are_refused(tmp_path, lang):
    words = {"en": "can only be kept where both are the same", "zh": "两者相同才能留下最好的权重"}
    with pytest.raises(ValueError, match=words[lang]):
        evaluated(tmp_path, [0.1], save_strategy="steps")


def test_worse_than_before_is_said(tmp_path, capsys):
    model, _ = evaluated(tmp_path, [0.9, 0.5])
    assert "worse than the original" in capsys.readouterr().out and model.lab_card["findings"] == ["worse"]


# Checkpoints


def test_only_its_own_checkpoints_are_pruned(tmp_path):
    folder = tmp_path / "run"
    for name in ("checkpoint-best", "checkpoint-2-copy", "notes"):
        (folder / name).mkdir(parents=True)
    evaluated(
        tmp_path,
        [0] * 9,
        epoch=1,
        batch_size=3,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
        eval_strategy="no",
    )
    assert {path.name for path in folder.iterdir() if path.is_dir()} >= {
        "checkpoint-best",
        "checkpoint-2-copy",
        "notes",
    }
    assert {path.name for path in folder.glob("checkpoint-?")} == {"checkpoint-3", "checkpoint-4"}


def test_best_checkpoint_is_never_pruned(tmp_path):
    evaluated(tmp_path, [0, 0.9, 0.1, 0.2], epoch=3, batch_size=12, save_strategy="epoch", save_total_limit=1)
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-3"}


SAVED = {"epoch": 2, "batch_size": 6, "save_strategy": "epoch"}


def saved(tmp_path, **changes):
    model = tiny.encoder()
    fit(model, labelled(), losses.CosineSimilarityLoss(model), config(tmp_path, **SAVED | changes))
    return model


def test_folder_with_checkpoints_of_an_earlier_run_is_refused(tmp_path, lang):
    saved(tmp_path)
    words = {"en": "already holds checkpoint-4 of an earlier run", "zh": "已有之前某次训练的 checkpoint-4"}
    with pytest.raises(ValueError, match=words[lang]):
        saved(tmp_path)


def test_run_is_not_continued_with_other_settings(tmp_path, lang):
    saved(tmp_path)
    words = {
        "en": "other settings or data .*learning_rate: 0.1 -> 0.2",
        "zh": "设置或数据不同.*learning_rate: 0.1 -> 0.2",
    }
    with pytest.raises(ValueError, match=words[lang]):
        saved(tmp_path, resume=True, lr=0.2)


def test_run_is_not_continued_with_another_validation_file(tmp_path):
    """The best epoch would be chosen among scores of two files."""
    saved(tmp_path)
    with pytest.raises(ValueError, match=r"val_dataset: None -> 'other.jsonl'"):
        checkpoints.start(
            config(tmp_path, **SAVED, resume=True, val_dataset="other.jsonl"), run_log.data_hash(labelled())
        )


def test_checkpoints_of_another_program_are_not_continued(tmp_path, lang):
    saved(tmp_path)
    (tmp_path / "run" / "run.json").unlink()
    words = {"en": "checkpoints without run.json", "zh": "检查点没有 run.json"}
    with pytest.raises(ValueError, match=words[lang]):
        saved(tmp_path, resume=True)


def test_run_that_resumes_without_a_checkpoint_starts(tmp_path):
    assert torch.equal(weights(saved(tmp_path / "a", resume=True)), weights(saved(tmp_path / "b")))


def test_checkpoint_that_was_cut_off_while_saving_is_passed_over(tmp_path):
    whole = weights(saved(tmp_path / "a"))
    saved(tmp_path / "b")
    (tmp_path / "b" / "run" / "checkpoint-4" / "trainer_state.json").write_text('{"epoch": 1')
    resumed = saved(tmp_path / "b", resume=True)  # from checkpoint-2
    assert torch.equal(weights(resumed), whole)


# What a run leaves behind


def test_saved_model_has_a_card_and_loads_without_us(tmp_path):
    from sentence_transformers import SentenceTransformer

    model = saved(tmp_path)
    training.save(model, tmp_path / "model")
    card = json.loads((tmp_path / "model" / "lab_card.json").read_text())
    assert card["config"]["learning_rate"] == 0.1 and card["rows"] == 12 and card["steps"] == 4
    assert card["data_hash"] == run_log.data_hash(labelled())
    again = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert (again.encode("tram") == model.encode("tram")).all()


def test_resolved_configuration_lies_in_the_output_folder(tmp_path):
    saved(tmp_path)
    assert Config.read(tmp_path / "run" / "config.yaml").learning_rate == 0.1


def test_tensorboard_logs_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tb"))
    saved(tmp_path, log_with="tensorboard")
    assert list(Path(tmp_path).rglob("events.out.tfevents*"))


def test_gathered_weights_of_a_sharded_model_are_what_is_saved(tmp_path):
    """What FSDP's processes hand over at the end: the whole weights, while the model itself holds parts."""
    from sentence_transformers import SentenceTransformer

    from retrieval_lab.checkpoints import one_writer

    model, gathered = tiny.encoder(), tiny.encoder(seed=1)
    writer = one_writer(training._trainer_class(model))
    args = writer.training_args_class(output_dir=str(tmp_path), report_to="none")
    trainer = writer(model, args=args, train_dataset=pairs(), loss=losses.MultipleNegativesRankingLoss(model))
    assert trainer.shell is None
    trainer.shell = copy.deepcopy(model).to("meta")
    trainer._save(str(tmp_path / "model"), gathered.state_dict())
    again = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert (again.encode("tram") == gathered.encode("tram")).all()
