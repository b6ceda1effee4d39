"""`retrieval-lab train`: from a configuration file to a saved model, for every family by the same steps.
Taught in lesson 07.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrieval_lab.profiles import say
from retrieval_lab.training_config import Config


def _load_embedding(config: Config):
    from retrieval_lab import embedding

    return embedding.load(config.model_name_or_path, config.pooling)


def _load_colbert(config: Config):
    from retrieval_lab import colbert_models

    return colbert_models.load(config.model_name_or_path)


def _load_reranker(config: Config):
    from retrieval_lab import reranker

    return reranker.load(config.model_name_or_path)


def _load_llm(config: Config):
    from retrieval_lab import llm

    return llm.load(config.model_name_or_path, max_seq_length=config.max_seq_length or 512)


def _load_scalar(config: Config):
    from retrieval_lab import llm_scalar

    named = {name: getattr(config, name) for name in ("query_format", "document_format", "seq", "special_token")}
    given = {name: value for name, value in named.items() if value is not None}
    given |= {"max_seq_length": config.max_seq_length or 512, "num_labels": config.num_labels, "seed": config.seed}
    return llm_scalar.load(config.model_name_or_path, **given)


@dataclass(frozen=True)
class Family:
    """What the steps need from a model family."""

    kinds: tuple[str, ...]  # of training file that it reads, the usual one first
    load: Callable  # config -> model
    module: str  # whose train(model, data, config) it is


_JUDGED = ("graded", "scored", "pair")
FAMILIES = {
    "embedding": Family(("triplet", "scored", "pair", "teacher"), _load_embedding, "embedding"),
    "colbert": Family(("triplet", "scored", "pair"), _load_colbert, "colbert"),
    "reranker": Family(_JUDGED, _load_reranker, "reranker"),
    "llm": Family(_JUDGED, _load_llm, "llm"),
    "llm_decoder": Family(_JUDGED, _load_scalar, "llm"),
}
OTHER_NAMES = {"bert_encoder": "reranker"}  # RAG-Retrieval has two kinds of reranker; its llm_decoder has a scalar head


def overrides(words: Sequence[str]) -> dict:
    """``--key value`` and ``--key=value`` as settings; a key without a value is true.

    Raises
    ------
    ValueError
        If a word is no key.

    >>> overrides(["--lr", "1e-4", "--epoch=2", "--use_lora"])
    {'lr': '1e-4', 'epoch': '2', 'use_lora': True}
    """
    settings: dict = {}
    words = list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise ValueError(
                say(en=f"{word!r} is no setting; write --name value", zh=f"{word!r} 不是设置；写成 --名字 值")
            )
        name, equals, value = word[2:].partition("=")
        has_value = words and not words[0].startswith("--")
        settings[name] = value if equals else (words.pop(0) if has_value else True)
    return settings


def run(config: Config):
    """Load, read, train, save into ``output_dir/model``; returns the model.

    Raises
    ------
    ValueError
        If the model type is unknown, model or training file is not named, or a setting is one that this family does not read.
    DataError
        If the training file has a problem.

    Source: lesson 07.
    """
    from retrieval_lab import training

    name = _family_name(config)
    family = FAMILIES[name]
    for needed in ("model_name_or_path", "train_dataset"):
        if getattr(config, needed) is None:
            raise ValueError(say(en=f"{needed} is not set", zh=f"没有设置 {needed}"))
    config.refuse_unread(name)
    data = read(config)
    model = with_head(with_texts(family.load(config), config), config)
    model = importlib.import_module(f"retrieval_lab.{family.module}").train(model, data, config)
    training.save(model, Path(config.output_dir) / "model")
    return model


def read(config: Config):
    """The training file as the family's dataset; triplets of embedding models are drawn anew every epoch."""
    from retrieval_lab import formats

    kind = _kind(config)
    options = {"min_label": config.min_label, "max_label": config.max_label, "skip_bad": config.skip_bad}
    if kind == "triplet":
        options |= {"neg_nums": config.neg_nums, "seed": config.seed, "redraw": config.model_type == "embedding"}
    return formats.read(config.train_dataset, kind, **options)


def _kind(config: Config) -> str:
    """What the file is read as: the first kind of the family that its format can feed."""
    from retrieval_lab import formats
    from retrieval_lab.data_rows import FEEDS

    report = formats.validate(config.train_dataset, min_label=config.min_label, max_label=config.max_label)
    if report.shape is None:
        raise formats.DataError(report)
    kinds = FAMILIES[_family_name(config)].kinds
    fitting = [kind for kind in kinds if kind in FEEDS[report.shape]]
    if not fitting:
        raise ValueError(
            say(
                en=f"{config.train_dataset} has lines of the format {report.shape!r}; model_type {config.model_type} reads {', '.join(kinds)}",
                zh=f"{config.train_dataset} 的格式是 {report.shape!r}；model_type {config.model_type} 能读 {'、'.join(kinds)}",
            )
        )
    return fitting[0]


def _family_name(config: Config) -> str:
    name = OTHER_NAMES.get(config.model_type, config.model_type)
    if name not in FAMILIES:
        known = ", ".join([*FAMILIES, *OTHER_NAMES])
        raise ValueError(
            say(
                en=f"model_type={config.model_type!r} is not known; use one of {known}",
                zh=f"不认识 model_type={config.model_type!r}；可用：{known}",
            )
        )
    return name


def with_texts(model, config: Config):
    """The model with the configured prompts and lengths, which are saved with it."""
    prompts = {"query": config.query_prompt, "document": config.document_prompt}
    if given := {name: text for name, text in prompts.items() if text is not None}:
        model.prompts = dict(model.prompts) | given
    for name, length in (("query_length", config.query_max_len), ("document_length", config.passage_max_len)):
        if length is not None:
            setattr(model[0], name, length)
    return model


def with_head(model, config: Config):
    """The model with a linear layer of ``max(mrl_dims)`` outputs on top, where that is more than it gives by itself; a line says so.

    Raises
    ------
    ValueError
        If the model has such a layer already, of fewer outputs.

    Source: `matryoshka.add_head`; lesson 01b.
    """
    from retrieval_lab import matryoshka

    if not config.mrl_dims or max(config.mrl_dims) <= model.get_embedding_dimension():
        return model
    width, dim = model.get_embedding_dimension(), max(config.mrl_dims)
    if is_first_process():
        print(
            say(
                en=f"mrl_dims go to {dim}, the model gives {width}: added a linear layer {width} -> {dim}",
                zh=f"mrl_dims 最大到 {dim}，而模型输出 {width} 维：加了一个线性层 {width} -> {dim}",
            )
        )
    return matryoshka.add_head(model, dim)


def is_first_process() -> bool:
    """True in the process that writes files: the only one, or the one of rank 0."""
    from sentence_transformers.util.distributed import get_rank

    return get_rank() == 0
