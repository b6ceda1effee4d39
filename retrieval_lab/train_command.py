"""`retrieval-lab train`: from a configuration file to a saved model, for every family by the same steps.
Taught in lesson 07.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retrieval_lab.profiles import say
from retrieval_lab.training_config import Config

# The kinds of training file that a family reads, the usual one first.
KINDS = {
    "embedding": ("triplet", "scored", "pair", "teacher"),
    "colbert": ("triplet", "scored", "pair"),
    "reranker": ("graded", "scored", "pair"),
    "llm": ("graded", "scored", "pair"),
    "llm_decoder": ("graded", "scored", "pair"),
}
OTHER_NAMES = {"bert_encoder": "reranker"}  # RAG-Retrieval has two kinds of reranker; its llm_decoder has a scalar head


@dataclass(frozen=True)
class Family:
    """What the steps need from a model family."""

    load: object  # config -> model
    train: object  # (model, data, config) -> model


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
        If the model type is unknown, or model or training file is not named.
    DataError
        If the training file has a problem.

    Source: lesson 07.
    """
    from retrieval_lab import training

    family = _family(config)
    for name in ("model_name_or_path", "train_dataset"):
        if getattr(config, name) is None:
            raise ValueError(say(en=f"{name} is not set", zh=f"没有设置 {name}"))
    data = read(config)
    model = with_texts(family.load(config), config)
    model = family.train(model, data, config)
    training.save(model, Path(config.output_dir) / "model")
    return model


def read(config: Config):
    """The training file as the family's dataset; triplets of embedding models are drawn anew every epoch."""
    from retrieval_lab import formats

    kind = _kind(config)
    options = {"min_label": config.min_label, "max_label": config.max_label}
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
    kinds = KINDS[OTHER_NAMES.get(config.model_type, config.model_type)]
    fitting = [kind for kind in kinds if kind in FEEDS[report.shape]]
    if not fitting:
        raise ValueError(
            say(
                en=f"{config.train_dataset} has lines of the format {report.shape!r}; model_type {config.model_type} reads {', '.join(kinds)}",
                zh=f"{config.train_dataset} 的格式是 {report.shape!r}；model_type {config.model_type} 能读 {'、'.join(kinds)}",
            )
        )
    return fitting[0]


def _family(config: Config) -> Family:
    from retrieval_lab import embedding, reranker

    def load_colbert(config):
        from retrieval_lab import colbert_models

        return colbert_models.load(config.model_name_or_path)

    def load_llm(config):
        from retrieval_lab import llm

        return llm.load(config.model_name_or_path, max_seq_length=config.max_seq_length or 512)

    def load_scalar(config):
        from retrieval_lab import llm_scalar

        named = {name: getattr(config, name) for name in ("query_format", "document_format", "seq", "special_token")}
        given = {name: value for name, value in named.items() if value is not None}
        return llm_scalar.load(config.model_name_or_path, num_labels=config.num_labels, seed=config.seed, **given)

    def late(model, data, config):
        from retrieval_lab import colbert

        return colbert.train(model, data, config)

    def decoder(model, data, config):
        from retrieval_lab import llm

        return llm.train(model, data, config)

    families = {
        "embedding": Family(lambda c: embedding.load(c.model_name_or_path, c.pooling), embedding.train),
        "colbert": Family(load_colbert, late),
        "reranker": Family(lambda c: reranker.load(c.model_name_or_path), reranker.train),
        "llm": Family(load_llm, decoder),
        "llm_decoder": Family(load_scalar, decoder),
    }
    name = OTHER_NAMES.get(config.model_type, config.model_type)
    if name not in families:
        known = ", ".join([*families, *OTHER_NAMES])
        raise ValueError(
            say(
                en=f"model_type={config.model_type!r} is not known; use one of {known}",
                zh=f"不认识 model_type={config.model_type!r}；可用：{known}",
            )
        )
    return families[name]


def with_texts(model, config: Config):
    """The model with the configured prompts and lengths, which are saved with it."""
    prompts = {"query": config.query_prompt, "document": config.document_prompt}
    if given := {name: text for name, text in prompts.items() if text is not None}:
        model.prompts = dict(model.prompts) | given
    for name, length in (("query_length", config.query_max_len), ("document_length", config.passage_max_len)):
        if length is not None:
            setattr(model[0], name, length)
    return model


def is_first_process() -> bool:
    """True in the process that writes files: the only one, or the one of rank 0."""
    from sentence_transformers.util.distributed import get_rank

    return get_rank() == 0
