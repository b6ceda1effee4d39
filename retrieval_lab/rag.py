"""Retrieval-augmented answers as one LangChain chain: retrieve, rerank, refuse when the evidence is weak, answer, check the citations.
Taught in lesson 05.
"""

from operator import itemgetter

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableBranch, RunnableLambda, RunnablePassthrough

from retrieval_lab import corpora, rag_documents, rag_metrics
from retrieval_lab.profiles import say
from retrieval_lab.rag_answers import check_citations, extractive, generative, not_found
from retrieval_lab.rag_chat import chat_model
from retrieval_lab.rag_retrieval import (
    CompressedRetriever,
    DenseRetriever,
    FusedRetriever,
    RerankingCompressor,
    WordRetriever,
)
from retrieval_lab.rag_store import Changes, chunks_in, ingest, open_store

__all__ = [
    "Assistant",
    "calibrate",
    "chain",
    "chat_model",
    "evidence",
    "extractive",
    "generative",
    "ingest",
    "open_store",
]


def evidence(documents: list[Document], by: str = "cosine") -> float:
    """The strongest score of the documents; minus infinity when there are none with that score.

    Parameters
    ----------
    by : "cosine" has the same scale for every question, which neither BM25's score nor a fusion's has; "bm25" where there is
        no other; "rerank_score" where a reranker was trained to be comparable

    >>> evidence([Document("a", metadata={"cosine": 0.4}), Document("b", metadata={"cosine": 0.7})])
    0.7
    """
    return max((document.metadata[by] for document in documents if by in document.metadata), default=float("-inf"))


def chain(retriever: BaseRetriever, answerer: Runnable, threshold: float | None = None, by: str = "cosine") -> Runnable:
    """From a question to a cited answer, or to "not found".

    Parameters
    ----------
    retriever : any LangChain retriever
    answerer : `extractive` or `generative`, or any runnable from ``{"question", "documents"}`` to text
    threshold : evidence below which the answerer is not asked, as `calibrate` chooses it; None: ask it always, unless nothing was found
    by : which score is the evidence, see `evidence`

    Returns
    -------
    Runnable from a question to ``{"question", "documents", "evidence", "answer", "citations"}``. ``stream`` gives these one
    after the other, the answer in pieces as the answerer makes them.

    Source: Lewis et al. 2020, section 2 (retrieve, then answer); lesson 05.
    """
    least = float("-inf") if threshold is None else threshold

    def is_weak(state: dict) -> bool:
        return not state["documents"] or state["evidence"] < least

    steps = RunnablePassthrough.assign(documents=itemgetter("question") | retriever)
    steps |= RunnablePassthrough.assign(evidence=lambda state: evidence(state["documents"], by))
    steps |= RunnablePassthrough.assign(answer=RunnableBranch((is_weak, lambda _: not_found()), answerer))
    steps |= RunnablePassthrough.assign(citations=lambda s: check_citations(s["answer"], s["documents"]))
    return RunnableLambda(_as_state) | steps


def _as_state(question: str) -> dict[str, str]:
    if not isinstance(question, str) or not question.strip():
        raise ValueError(
            say(en=f"the question is {question!r}; ask something", zh=f"问题是 {question!r}；先写点什么再问")
        )
    return {"question": question.strip()}


def calibrate(retriever: BaseRetriever, lang: str, by: str = "cosine") -> float:
    """The abstention threshold of a retriever over the shipped corpus, chosen on questions that no test uses.

    With an answer: the dev questions. Without: those of dev and train, because dev alone has ten; no model was trained on
    questions without an answer.

    Source: lesson 05.
    """
    asked = corpora.load("city_services", lang=lang, split="dev").queries.values()
    hopeless = {**corpora.unanswerable(lang, "train"), **corpora.unanswerable(lang, "dev")}.values()
    return rag_metrics.choose_threshold(
        *([evidence(retriever.invoke(question), by) for question in questions] for questions in (asked, hopeless))
    )


def _evidence_of(kind: str) -> str:
    """By which score `RETRIEVERS` are weighed; reranked or not, for a reranker leaves it as it was."""
    return "bm25" if kind == "words" else "cosine"


RETRIEVERS = ("both", "meaning", "words")
DEPTH = 5  # chunks that are reranked; as in `demo`, where it was chosen on dev
POOL = 50  # chunks of each list that are fused


class Assistant:
    """What the page and the notebook's widget talk to: one store, three retrievers, a reranker if there is one.

    Parameters
    ----------
    model : SentenceTransformer
    chunks : what the store shall hold; whatever else it held is deleted
    folder, url : of the store, as `open_store` takes them
    score : reranker, a function of (query, text) pairs
    temperature : that ``model`` was trained with, where ``score`` is of a reranker trained on what it finds: for "meaning",
        cosine / temperature and score are then added as they are. None, and for lists in whose order BM25 has a say: both
        are standardised first
    answerer : `extractive` when not given
    thresholds : retriever -> evidence below which to abstain; `calibrate` chooses them on the shipped corpus

    Source: lesson 05.
    """

    def __init__(
        self,
        model,
        chunks,
        folder=None,
        *,
        url=None,
        score=None,
        temperature=None,
        answerer=None,
        thresholds=None,
        name="passages",
    ):
        self.model, self.score, self.temperature = model, score, temperature
        self.store = open_store(model, folder, url=url, name=name)
        ingest(self.store, chunks)
        self.answerer = answerer or extractive(model)
        self.thresholds = thresholds or {}
        self._words = WordRetriever(chunks=chunks_in(self.store), k=POOL)

    def retriever(self, kind: str = "both", rerank: bool = False, k: int = 3) -> BaseRetriever:
        """One of `RETRIEVERS`, reranked or not, with its ``k`` best chunks.

        Raises
        ------
        ValueError
            If there is no such retriever, or ``rerank`` is asked for and there is no reranker.
        """
        if kind not in RETRIEVERS:
            raise ValueError(
                say(
                    en=f"retriever {kind!r} is none of {', '.join(RETRIEVERS)}",
                    zh=f"没有检索方式 {kind!r}；可用：{'、'.join(RETRIEVERS)}",
                )
            )
        if rerank and self.score is None:
            raise ValueError(
                say(
                    en="no reranker was given; set `score`, or rerank=False",
                    zh="没有提供重排器；设置 `score`，或用 rerank=False",
                )
            )
        depth = max(k, DEPTH) if rerank else k
        dense = DenseRetriever(store=self.store, k=depth if kind == "meaning" else POOL)
        found = {"meaning": dense, "words": self._words.model_copy(update={"k": depth})}
        found["both"] = FusedRetriever(retrievers=[self._words, dense], k=depth)
        if not rerank:
            return found[kind]
        # Half and half: on the shipped corpus better than the reranker alone, see lesson 03. In a list of both, BM25's vote
        # stands in the fused score and not in the cosine; on dev the cosine alone brought fewer sources (.725 for .736).
        mixing = {"weight": 0.5, "temperature": self.temperature if kind == "meaning" else None}
        compressor = RerankingCompressor(score=self.score, top_n=k, **mixing)
        return CompressedRetriever(retriever=found[kind], compressor=compressor)

    def chain(self, kind: str = "both", rerank: bool = False, k: int = 3) -> Runnable:
        """The whole way from question to checked answer; see `chain` of this module."""
        return chain(self.retriever(kind, rerank, k), self.answerer, self.thresholds.get(kind), _evidence_of(kind))

    def calibrate(self, lang: str) -> None:
        """Choose the threshold of each retriever on the shipped dev questions; the store must hold the shipped corpus."""
        self.thresholds = {kind: calibrate(self.retriever(kind), lang, _evidence_of(kind)) for kind in RETRIEVERS}

    def add(self, name: str, content: bytes, size: int = 200) -> Changes:
        """Take a file into the store; the same name again replaces what it held before. Raises what `read` raises."""
        return self.take(self.read(name, content, size))

    def read(self, name: str, content: bytes, size: int = 200) -> list[Document]:
        """The chunks of a file, as `take` wants them; another thread may ask meanwhile.

        Raises
        ------
        ValueError
            If the file cannot be read (`rag_documents.load_bytes`) or holds headings only.
        """
        documents = rag_documents.load_bytes(content, name)
        chunks = rag_documents.split(documents, size, length=rag_documents.token_counter(self.model))
        if not chunks:
            raise ValueError(
                say(
                    en=f"{name} holds headings without text; write the text below them",
                    zh=f"{name} 里只有标题，没有正文；在标题下写上正文",
                )
            )
        return chunks

    def encode(self, chunks: list[Document]) -> dict[str, list[float]]:
        """Text -> vector of some chunks, for `take`."""
        texts = [chunk.page_content for chunk in chunks]
        return dict(zip(texts, self.store.embeddings.embed_documents(texts), strict=True))

    def take(self, chunks: list[Document], vectors: dict[str, list[float]] | None = None) -> Changes:
        """Put the chunks of a file in the place of what the store holds of it; encoded here without ``vectors``."""
        changes = ingest(self.store, chunks, scope="sources", vectors=vectors)
        self._words = WordRetriever(chunks=chunks_in(self.store), k=POOL)
        return changes
