"""Systems that search a collection with a model: dense (exact cosine), sparse, late interaction, several fused, one reranked by another.
Taught in lessons 00 (fusion), 01 (dense), 02 (late interaction, sparse) and 03 (reranking). A system has a ``name`` and ``search(queries, k) -> run``.
"""

from pathlib import Path

import numpy as np

from retrieval_lab import embedding, index_card, reranker
from retrieval_lab.corpora import Collection
from retrieval_lab.fusion import interpolate, reciprocal_rank_fusion
from retrieval_lab.index_card import fingerprint
from retrieval_lab.late_interaction import LateInteraction
from retrieval_lab.profiles import say
from retrieval_lab.sparse import Sparse

__all__ = [
    "Dense",
    "Fused",
    "LateInteraction",
    "Reranked",
    "Sparse",
    "fingerprint",
    "interpolate",
    "reciprocal_rank_fusion",
    "remember_last",
    "top_k",
]


def top_k(queries: np.ndarray, docs: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k documents with the largest cosine for each query; equal scores in the documents' order.

    Parameters
    ----------
    queries : (n_queries, dim), rows of any length but zero
    docs : (n_docs, dim)
    k : at least 1; more than n_docs gives n_docs

    Returns
    -------
    indices (n_queries, k), cosines (n_queries, k), best first

    Raises
    ------
    ValueError
        If the widths differ, k < 1, or a vector is zero or not finite.

    >>> indices, cosines = top_k(np.array([[2.0, 0.0]]), np.array([[0.0, 1.0], [3.0, 4.0]]), k=2)
    >>> indices.tolist(), cosines.round(3).tolist()
    ([[1, 0]], [[0.6, 0.0]])
    """
    if queries.shape[1] != docs.shape[1]:
        raise ValueError(
            say(
                en=f"queries have {queries.shape[1]} dims, docs {docs.shape[1]}; encode both with the same model",
                zh=f"查询是 {queries.shape[1]} 维，文档是 {docs.shape[1]} 维；两边要用同一个模型编码",
            )
        )
    index_card.check_k(k)
    cosines = _unit(queries, "query") @ _unit(docs, "document").T  # (n_queries, n_docs)
    indices = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return indices, np.take_along_axis(cosines, indices, axis=1)


def _unit(vectors: np.ndarray, what: str) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = ~np.isfinite(norms) | (norms == 0)
    if bad.any():
        place, norm = int(np.argmax(bad)), norms[bad][0]
        raise ValueError(
            say(
                en=f"{what} {place} has a vector of length {norm}: it has no direction; was the text or the model broken?",
                zh=f"{what} {place} 的向量长度是 {norm}，没有方向；是文本还是模型坏了？",
            )
        )
    return vectors / norms


class Dense:
    """Exact cosine search over one vector a document.

    Parameters
    ----------
    model : SentenceTransformer
    collection : encoded when the object is made
    vectors : (n_docs, dim), if they are there already

    Raises
    ------
    ValueError
        If ``vectors`` are not one a document.
    """

    def __init__(self, model, collection: Collection, name: str = "dense", vectors: np.ndarray | None = None):
        self.model, self.name = model, name
        self.doc_ids = list(collection.corpus)
        self._texts_hash = index_card.texts_hash(collection.corpus)
        self.vectors = embedding.encode(model, list(collection.corpus.values())) if vectors is None else vectors
        index_card.check_size(len(self.vectors), collection, say(en="vectors holds", zh="vectors 里有"))

    def search(self, queries: dict[str, str], k: int) -> dict[str, dict[str, float]]:
        """The k nearest documents of each query, as a run of cosines."""
        if not queries:
            return {}
        indices, cosines = top_k(embedding.encode(self.model, list(queries.values()), "query"), self.vectors, k)
        rows = zip(queries, indices, cosines, strict=True)
        return {q: {self.doc_ids[i]: float(c) for i, c in zip(row, values, strict=True)} for q, row, values in rows}

    def save(self, folder: str | Path) -> None:
        """Write ``vectors.npy`` and ``index.json``, which says by which model and from which texts they were made."""
        folder = index_card.write(folder, self.name, self.model, self._texts_hash, file="vectors.npy")
        np.save(folder / "vectors.npy", self.vectors)

    @classmethod
    def load(cls, folder: str | Path, model, collection: Collection) -> "Dense":
        """Read a saved index.

        Raises
        ------
        ValueError
            If it is an index of another kind, or was made by another model (or other prompts or length), or from other texts.
        """
        card = index_card.read(folder, model, collection, "vectors.npy")
        return cls(model, collection, card["name"], np.load(Path(folder) / "vectors.npy"))


class Fused:
    """Several systems as one, by reciprocal rank fusion of their ``depth`` best documents."""

    def __init__(self, systems: list, name: str | None = None, depth: int = 100):
        self.systems, self.depth = systems, depth
        self.name = name or " + ".join(system.name for system in systems)

    def search(self, queries: dict[str, str], k: int) -> dict[str, dict[str, float]]:
        """The k best documents of each query after fusion, best first."""
        index_card.check_k(k)
        fused = reciprocal_rank_fusion([system.search(queries, max(k, self.depth)) for system in self.systems])
        return {q: dict(sorted(docs.items(), key=lambda item: -item[1])[:k]) for q, docs in fused.items()}


class Reranked:
    """A first stage whose best documents a slower model reads again, each together with the query.

    Parameters
    ----------
    first : a system, or several fused
    model : what ``score`` takes
    collection : where the documents' texts are
    depth : candidates a query; the others stay below them
    weight, temperature : how the two scores are added, see `interpolate`; weight 1 forgets the first stage
    score : ``score(model, pairs) -> (n_pairs,)``: `reranker.score`, or another family's

    Source: Nogueira & Cho 2019, *Passage Re-ranking with BERT*; lesson 03.
    """

    def __init__(
        self,
        first,
        model,
        collection: Collection,
        *,
        depth=20,
        weight=1.0,
        temperature=None,
        name=None,
        score=reranker.score,
    ):
        self.first, self.model, self.corpus = first, model, collection.corpus
        self.depth, self.weight, self.temperature, self._score = depth, weight, temperature, score
        self.name = name or f"{first.name} + reranker"

    def search(self, queries: dict[str, str], k: int) -> dict[str, dict[str, float]]:
        """The k best documents of each query, best first."""
        index_card.check_k(k)
        found = self.first.search(queries, max(k, self.depth))
        again = self.scores(queries, found)
        runs = {q: interpolate(docs, again[q], self.weight, self.temperature) for q, docs in found.items()}
        return {q: dict(list(docs.items())[:k]) for q, docs in runs.items()}

    def scores(self, queries: dict[str, str], found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        """The model's own scores of the ``depth`` best documents of a run: score once, then try depths and weights.

        Raises
        ------
        ValueError
            If the model does not return one score a pair.
        """
        best = {q: sorted(docs, key=lambda d, docs=docs: -docs[d])[: self.depth] for q, docs in found.items()}
        keys = [(query_id, doc_id) for query_id, doc_ids in best.items() for doc_id in doc_ids]
        values = np.asarray(self._score(self.model, [(queries[q], self.corpus[d]) for q, d in keys]))
        if values.shape != (len(keys),):
            raise ValueError(
                say(
                    en=f"{len(keys)} pairs gave scores of shape {values.shape}; a reranker gives one score a pair",
                    zh=f"{len(keys)} 对文本得到形状为 {values.shape} 的得分；重排器应给每对文本一个得分",
                )
            )
        again: dict[str, dict[str, float]] = {query_id: {} for query_id in best}
        for (query_id, doc_id), value in zip(keys, values, strict=True):
            again[query_id][doc_id] = float(value)
        return again


def remember_last(score):
    """The same scoring function, which answers from memory when it is asked again for the pairs of the last call.

    Two systems that differ only in their weight then score once; a single query that is timed afterwards is scored anew. Make it
    after training: it does not look whether the model has changed.

    >>> scores = remember_last(lambda model, pairs: np.array([float(len(doc)) for _, doc in pairs]))
    >>> scores(None, [("q", "ab")]) is scores(None, [("q", "ab")])
    True
    """
    last: dict = {}

    def remembered(model, pairs):
        key = (id(model), tuple(pairs))
        if key not in last:
            last.clear()
            last[key] = score(model, pairs)
        return last[key]

    return remembered
