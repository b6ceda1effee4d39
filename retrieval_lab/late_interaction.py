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
    first : a system over the same documents whose best ``depth`` are scored (rerank mode); None: all documents (retrieve mode)
    depth : candidates of the first stage, or of the centroids of a compressed index. In rerank mode what they leave out is not
        found: a search returns at most ``depth`` documents, however large its k
    store : the token vectors, if they are there already, e.g. those of another index of the same model and texts

    Raises
    ------
    ValueError
        If a document is left without tokens, or a store is given that is of other documents or beside ``bits`` or ``pool``.

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
        if store is not None and (bits is not None or pool != 1):
            raise ValueError(
                say(
                    en=f"bits={bits}, pool={pool} would do nothing: the tokens of a store or a saved index are kept as they are; leave both out, or build an index without `store`",
                    zh=f"bits={bits}、pool={pool} 不起作用：已有的词元库或存下的索引会原样使用；去掉这两项，或不给 store 重新建索引",
                )
            )
        self.store = store or _store(model, collection, bits, pool)
        index_card.check_size(len(self.store.lengths), collection, say(en="the store holds", zh="词元库里有"))

    @property
    def megabytes(self) -> float:
        """Size of the token vectors, in MB of 10^6 bytes."""
        return sum(tensor.nbytes for tensor in self.store.tensors().values()) / 1e6

    def search(self, queries: dict[str, str], k: int) -> dict[str, dict[str, float]]:
        """The k best documents of each query, best first, with the model's own scores; equal scores in the documents' order.

        Raises
        ------
        ValueError
            If k < 1, or the first stage finds a document that is not in the collection.
        """
        index_card.check_k(k)
        if not queries:
            return {}
        found = self.first.search(queries, self.depth) if self.first else {}
        encoded = colbert.encode(self.model, list(queries.values()), "query")
        run = {}
        for query_id, tokens in zip(queries, encoded, strict=True):
            places = self._found(query_id, found.get(query_id, ())) if self.first else None
            run[query_id] = self._best(tokens, k, places)
        return run

    def _found(self, query_id: str, doc_ids) -> list[int]:
        if foreign := [doc_id for doc_id in doc_ids if doc_id not in self._places]:
            raise ValueError(
                say(
                    en=f"for query {query_id!r} the first stage {self.first.name!r} finds document {foreign[0]!r}, which this index does not hold; build both from the same collection",
                    zh=f"对查询 {query_id!r}，第一阶段 {self.first.name!r} 找到的文档 {foreign[0]!r} 不在这个索引里；两者要用同一个文档集建",
                )
            )
        return [self._places[doc_id] for doc_id in doc_ids]

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

        kind = {"file": "tokens.safetensors", "store": type(self.store).__name__}
        folder = index_card.write(folder, self.name, self.model, self._texts_hash, **kind)
        save_file(self.store.tensors(), folder / "tokens.safetensors")

    @classmethod
    def load(cls, folder: str | Path, model, collection: Collection, **options) -> "LateInteraction":
        """Read a saved index; ``options`` are ``first`` and ``depth``.

        Raises
        ------
        ValueError
            If it is an index of another kind, or was made by another model (or other prompts, masks or lengths), or from other
            texts; or if ``options`` hold ``bits`` or ``pool``, which an index has had since it was built.
        """
        from safetensors.torch import load_file

        card = index_card.read(folder, model, collection, "tokens.safetensors")
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
