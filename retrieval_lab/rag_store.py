"""A Chroma vector store that knows which model filled it and follows its sources: added, changed, deleted.
Taught in lesson 05.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from retrieval_lab import embedding, search
from retrieval_lab.profiles import say


class ModelEmbeddings(Embeddings):
    """LangChain's view of a SentenceTransformer: the query prompt before queries, the document's before documents.

    Parameters
    ----------
    model : SentenceTransformer, as `embedding.load` returns for an alias, a hub id or a folder

    >>> from retrieval_lab import tiny
    >>> len(ModelEmbeddings(tiny.encoder()).embed_query("tram"))
    32
    """

    def __init__(self, model):
        self.model = model

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of unit length, one a text."""
        return embedding.encode(self.model, texts).tolist() if texts else []

    def embed_query(self, text: str) -> list[float]:
        """The vector of one query, of unit length."""
        return embedding.encode(self.model, [text], "query")[0].tolist()


def open_store(model, folder: str | Path | None = None, *, url: str | None = None, name: str = "passages"):
    """A LangChain ``Chroma`` store, kept in a folder or on a Chroma server; made when it is not there yet.

    Parameters
    ----------
    model : SentenceTransformer that makes the vectors
    folder : where the index is kept; ``runs/chroma`` when neither it nor ``url`` is given
    url : of a server started with ``chroma run``, e.g. "http://localhost:8000"
    name : of the collection; 3 to 512 letters, digits, "-", "_", "."

    Returns
    -------
    langchain_chroma.Chroma, by cosine. Its collection's metadata say by which model it was made.

    Raises
    ------
    ValueError
        If the collection was made by another model (or other prompts, pooling, length), or if both ``folder`` and ``url``
        are given, or the URL is none.
    ConnectionError
        If no server answers at ``url``.

    Source: lesson 05.
    """
    from langchain_chroma import Chroma

    made_by = search.fingerprint(model)
    where = url or str(folder or Path("runs") / "chroma")
    store = Chroma(
        name,
        ModelEmbeddings(model),
        client=_client(folder, url),
        collection_metadata={"model": made_by},
        # Exact enough for a few thousand chunks: 100 candidates, the default, lose documents when many are asked for.
        collection_configuration={"hnsw": {"space": "cosine", "ef_search": 500}},
    )
    found = (store._collection.metadata or {}).get("model")  # LangChain offers no other way to read it
    if found != made_by:
        raise ValueError(
            say(
                en=f"collection {name!r} in {where} was made by another model ({found}, this one is {made_by}); its vectors mean nothing to this model: use another folder or name, or delete it and ingest again",
                zh=f"{where} 里的 {name!r} 是另一个模型建的（{found}，当前是 {made_by}），这些向量对当前模型没有意义：换一个文件夹或名字，或删掉后重新导入",
            )
        )
    return store


def _client(folder, url):
    import chromadb
    from chromadb.config import Settings

    if folder and url:
        raise ValueError(
            say(
                en=f"folder={folder} and url={url} are both given; keep one",
                zh=f"folder={folder} 和 url={url} 只能给一个",
            )
        )
    settings = Settings(anonymized_telemetry=False)
    if url is None:
        return chromadb.PersistentClient(str(folder or Path("runs") / "chroma"), settings)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(say(en=f"url={url!r}; use http://host:port", zh=f"url={url!r}；应写成 http://主机:端口"))
    options = {"ssl": parts.scheme == "https", "settings": settings}
    try:
        return chromadb.HttpClient(parts.hostname, parts.port or (443 if options["ssl"] else 8000), **options)
    except ValueError as problem:  # chromadb's word for "could not connect"
        raise ConnectionError(
            say(
                en=f"no Chroma server answers at {url} ({problem}); start one with `chroma run`",
                zh=f"{url} 没有 Chroma 服务响应（{problem}）；用 `chroma run` 启动一个",
            )
        ) from problem


class Changes(NamedTuple):
    """How many chunks an ingestion added, left as they were, and deleted."""

    added: int
    kept: int
    deleted: int


def ingest(store, chunks: list[Document], scope: str = "all", vectors: dict[str, list[float]] | None = None) -> Changes:
    """Make the store hold these chunks: encode what is new, leave what is there, delete what is gone.

    Running it twice changes nothing the second time. New chunks go in before old ones go out, so a search beside it finds
    the one or the other, and a run that was cut off is put right by the next.

    Parameters
    ----------
    store : Chroma
    chunks : with a ``source`` in their metadata
    scope : "all": the store shall hold these chunks and no others. "sources": only what else it holds *of the same sources* goes
        (an upload into a larger collection).
    vectors : of the chunks' texts, where they are known already; encoded here when not given

    Raises
    ------
    ValueError
        If a chunk has no source, or ``scope`` is neither of the two.

    Source: lesson 05.
    """
    if scope not in ("all", "sources"):
        raise ValueError(
            say(en=f"scope={scope!r}; use 'all' or 'sources'", zh=f"scope={scope!r}；只能用 'all' 或 'sources'")
        )
    new = {chunk_id(chunk): chunk for chunk in chunks}
    sources = sorted({chunk.metadata["source"] for chunk in chunks})
    where = {"where": {"source": {"$in": sources}}} if scope == "sources" else {}
    there = set(store.get(include=[], **where)["ids"]) if sources or scope == "all" else set()
    missing = [id_ for id_ in new if id_ not in there]
    gone = sorted(there - new.keys())
    batch = min(store._client.get_max_batch_size(), 500)
    for start in range(0, len(missing), batch):
        ids = missing[start : start + batch]
        texts, about = [new[id_].page_content for id_ in ids], [new[id_].metadata for id_ in ids]
        found = [vectors[text] for text in texts] if vectors else store.embeddings.embed_documents(texts)
        store._collection.upsert(ids, found, about, texts)  # LangChain's `add_documents` would encode again
    for start in range(0, len(gone), batch):
        store.delete(gone[start : start + batch])
    return Changes(len(missing), len(new) - len(missing), len(gone))


def chunk_id(chunk: Document) -> str:
    """Hash of a chunk's text and metadata: another text, title or place is another chunk.

    Raises
    ------
    ValueError
        If the chunk has no ``source``.
    """
    if not chunk.metadata.get("source"):
        text = chunk.page_content[:60]
        raise ValueError(
            say(
                en=f"a chunk has no `source` in its metadata: {text!r}; say where it comes from",
                zh=f"有一块文本的元数据里没有 `source`：{text!r}；写明它的出处",
            )
        )
    made_of = json.dumps([chunk.page_content, chunk.metadata], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(made_of.encode()).hexdigest()[:32]


def chunks_in(store) -> list[Document]:
    """All chunks of the store, by source and place; the word index of the hybrid retriever is made of them."""
    found = store.get()
    rows = zip(found["ids"], found["documents"], found["metadatas"], strict=True)
    chunks = [Document(text, metadata=metadata, id=id_) for id_, text, metadata in rows]
    return sorted(chunks, key=lambda chunk: (chunk.metadata["source"], chunk.metadata.get("chunk", 0), chunk.id))
