"""The configuration of training: what it refuses, what it hands on, and what it undoes."""

import contextlib
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import TrainingArguments

from retrieval_lab.training import Config


class Model(torch.nn.Module):
    """Two word tables, one of them just over 100,000 rows."""

    def __init__(self):
        super().__init__()
        self.large, self.small = torch.nn.Embedding(100_001, 2), torch.nn.Embedding(100_000, 2)
        self.first, self.second = torch.nn.Dropout(0.3), torch.nn.Dropout(0.1)
        self.max_seq_length = 128

    @property
    def state(self):
        """(large trained, small trained, two rates, length)"""
        tables = self.large.weight.requires_grad, self.small.weight.requires_grad
        return *tables, self.first.p, self.second.p, self.max_seq_length


@pytest.fixture
def model():
    return Model()


USUAL = (True, True, 0.3, 0.1, 128)


def test_only_the_large_table_is_frozen_and_only_while_training(model):
    with Config().applied_to(model):
        assert model.state == (False, True, 0.0, 0.0, 128)
    assert model.state == USUAL


def test_nothing_is_frozen_when_not_asked_for(model):
    with Config(freeze_word_embeddings=False, dropout=True, max_seq_length=32).applied_to(model):
        assert model.state == (True, True, 0.3, 0.1, 32)
    assert model.state == USUAL


def test_everything_is_undone_after_an_error(model):
    with pytest.raises(KeyboardInterrupt), Config(max_seq_length=32).applied_to(model):
        raise KeyboardInterrupt
    assert model.state == USUAL


def test_table_that_was_frozen_before_stays_frozen(model):
    model.large.weight.requires_grad_(False)
    with Config().applied_to(model):
        pass
    assert model.large.weight.requires_grad is False


def test_unknown_name_is_refused():
    with pytest.raises(ValidationError, match="learning_rat is no setting; the nearest is learning_rate"):
        Config(learning_rat=1e-4)


@pytest.mark.parametrize(
    "field, value",
    [
        ("learning_rate", 0),
        ("temperature", 0),
        ("temperature", -1),
        ("num_train_epochs", 0),
        ("per_device_train_batch_size", 0),
        ("warmup_ratio", 1.5),
        ("warmup_ratio", 1),
        ("weight_decay", -0.1),
        ("max_seq_length", 0),
        ("learning_rate", "fast"),
    ],
)
def test_impossible_value_is_refused(field, value):
    with pytest.raises(ValidationError, match=field):
        Config(**{field: value})


def test_output_folder_in_the_home_folder_is_the_trainers():
    config = Config(output_dir="~/run")
    assert config.output_dir == TrainingArguments(**config.arguments()).output_dir == str(Path.home() / "run")


def test_number_written_as_text_is_read_as_a_number():
    """PyYAML reads 1e-4 as a string."""
    assert Config(learning_rate="1e-4").learning_rate == 0.0001


def test_configuration_cannot_be_changed_afterwards():
    with pytest.raises(ValidationError, match="frozen"):
        Config().learning_rate = 1


def test_arguments_are_those_of_the_librarys_trainer(tmp_path, monkeypatch):
    config = Config(output_dir=str(tmp_path), learning_rate=1e-3, warmup_ratio=0.25, seed=7)
    arguments = TrainingArguments(**config.arguments())
    assert (arguments.learning_rate, arguments.seed, arguments.disable_tqdm) == (1e-3, 7, True)
    assert arguments.get_warmup_steps(100) == 25
    monkeypatch.setenv("RETRIEVAL_LAB_QUIET", "0")
    assert config.arguments()["disable_tqdm"] is False


def test_length_beyond_the_models_positions_is_refused(lang):
    from retrieval_lab import tiny

    words = {
        "en": "max_seq_length=131, but the model has 130 positions",
        "zh": "max_seq_length=131，但模型只有 130 个位置",
    }
    with (
        pytest.raises(ValueError, match=words[lang]),
        Config(max_seq_length=131).applied_to(tiny.encoder()),
    ):
        pass


def test_positions_that_count_from_the_padding_are_fewer_than_the_table_has():
    """XLM-R starts at the padding's row + 1, here 1: of 130 rows 129 are for tokens, and one token more is out of the table."""
    import torch

    from retrieval_lab import tiny

    model = tiny.encoder("xlm-roberta")
    for n, fits in ((129, True), (130, False)):
        ids = torch.full((1, n), 7)
        with contextlib.nullcontext() if fits else pytest.raises((IndexError, RuntimeError), match="out of"):
            model[0].auto_model(input_ids=ids, attention_mask=torch.ones_like(ids))
        refused = pytest.raises(ValueError, match="the model has 129 positions")
        with contextlib.nullcontext() if fits else refused, Config(max_seq_length=n).applied_to(model):
            pass
