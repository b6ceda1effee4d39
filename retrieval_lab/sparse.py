"""One weight for each token of the vocabulary: bge-m3's lexical head as a plain SparseEncoder, and search by the tokens that texts share.
Shown in lesson 02.
"""

import shutil
from pathlib import Path

import numpy as np

from retrieval_lab import batching, colbert_models, decoders, lexical_weights, models
from retrieval_lab.corpora import Collection
from retrieval_lab.lexical_weights import LexicalWeights
from retrieval_lab.profiles import say


def load(name: str | Path, **options):
    """A SparseEncoder by alias, hub id or folder; no weight is ever random.

    * A saved SparseEncoder (SPLADE and others) is loaded as it is.
    * A folder with ``sparse_linear.pt`` (bge-m3) gets that layer over its encoder, see `with_own_linear`.

    Parameters
    ----------
    name : what `models.resolve` takes
    options : of SparseEncoder. What `save` wrote needs ``trust_remote_code=True``: the head's class is none of the library's

    Raises
    ------
    ValueError
        If the folder is neither of the two.

    Source: Chen et al. 2024 (M3-Embedding), section 3.2; lesson 02.
    """
    from sentence_transformers import SparseEncoder

    folder = models.resolve(name)
    if decoders.saved_as(folder) == "SparseEncoder":
        return SparseEncoder(str(folder), **options)
    if not (folder / "sparse_linear.pt").is_file():
        raise ValueError(
            say(
                en=f"{name} has no sparse_linear.pt, and random weights would rank at random; use bge-m3, a folder laid out like it, or a saved SparseEncoder",
                zh=f"{name} 里没有 sparse_linear.pt，随机的权重只会排出随机的结果；换成 bge-m3、与它结构相同的文件夹，或保存好的 SparseEncoder",
            )
        )
    return with_own_linear(folder, **options)


def with_own_linear(folder: Path, **options):
    """The lexical head of a bge-m3 folder: ``sparse_linear.pt`` weighs each token, special tokens count nothing.

    A query and a document score the sum, over the tokens they share, of weight times weight: ``model.similarity``.

    Parameters
    ----------
    options : of SparseEncoder

    Raises
    ------
    ValueError
        If the layer does not fit the encoder.

    Source: Chen et al. 2024 (M3-Embedding), section 3.2, "Lexical Retrieval".

    >>> import tempfile
    >>> from retrieval_lab import tiny
    >>> model = with_own_linear(tiny.m3_folder(tempfile.mkdtemp()))
    >>> tuple(model.encode_document(["tram", "ferry"]).shape) == (2, len(tiny.tokenizer()))
    True
    """
    import torch
    from sentence_transformers import SparseEncoder

    transformer = colbert_models.bare_encoder(folder)[0]
    saved = torch.load(folder / "sparse_linear.pt", map_location="cpu", weights_only=True)
    shape, width = tuple(saved["weight"].shape), transformer.get_embedding_dimension()
    if shape != (1, width):
        raise ValueError(
            say(
                en=f"{folder}/sparse_linear.pt has a weight of shape {shape}, the encoder beside it needs {(1, width)}; they are of two models",
                zh=f"{folder}/sparse_linear.pt 的权重形状是 {shape}，旁边的编码器需要 {(1, width)}；两者不是同一个模型",
            )
        )
    n_vocabulary = transformer.auto_model.config.vocab_size
    head = LexicalWeights(width, n_vocabulary, sorted(transformer.tokenizer.all_special_ids))
    head.linear.load_state_dict({name: weight.float() for name, weight in saved.items()})
    return SparseEncoder(modules=[transformer, head], similarity_fn_name="dot", **options)


def save(model, folder: str | Path) -> None:
    """Write a model with the lexical head so that plain sentence-transformers reads it without this package.

    The head's source goes beside the weights; ``SparseEncoder(folder, trust_remote_code=True)`` runs it. What
    ``model.save_pretrained`` writes is read in the same way, but only where this package is installed.
    """
    folder = Path(folder)
    model.save_pretrained(str(folder))
    shutil.copy(lexical_weights.__file__, folder / "lexical_weights.py")
    modules = folder / "modules.json"
    names = modules.read_text(encoding="utf-8")
    modules.write_text(names.replace(f"{lexical_weights.__name__}.", "lexical_weights."), encoding="utf-8")


def encode(model, texts: list[str], kind: str = "document", budget: int = 512):
    """The weights of each text, equal to ``model.encode_query`` / ``encode_document`` but batched by tokens.

    Parameters
    ----------
    model : SparseEncoder
    texts : n texts, in any order and of any length
    kind : "query" or "document"
    budget : tokens of a padded batch; fewer than elsewhere, for until the zeros are left out each text takes 1 MB

    Returns
    -------
    (n, n_vocabulary) scipy.sparse.csr_matrix, float32
    """
    from scipy.sparse import csr_matrix, vstack
    from sentence_transformers.util import to_scipy_coo

    order, parts = [], [csr_matrix((0, model.get_embedding_dimension()), dtype=np.float32)]
    for batch, weights in batching.encoded(model, texts, kind, budget):
        order += batch
        parts.append(to_scipy_coo(weights))
    return vstack(parts, format="csr")[np.argsort(order)] if order else parts[0]


class Sparse:
    """Search by shared tokens: the sum of weight in the query times weight in the document, each token of the vocabulary once.

    Parameters
    ----------
    model : SparseEncoder
    collection : encoded when the object is made
    """

    def __init__(self, model, collection: Collection, name: str = "sparse"):
        self.model, self.name = model, name
        self.doc_ids = list(collection.corpus)
        weights = encode(model, list(collection.corpus.values()))  # (n_docs, n_vocabulary)
        self.by_token = weights.T.tocsr()  # of each token its documents: an inverted index

    def search(self, queries: dict[str, str], k: int) -> dict[str, dict[str, float]]:
        """The k best documents of each query, best first; equal scores in the documents' order.

        Documents that share no token with the query are left out, as with BM25.
        """
        scores = encode(self.model, list(queries.values()), "query") @ self.by_token  # (n_queries, n_docs)
        return {query_id: self._best(scores[place], k) for place, query_id in enumerate(queries)}

    def _best(self, scores, k: int) -> dict[str, float]:
        order = np.lexsort((scores.indices, -scores.data))[:k]
        return {self.doc_ids[scores.indices[i]]: float(scores.data[i]) for i in order}
