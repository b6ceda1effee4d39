"""Vectors whose first dimensions are vectors themselves: a head for them, and quality against dimension.
Taught in lesson 01b. Training is `embedding.train(..., mrl_dims=...)`, which wraps the library's MatryoshkaLoss.
"""

from retrieval_lab import embedding, metrics, search
from retrieval_lab.profiles import say


def add_head(model, dim: int):
    """Put a linear layer of ``dim`` outputs after the pooling; the model is changed in place and returned.

    It starts as the identity, so the vectors stay what they were (dimensions beyond the model's own start at 0). One layer serves
    every prefix, which is the "E" of MRL-E. It is saved with the model; a loaded model has it already. A Normalize module that
    the model ends on stays its end.

    Parameters
    ----------
    model : SentenceTransformer
    dim : the largest dimension to be used, or the width of a teacher

    Raises
    ------
    ValueError
        If the model has such a layer already, or dim < 1.

    Source: Kusupati et al. 2022 (MRL), section 3, efficient form; lesson 01b.

    >>> from retrieval_lab import tiny
    >>> add_head(tiny.encoder(), 48).get_embedding_dimension()
    48
    """
    import torch
    from sentence_transformers.sentence_transformer import modules

    old = next((module.out_features for module in model if isinstance(module, modules.Dense)), None)
    if dim < 1:
        raise ValueError(say(en=f"dim={dim}; use 1 or more", zh=f"dim={dim}；至少为 1"))
    if old is not None:
        raise ValueError(
            say(
                en=f"the model has a head of {old} dims already, loaded with it; train it on as it is, or start from a model without one",
                zh=f"模型已经带有一个 {old} 维的输出头（随模型一起加载）；直接接着训练，或换一个不带输出头的模型",
            )
        )
    width = model.get_embedding_dimension()
    head = modules.Dense(width, dim, activation_function=None, init_weight=torch.eye(dim, width))
    torch.nn.init.zeros_(head.linear.bias)
    normalises = isinstance(model[-1], modules.Normalize)
    model.insert(len(model) - 1 if normalises else len(model), head.to(model.device, model.dtype))
    return model


def quality(index: search.Dense, collection, dims: list[int], metric: str = "nDCG@10") -> dict[int, float]:
    """A metric for each prefix of the vectors; only the queries are encoded, once.

    Parameters
    ----------
    index : over the collection, of any model, whether trained for prefixes or not
    collection : the queries and judgements
    dims : prefixes, each from 1 to the width of the index's vectors

    Raises
    ------
    ValueError
        If a prefix is none: a slice of other numbers would give a score of another width under its name.

    Source: Kusupati et al. 2022, section 4.2; lesson 01b.
    """
    width = index.vectors.shape[1]
    if wrong := [dim for dim in dims if not 1 <= dim <= width]:
        raise ValueError(
            say(
                en=f"dims {wrong} are no prefixes of vectors of {width} dims; use 1 to {width}",
                zh=f"{width} 维的向量没有 {wrong} 维的前缀；用 1 到 {width}",
            )
        )
    queries = embedding.encode(index.model, list(collection.queries.values()), "query")
    return {dim: _score(index.doc_ids, queries[:, :dim], index.vectors[:, :dim], collection, metric) for dim in dims}


def _score(doc_ids: list[str], queries, docs, collection, metric: str) -> float:
    rows = zip(collection.queries, *search.top_k(queries, docs, 100), strict=True)
    run = {q: {doc_ids[i]: float(c) for i, c in zip(indices, cosines, strict=True)} for q, indices, cosines in rows}
    return metrics.evaluate(collection.qrels, run, (metric,), relevant=collection.relevant)[metric]
