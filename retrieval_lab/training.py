"""The one function that trains any family, with the library's own trainer, and what it adds: resume, best epoch, log, doctor.
Taught in lesson 01 (the call) and lesson 07.
"""

import json
from pathlib import Path

from sentence_transformers.util.distributed import get_rank, get_world_size

from retrieval_lab import checkpoints, evaluators, run_log, training_doctor
from retrieval_lab.profiles import say
from retrieval_lab.training_config import Config
from retrieval_lab.training_faq import TrainingError

__all__ = ["Config", "TrainingError", "fit", "save"]


def fit(model, data, loss, config: Config, *, evaluator=None, callbacks=(), **arguments):
    """Train a model of sentence-transformers, of any family, with its own trainer; the model is changed in place and returned.

    The run is added to the run log, and ``model.lab_card`` says what the model was made from (`save` writes it). With an
    evaluator, the weights of the best evaluation are returned. A dataset read with ``redraw=True`` shows other negatives in
    every epoch.

    Parameters
    ----------
    model : SentenceTransformer, MultiVectorEncoder or CrossEncoder
    data : datasets.Dataset with the columns that the loss wants, in its order
    loss : a loss object of the model's family
    config : what to train with
    evaluator : a sentence-transformers evaluator, run in eval mode before the first step and after each epoch; None makes one of
        ``config.val_dataset``, if that is set
    callbacks : further ``transformers.TrainerCallback`` objects
    arguments : further training arguments of the library, e.g. ``prompts`` or ``batch_sampler``

    Raises
    ------
    ValueError
        If the columns do not fit the loss, ``output_dir`` holds checkpoints that this run would mix with, or settings about
        evaluations contradict each other.
    TrainingError
        If the gradient becomes NaN or infinite.

    Source: lesson 07.
    """
    doctor = training_doctor.Doctor(model, data, loss)
    evaluator = evaluator or _evaluator(model, config)
    _lend_negatives(loss, config)
    run = run_log.Run(model, data, loss, config)
    last = checkpoints.start(config, run.data_hash)
    own = checkpoints.OwnCheckpoints(config)
    with config.applied_to(model), run.measured(), doctor.watching():
        before = evaluator(model.eval()) if evaluator else None
        evaluation = _evaluation(config, evaluator, before)
        arguments = config.arguments() | evaluation | _tasks(model, data) | arguments
        trainer_class = checkpoints.one_writer(_trainer_class(model))
        args = trainer_class.training_args_class(**arguments)
        trainer = trainer_class(model=model, args=args, train_dataset=data, loss=loss, evaluator=evaluator)
        for callback in filter(None, [_redraw(data), own, doctor, _early_stopping(config, evaluator), *callbacks]):
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=last)
    doctor.compare(before, trainer)
    model.lab_card = run.finish(trainer, before, doctor.findings)
    model.sharded_by = trainer if trainer.is_fsdp_enabled else None
    return model.eval()


def save(model, folder: str | Path) -> None:
    """Save a model for plain sentence-transformers, and beside it ``lab_card.json``: base model, data, configuration, metrics.

    Under several processes all of them call this and one writes.

    Raises
    ------
    AttributeError
        If the model was made neither by `fit` nor by `embedding.average`; then ``model.save_pretrained`` is all there is to do.
    """
    card = model.lab_card
    if model.sharded_by:  # the processes gather the weights together
        model.sharded_by.save_model(str(folder))
    if get_rank() == 0:
        if not model.sharded_by:
            model.save_pretrained(str(folder))
        text = json.dumps(card, indent=1, ensure_ascii=False)
        Path(folder, "lab_card.json").write_text(text, encoding="utf-8")


def _evaluator(model, config: Config):
    if config.val_dataset is None:
        return None
    return evaluators.from_file(model, config.val_dataset, min_label=config.min_label, max_label=config.max_label)


def _lend_negatives(loss, config: Config) -> None:
    """Under several processes: the documents of all of them are negatives for each query."""
    inner = training_doctor.inner(loss)
    if hasattr(inner, "gather_across_devices") and get_world_size() > 1:
        inner.gather_across_devices = config.negatives_cross_device


def _tasks(model, data) -> dict:
    """Which columns are queries and which documents, for a model that cuts the two at different lengths."""
    from sentence_transformers import SentenceTransformerTrainer

    lengths = [getattr(model[0], name, None) for name in ("query_length", "document_length")]
    if lengths == [None, None] or _trainer_class(model) is not SentenceTransformerTrainer:  # the others go by position
        return {}
    texts = [name for name in training_doctor.columns(data) if name not in training_doctor.LABELS]
    return {"router_mapping": {name: "query" if name == "query" else "document" for name in texts}}


def _evaluation(config: Config, evaluator, before: dict | None) -> dict:
    """The trainer's arguments that evaluate and keep the best weights; checkpoints come with each evaluation."""
    if evaluator is None or config.eval_strategy == "no":
        return {}
    if config.save_strategy not in ("no", config.eval_strategy):
        raise ValueError(
            say(
                en=f"save_strategy={config.save_strategy!r} with eval_strategy={config.eval_strategy!r}: the best weights can only be kept where both are the same",
                zh=f"save_strategy={config.save_strategy!r} 而 eval_strategy={config.eval_strategy!r}：两者相同才能留下最好的权重",
            )
        )
    every = config.eval_steps or config.save_steps
    steps = {"eval_steps": every, "save_steps": every} if config.eval_strategy == "steps" else {}
    metric = config.metric_for_best_model or evaluator.primary_metric
    if metric not in before:
        among = ", ".join(before)
        raise ValueError(
            say(
                en=f"metric_for_best_model={metric!r} is not among {among}",
                zh=f"metric_for_best_model={metric!r} 不在这些指标里：{among}",
            )
        )
    best = {
        "load_best_model_at_end": True,
        "metric_for_best_model": metric,
        "greater_is_better": evaluator.greater_is_better,
    }
    return {"eval_strategy": config.eval_strategy, "save_strategy": config.eval_strategy, **steps, **best}


def _early_stopping(config: Config, evaluator):
    from transformers import EarlyStoppingCallback

    patience = config.early_stopping_patience
    if patience and (evaluator is None or config.eval_strategy == "no"):
        raise ValueError(
            say(
                en=f"early_stopping_patience={patience} counts evaluations, and none will be made; set val_dataset, and eval_strategy to epoch or steps",
                zh=f"early_stopping_patience={patience} 按评估次数计，而这里不会评估；设置 val_dataset，并把 eval_strategy 设为 epoch 或 steps",
            )
        )
    return EarlyStoppingCallback(patience) if patience else None


def _redraw(data):
    """A callback that shows the negatives of each epoch, where the dataset redraws them."""
    from transformers import TrainerCallback

    from retrieval_lab.negatives import NegativeDraw, set_epoch

    if not isinstance(data.format["format_kwargs"].get("transform"), NegativeDraw):
        return None

    class Redraw(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **kwargs):
            set_epoch(data, int(state.epoch or 0))

    return Redraw()


def _trainer_class(model):
    from sentence_transformers import (
        CrossEncoder,
        CrossEncoderTrainer,
        MultiVectorEncoder,
        MultiVectorEncoderTrainer,
        SentenceTransformerTrainer,
    )

    # By family, not by the class named in the model: a learner's own subclass trains as its parent does.
    families = {CrossEncoder: CrossEncoderTrainer, MultiVectorEncoder: MultiVectorEncoderTrainer}
    return next((t for family, t in families.items() if isinstance(model, family)), SentenceTransformerTrainer)
