"""One vector a text: load, encode, fine-tune. Everything here is a plain SentenceTransformer before and after.
Taught in lesson 01.
"""

from pathlib import Path

import numpy as np

from retrieval_lab import batching, models
from retrieval_lab.profiles import say
from retrieval_lab.training import Config, fit


def load(name: str | Path, pooling: str | None = None):
    """A SentenceTransformer by alias, hub id or folder.

    Parameters
    ----------
    name : what `models.resolve` takes
    pooling : "cls", "mean", "lasttoken" ...; needed when the folder is a plain checkpoint that does not say which pooling it was trained with

    Raises
    ------
    ValueError
        If the model does not say how to pool and ``pooling`` is not given, or does say and another one is given.

    Source: lesson 01.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    folder = models.resolve(name)
    if (folder / "modules.json").is_file():
        return _with_known_pooling(SentenceTransformer(str(folder)), name, pooling)
    if pooling is None:
        raise ValueError(
            say(
                en=f"{name} does not say how its token vectors become one vector; give pooling='cls' (BERT, BGE), 'mean' (E5, GTE) or 'lasttoken' (decoder LLMs), as its card says: a wrong one costs quality in silence",
                zh=f"{name} 没有写明怎样把词元向量合成一个向量；按模型卡给出 pooling='cls'（BERT、BGE）、'mean'（E5、GTE）或 'lasttoken'（解码器大模型）：选错不会报错，只会变差",
            )
        )
    transformer = modules.Transformer(str(folder))
    return SentenceTransformer(modules=[transformer, modules.Pooling(transformer.get_embedding_dimension(), pooling)])


def _with_known_pooling(model, name, pooling):
    saved = [module.pooling_mode for module in model if hasattr(module, "pooling_mode")]
    if pooling is not None and saved and saved[0] not in (pooling, (pooling,)):
        raise ValueError(
            say(
                en=f"{name} was trained with pooling {saved[0]!r}, not {pooling!r}; leave `pooling` out",
                zh=f"{name} 训练时用的池化是 {saved[0]!r}，不是 {pooling!r}；不要再给 pooling",
            )
        )
    return model


def encode(model, texts: list[str], kind: str = "document", budget: int = 2048) -> np.ndarray:
    """Vectors of unit length, equal to ``model.encode_query`` / ``encode_document`` but batched by tokens.

    Parameters
    ----------
    model : SentenceTransformer
    texts : n texts, in any order and of any length
    kind : "query" or "document": which of the model's prompts is put before each text, once
    budget : tokens of a padded batch

    Returns
    -------
    (n, dim) float32

    Raises
    ------
    ValueError
        If ``texts`` is one string instead of a list, or ``kind`` is neither of the two.

    >>> from retrieval_lab import tiny
    >>> encode(tiny.encoder(), ["tram", "ferry"]).shape
    (2, 32)
    """
    vectors = np.zeros((len(texts), model.get_embedding_dimension()), np.float32)
    for batch, found in batching.encoded(model, texts, kind, budget, normalize_embeddings=True):
        vectors[batch] = found
    return vectors


def train(model, data, config: Config | None = None):
    """Fine-tune with in-batch negatives (and the hard negatives of the data), by sentence-transformers' own trainer.

    Parameters
    ----------
    model : SentenceTransformer; it is changed in place and returned
    data : datasets.Dataset with columns ``query, positive[, negative_1, ...]``, as `formats.read` returns
    config : see `training.Config`; the defaults fit a thousand pairs on a CPU

    The model's own prompts are put before queries and documents, as `encode` will do. Rows that share a text never meet in a
    batch, batches hold texts of like length.

    Raises
    ------
    ValueError
        If the columns are not those above or there are no rows.

    Source: Henderson et al. 2017, section 4 (in-batch negatives); Karpukhin et al. 2020, section 3.2; lesson 01.
    """
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    config = config or Config()
    columns = batching.checked_columns(data)
    loss = MultipleNegativesRankingLoss(model, scale=1 / config.temperature)
    with config.applied_to(model):  # lengths are counted after truncation
        sampler = batching.sampler(model, data, columns)
    return fit(
        model,
        data.select_columns(columns),
        loss,
        config,
        prompts=batching.prompts(model, columns),
        batch_sampler=sampler,
    )
