"""Search with one vector a token: exact MaxSim in one matrix product, or over compressed tokens, over all documents or a first stage's.
Taught in lesson 02.
"""

from pathlib import Path

import torch
from torch import Tensor

from retrieval_lab import colbert, index_card
from retrieval_lab.corpora import Collection
from retrieval_lab.profiles import say
from retrieval_lab.token_stores import Compressed, Exact


class LateInteraction:
    """MaxSim search over the token vectors of a collection.

    Parameters
    ----------
    model : MultiVectorEncoder
    collection : encoded when the object is made
    name : of the row in a table
    bits : None keeps the vectors as they are; 1, 2, 4 or 8 stores a centroid's number and so many bits a dimension (`Compressed`)
    pool : keep one vector for so many tokens of a document, the mean of those that are alike; 1 keeps all
    first : a system whose best ``depth`` documents are scored (rerank mode); None: all documents (retrieve mode)
    depth : candidates of the first stage, or of the centroids of a compressed index
    store : the token vectors, if they are there already, e.g. those of another index of the same model and texts

    Raises
    ------
    ValueError
        If a document is left without tokens.

    Source: Khattab & Zaharia 2020 (ColBERT), sections 3.5 and 3.6; Clavié et al. 2024 (token pooling); lesson 02.
    """

    def __init__(
        self,
        model,
        collection: Collection,
        name="late interaction",
        *,
        bits=None,
        pool=1.0,
        first=None,
        depth=100,
        store=None,
    ):
        self.model, self.name, self.first, self.depth = model, name, first, depth
        self.doc_ids = list(collection.corpus)
        self._places = {doc_id: place for place, doc_id in enumerate(self.doc_ids)}
        self._texts_hash = index_card.texts_hash(collection.corpus)
        self.store = store or _store(model, collection, bits, pool)
        if len(self.store.lengths) != len(self.doc_ids):
            raise ValueError(
                say(
                    en=f"the store holds {len(self.store.lengths)} documents, {collection.name} has {len(self.doc_ids)}; build it from this collection",
                    zh=f"词元库里有 {len(self.store.lengths)} 篇文档，{collection.name} 有 {len(self.doc_ids)} 篇；要用这个文档集建",
                )
            )

    @property
    def megabytes(self) -> float:
        """Size of the token vectors, in MB of 10^6 bytes."""
        return sum(tensor.nbytes for tensor in self.store.tensors().values()) / 1e6

    def search(self, queries: dict[str, str], k: int) -> dict[str, dict[str, float]]:
        """The k best documents of each query, best first, with the model's own scores; equal scores in the documents' order."""
        if not queries:
            return {}
        found = self.first.search(queries, self.depth) if self.first else {}
        encoded = colbert.encode(self.model, list(queries.values()), "query")
        run = {}
        for query_id, tokens in zip(queries, encoded, strict=True):
            places = [self._places[doc_id] for doc_id in found.get(query_id, ())] if self.first else None
            run[query_id] = self._best(tokens, k, places)
        return run

    def _best(self, query: Tensor, k: int, places: list[int] | None) -> dict[str, float]:
        candidates = (
            self.store.candidates(query, max(k, self.depth)) if places is None else torch.tensor(sorted(places))
        )
        if not len(candidates):  # the first stage found nothing
            return {}
        scores = self.store.scores(query, candidates)
        if self.model.similarity_fn_name == "meanmaxsim":
            scores = scores / len(query)
        order = torch.argsort(scores, descending=True, stable=True)[:k]
        return {self.doc_ids[candidates[i]]: float(scores[i]) for i in order.tolist()}

    def save(self, folder: str | Path) -> None:
        """Write ``tokens.safetensors`` and ``index.json``, which says by which model and from which texts they were made."""
        from safetensors.torch import save_file

        kind = type(self.store).__name__
        folder = index_card.write(folder, self.name, self.model, self._texts_hash, store=kind)
        save_file(self.store.tensors(), folder / "tokens.safetensors")

    @classmethod
    def load(cls, folder: str | Path, model, collection: Collection, **options) -> "LateInteraction":
        """Read a saved index; ``options`` are ``first`` and ``depth``.

        Raises
        ------
        ValueError
            If it was made by another model (or other prompts, masks or lengths), or from other texts.
        """
        from safetensors.torch import load_file

        card = index_card.read(folder, model, collection)
        store = {"Exact": Exact, "Compressed": Compressed}[card["store"]](
            **load_file(Path(folder) / "tokens.safetensors")
        )
        return cls(model, collection, card["name"], store=store, **options)


def _store(model, collection: Collection, bits: int | None, pool: float) -> Exact | Compressed:
    tokens = colbert.encode(model, list(collection.corpus.values()))
    empty = [doc_id for doc_id, vectors in zip(collection.corpus, tokens, strict=True) if not len(vectors)]
    if empty:
        raise ValueError(
            say(
                en=f"document {empty[0]!r} has no token left (empty, or only tokens that the model masks); take it out of the corpus",
                zh=f"文档 {empty[0]!r} 没有留下任何词元（文本为空，或全被模型的掩码去掉）；把它从语料库里去掉",
            )
        )
    exact = Exact.of(tokens) if pool == 1 else Exact.of(tokens).pooled(pool)
    return exact if bits is None else Compressed.of(exact, bits)
