"""Cross-encoders: one score for a query and a document read together. Load, score, rerank, fine-tune a plain CrossEncoder.
Taught in lesson 03.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrieval_lab import batching, decoders, models, reranker_data
from retrieval_lab.profiles import say
from retrieval_lab.reranker_calibration import calibrate, threshold
from retrieval_lab.reranker_data import candidates
from retrieval_lab.training import Config, fit

__all__ = ["LOSSES", "calibrate", "candidates", "load", "rerank", "score", "threshold", "train"]


def load(name: str | Path, seed: int = 0):
    """A CrossEncoder with one output, by alias, hub id or folder.

    A saved reranker is loaded as it is. An encoder gets a fresh head of one output, which means nothing before training, so a
    line says so. The head reads what the encoder has learned to gather: of a retriever that pools otherwise than by its first
    token, the pooled vector (its pooling is kept, and the saved model is one for sentence-transformers); of all others, the
    first token, by transformers' own classification head. On the shipped corpus a mean-pooling retriever learns from the
    pooled vector within 40 steps, where from its first token it needs 100 or more.

    Parameters
    ----------
    name : what `models.resolve` takes
    seed : of the fresh head's random weights

    Raises
    ------
    ValueError
        If the model is a decoder (`llm.load` takes those) or a classifier with several outputs.

    Source: lesson 03.
    """
    from sentence_transformers import CrossEncoder

    folder = models.resolve(name)
    if decoders.is_decoder(folder):
        raise ValueError(
            say(
                en=f"{name} is a decoder; llm.load makes a reranker of it",
                zh=f"{name} 是解码器；用 llm.load 把它变成重排器",
            )
        )
    if not (
        decoders.saved_as(folder) == "CrossEncoder"
        or decoders.architecture(folder).endswith("ForSequenceClassification")
    ):
        return _with_fresh_head(folder, seed)
    model = CrossEncoder(str(folder))
    if model.num_labels != 1:
        raise ValueError(
            say(
                en=f"{name} has {model.num_labels} outputs: it sorts pairs into classes, and a reranker gives one score; load its encoder instead",
                zh=f"{name} 有 {model.num_labels} 个输出，是给文本对分类的；重排器只给一个分数，换一个模型，或只用它的编码器",
            )
        )
    return model


def _with_fresh_head(folder: Path, seed: int):
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from torch.nn import Identity

    weights, pooling = str(decoders.weights_folder(folder)), _pooling(folder)
    with fresh_head(seed):
        if pooling is None or pooling.pooling_mode == "cls":
            task = {"transformer_task": "sequence-classification", "config_kwargs": {"num_labels": 1}}
            return CrossEncoder(modules=[Transformer(weights, **task)]).eval()
        dim = pooling.get_embedding_dimension()
        head = Dense(dim, 1, activation_function=Identity(), module_output_name="scores")
        return CrossEncoder(modules=[Transformer(weights), pooling, head]).eval()


def _pooling(folder: Path):
    """The pooling of a saved retriever; None for a plain encoder."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    found = [module["path"] for module in decoders.modules(folder) if module["type"].endswith(".Pooling")]
    return Pooling.load(str(folder), subfolder=found[0]) if found else None


@contextlib.contextmanager
def fresh_head(seed: int):
    """While a model gets a new head: seeded random weights, and one line instead of transformers' table of missing ones."""
    import torch
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        logging.set_verbosity(level)
    print(
        say(
            en="a fresh head: train it before you trust a score",
            zh="新加了一个随机的头：训练之后，得分才有意义",
        )
    )


def score(
    model, pairs: Sequence[tuple[str, str]], *, sigmoid: bool = False, slices: bool = False, budget: int = 2048
) -> np.ndarray:
    """One score a pair, equal to ``model.predict`` but batched by tokens.

    Parameters
    ----------
    model : CrossEncoder with one output
    pairs : n of (query, document), in any order and of any length
    sigmoid : squeeze the logits into 0 .. 1; the order stays
    slices : read a document that is too long in overlapping pieces and take the best piece's score. Otherwise its end is cut
        off; of an overlong query the end is cut off in either case
    budget : tokens of a padded batch

    Returns
    -------
    (n,) float32

    Raises
    ------
    ValueError
        If a pair is not two strings.

    Source: Dai & Callan 2019, *Deeper Text Understanding for IR* (MaxP); lesson 03.

    >>> from retrieval_lab import tiny
    >>> score(tiny.cross_encoder(), [("tram", "every ten minutes"), ("tram", "")]).shape
    (2,)
    """
    pairs = reranker_data.checked_pairs(pairs)
    if slices:
        pieces = [reranker_data.slices(model, *pair) for pair in pairs]
        values = _scores(model, [pair for group in pieces for pair in group], sigmoid, budget)
        ends = np.cumsum([len(group) for group in pieces], dtype=int)[:-1]
        return np.array([part.max() for part in np.split(values, ends)] if pieces else [], np.float32)
    return _scores(model, pairs, sigmoid, budget)


def _scores(model, pairs: list[tuple[str, str]], sigmoid: bool, budget: int) -> np.ndarray:
    import torch
    from tqdm.auto import tqdm

    options = {"activation_fn": torch.nn.Sigmoid() if sigmoid else torch.nn.Identity(), "show_progress_bar": False}
    scores = np.zeros(len(pairs), np.float32)
    with tqdm(total=len(pairs), unit="pair", desc="rerank", leave=False, disable=len(pairs) < 64) as bar:
        for batch in batching.token_budget(reranker_data.token_lengths(model, pairs), budget):
            scores[batch] = model.predict([pairs[i] for i in batch], batch_size=len(batch), **options)
            bar.update(len(batch))
    return scores


def rerank(model, query: str, docs: Sequence[str], top_k: int | None = None, **options) -> dict[int, float]:
    """Places in ``docs``, best first, each with its score.

    Parameters
    ----------
    model : CrossEncoder with one output
    query : one question
    docs : any number of texts, none and one included
    top_k : how many to return; None returns all
    options : as for `score`

    Raises
    ------
    ValueError
        If ``docs`` is one string or top_k is below 1.

    >>> from retrieval_lab import tiny
    >>> rerank(tiny.cross_encoder(), "tram", [])
    {}
    """
    if isinstance(docs, str):
        raise ValueError(
            say(
                en=f"docs is one string ({docs[:30]!r}), which would be read letter by letter; give a list: [text]",
                zh=f"docs 是一个字符串（{docs[:30]!r}），会被逐字拆开；要给列表：[text]",
            )
        )
    if top_k is not None and top_k < 1:
        raise ValueError(say(en=f"top_k={top_k}; use 1 or more, or None", zh=f"top_k={top_k}；应不小于 1，或为 None"))
    scores = score(model, [(query, doc) for doc in docs], **options)
    order = np.argsort(-scores, kind="stable")[:top_k]
    return {int(i): float(scores[i]) for i in order}


LOSSES = ("point_ce", "point_mse", "pairwise", "lambda", "listwise")
LABEL_TEMPERATURE = 0.1  # labels lie in 0 .. 1: a softmax of 1 against 0 would call the wrong document half as good


def train(model, data, config: Config | None = None, *, freeze_layers: int = 0):
    """Fine-tune on labelled documents, by sentence-transformers' own trainer and losses.

    ``config.loss_type`` chooses: "listwise" (the default; cross-entropy between the softmax of a query's labels and that of its
    scores), "pairwise" (each better document against each worse one), "lambda" (the same, weighted by what a swap costs in
    nDCG), "point_ce" and "point_mse" (each document by itself).

    Parameters
    ----------
    model : CrossEncoder with one output; it is changed in place and returned
    data : datasets.Dataset as `formats.read` returns (kinds pair, triplet, graded and scored; labels 0 .. 1), or as
        `candidates` returns. Pairs have no negatives: they are drawn from the other rows of a batch, listwise
    config : see `training.Config`; ``per_device_train_batch_size`` counts queries, for the point losses documents
    freeze_layers : so many of the first layers, and the word table, stay as they are; the backward pass ends above them, which
        saves a third of the time where half of the layers are frozen

    Raises
    ------
    ValueError
        If the loss is unknown, a setting is one that only other families read, the columns are none of those, labels leave 0 .. 1,
        the loss compares documents and no query has two, or fewer than ``freeze_layers`` layers exist.

    Source: Cao et al. 2007 (ListNet); Burges et al. 2005 (RankNet); lesson 03.
    """
    config = config or Config(per_device_train_batch_size=8)
    config.refuse_unread("reranker")
    with _frozen(model, freeze_layers):
        return fitted(model, data, config)


def fitted(model, data, config: Config):
    """What all rerankers' training shares; `train` here and `llm.train` say first which settings they read."""
    kind = config.chosen_loss(LOSSES, "listwise")
    rows = reranker_data.rows(data, kind, LABEL_TEMPERATURE)
    with config.applied_to(model):  # lengths are counted after truncation
        sampler = reranker_data.sampler(model, rows)
    return fit(model, rows, _loss(model, kind, rows), config, batch_sampler=sampler)


@contextlib.contextmanager
def _frozen(model, n_layers: int):
    """While training: the first layers and what lies below them without gradients."""
    import torch

    base = model.model.base_model
    layers = next(module for module in base.modules() if isinstance(module, torch.nn.ModuleList))
    if not 0 <= n_layers <= len(layers):
        raise ValueError(
            say(
                en=f"freeze_layers={n_layers}, but the model has {len(layers)} layers",
                zh=f"freeze_layers={n_layers}，但模型只有 {len(layers)} 层",
            )
        )
    parts = [base.embeddings, *layers[:n_layers]] if n_layers else []
    weights = [weight for part in parts for weight in part.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def _loss(model, kind: str, rows):
    from sentence_transformers.cross_encoder import losses
    from torch import nn

    if "positive" in rows.column_names:
        return losses.MultipleNegativesRankingLoss(model, num_negatives=4, activation_fn=nn.Identity(), scale=1.0)
    everything = {"mini_batch_size": -1}  # all documents of the batch in one forward pass
    return {
        "point_ce": lambda: losses.BinaryCrossEntropyLoss(model),
        "point_mse": lambda: losses.MSELoss(model, activation_fn=nn.Sigmoid()),
        "pairwise": lambda: losses.RankNetLoss(model, **everything),
        "lambda": lambda: losses.LambdaLoss(model, **everything),
        "listwise": lambda: losses.ListNetLoss(model, **everything),
    }[kind]()
