"""LangChain retrievers over our models: by meaning, by words, both fused, and a reranking compressor. Scores stand in the metadata.
Taught in lesson 05.
"""

from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field

from retrieval_lab import fusion, lexical
from retrieval_lab.corpora import Collection
from retrieval_lab.profiles import say
from retrieval_lab.rag_store import chunk_id


def scored(document: Document, **scores: float) -> Document:
    """A copy of the document with these scores among its metadata; the document itself is left alone.

    >>> scored(Document("a", metadata={"source": "s"}), score=0.5).metadata
    {'source': 's', 'score': 0.5}
    """
    return Document(document.page_content, metadata={**document.metadata, **scores}, id=document.id)


class DenseRetriever(BaseRetriever):
    """The ``k`` nearest chunks of a vector store, with ``score`` and ``cosine`` in their metadata, best first.

    ``threshold`` is the least cosine that counts, none when not given.
    """

    store: Any
    k: int = Field(5, ge=1)
    threshold: float | None = None

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        found = self.store.similarity_search_with_score(query, self.k)
        cosines = [(document, 1 - distance) for document, distance in found]
        kept = [pair for pair in cosines if self.threshold is None or pair[1] >= self.threshold]
        return [scored(document, score=cosine, cosine=cosine) for document, cosine in kept]


class WordRetriever(BaseRetriever):
    """The ``k`` best chunks by BM25, with ``score`` and ``bm25`` in their metadata.

    Chunks that share no word with the query are never returned.
    """

    chunks: list[Document] = Field(repr=False)
    k: int = Field(5, ge=1)
    index: Any = Field(None, repr=False)

    def model_post_init(self, context: Any) -> None:
        """Build the word index."""
        corpus = {str(number): chunk.page_content for number, chunk in enumerate(self.chunks)}
        self.index = lexical.BM25(Collection("chunks", "", "", "", corpus, {}, {})) if corpus else None

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        found = self.index.search({"q": query}, self.k)["q"] if self.index else {}
        return [scored(self.chunks[int(number)], score=score, bm25=score) for number, score in found.items()]


class FusedRetriever(BaseRetriever):
    """Several retrievers as one, by reciprocal rank fusion; a chunk keeps the metadata of each retriever that found it.

    Source: Cormack, Clarke & Büttcher 2009; lesson 00 for the fusion.
    """

    retrievers: list[BaseRetriever] = Field(min_length=1)
    k: int = Field(5, ge=1)

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        callbacks = {"callbacks": run_manager.get_child()}
        lists = [retriever.invoke(query, config=callbacks) for retriever in self.retrievers]
        runs, known = [], {}
        for documents in lists:
            ids = [_identity(document) for document in documents]
            runs.append({"q": {id_: -rank for rank, id_ in enumerate(ids)}})
            for id_, document in zip(ids, documents, strict=True):
                known[id_] = scored(document, **(known[id_].metadata if id_ in known else {}))
        fused = fusion.reciprocal_rank_fusion(runs)["q"]
        best = sorted(fused, key=lambda id_: -fused[id_])[: self.k]
        return [scored(known[id_], score=fused[id_]) for id_ in best]


SCORES = ("score", "cosine", "bm25", "rerank_score")


def _identity(document: Document) -> str:
    """The id of the chunk, whatever scores a retriever has written into its metadata."""
    plain = {name: value for name, value in document.metadata.items() if name not in SCORES}
    return document.id or chunk_id(Document(document.page_content, metadata=plain))


class RerankingCompressor(BaseDocumentCompressor):
    """Reorders documents by a reranker and keeps the ``top_n`` best that reach ``threshold``.

    ``score`` is a function of a list of (query, text) pairs that returns a number for each. With ``weight`` below 1 the
    reranker's score is added to the first stage's, ``weight`` for the reranker: a small reranker alone often falls behind the
    retriever that it was trained from. With the ``temperature`` that this retriever was trained with, what is added is
    ``cosine`` / temperature, see `fusion.interpolate`; a document without a cosine, found by its words only, counts as the
    farthest of the others. Without it, both scores are standardised over the candidates. ``threshold`` is about the
    reranker's own score, ``rerank_score`` in the metadata.

    Raises
    ------
    ValueError
        From ``compress_documents``, if ``weight`` is below 1 and a document has no ``score`` of a first stage, or, with a
        temperature, none has a ``cosine``.

    Source: lesson 03 (reranker), lesson 05.
    """

    score: Callable[[list[tuple[str, str]]], Sequence[float]] = Field(repr=False)
    top_n: int = Field(3, ge=1)
    threshold: float | None = None
    weight: float = Field(1.0, ge=0, le=1)
    temperature: float | None = Field(None, gt=0)

    def compress_documents(self, documents: Sequence[Document], query: str, callbacks=None) -> list[Document]:
        """The best documents as copies, best first; the documents given are left as they are, in their order."""
        if not documents:
            return []
        scores = [float(score) for score in self.score([(query, document.page_content) for document in documents])]
        mixed = self._mixed(scores, documents)
        order = sorted(range(len(documents)), key=lambda i: -mixed[i])
        kept = [i for i in order if self.threshold is None or scores[i] >= self.threshold]
        return [scored(documents[i], score=mixed[i], rerank_score=scores[i]) for i in kept[: self.top_n]]

    def _mixed(self, scores: list[float], documents: Sequence[Document]) -> list[float]:
        """The score that decides, of each document."""
        if self.weight == 1:
            return scores
        name = "cosine" if self.temperature else "score"
        known = [document.metadata[name] for document in documents if name in document.metadata]
        if not known or (len(known) < len(documents) and not self.temperature):
            source = next(d.metadata.get("source") for d in documents if name not in d.metadata)
            raise ValueError(
                say(
                    en=f"document {source!r} has no first-stage `{name}` to mix with; use weight=1",
                    zh=f"文档 {source!r} 没有第一阶段的 `{name}`，无从混合；改用 weight=1",
                )
            )
        first = {i: document.metadata.get(name, min(known)) for i, document in enumerate(documents)}
        mixed = fusion.interpolate(first, dict(enumerate(scores)), self.weight, self.temperature)
        return [mixed[i] for i in first]


class CompressedRetriever(BaseRetriever):
    """A retriever whose documents go through a compressor, here: `RerankingCompressor`."""

    retriever: BaseRetriever
    compressor: BaseDocumentCompressor

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        callbacks = run_manager.get_child()
        found = self.retriever.invoke(query, config={"callbacks": callbacks})
        return list(self.compressor.compress_documents(found, query, callbacks))
