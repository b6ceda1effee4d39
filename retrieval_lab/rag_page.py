"""The web page of `retrieval-lab serve`: ask, watch the answer come, see the sources with their scores, add a file.
Taught in lesson 05.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from fastapi import FastAPI, HTTPException, Request, UploadFile
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from langchain_core.documents import Document
from pydantic import BaseModel, Field
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware

from retrieval_lab import rag
from retrieval_lab.profiles import language, say
from retrieval_lab.rag_answers import Citation, body, is_refusal
from retrieval_lab.rag_documents import LOADERS
from retrieval_lab.rag_retrieval import SCORES

MAX_QUESTION = 500  # characters
MAX_UPLOAD = 2 * 2**20  # bytes
MAX_FILES = 20  # a page is no place for a library
TURN = 16  # chunks of an upload that are encoded between one question and the next
PATIENCE = 30  # seconds that a question waits for the ones before it
LOCAL = ("localhost", "127.0.0.1")
HEADERS = {
    # No script but the page's own file, nothing from elsewhere: text of a document can never become code.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Question(BaseModel):
    """What the page sends."""

    question: str = Field(min_length=1, max_length=MAX_QUESTION, pattern=r"\S")
    retriever: Literal["both", "meaning", "words"] = "both"
    rerank: bool = False


def app(assistant: rag.Assistant, hosts: Sequence[str] = LOCAL) -> FastAPI:
    """The page and its three calls over one assistant; questions are answered one after the other.

    Parameters
    ----------
    assistant : see `rag.Assistant`
    hosts : names under which the page may be asked for; another one is a foreign site that points its name at this machine

    Returns
    -------
    FastAPI, for uvicorn or any other ASGI server
    """
    from importlib.resources import files

    static = files("retrieval_lab") / "static"
    page = FastAPI(title="Retrieval Lab", docs_url=None, redoc_url=None, openapi_url=None)
    page.state.assistant, page.state.uploads = assistant, {}
    page.state.lock, page.state.uploading = asyncio.Lock(), asyncio.Lock()
    page.middleware("http")(_guard)
    page.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    page.get("/", response_class=HTMLResponse)(lambda: (static / "rag.html").read_text(encoding="utf-8"))
    for name, kind in (("rag.js", "text/javascript"), ("rag.css", "text/css")):
        page.get(f"/{name}")(_file(static / name, kind))
    page.get("/api/state")(_state)
    page.post("/api/ask")(_ask)
    page.post("/api/upload")(_upload)
    return page


def _file(path, kind: str):
    return lambda: Response(path.read_bytes(), media_type=kind)


async def _guard(request: Request, call_next):
    """Refuse what another site's page sends in a visitor's name, and what is too large; add the headers."""
    origin = request.headers.get("origin")
    if origin and _netloc(origin) != request.headers.get("host"):
        return JSONResponse(
            {"detail": say(en="cross-site requests are refused", zh="不接受来自其他网站的请求")}, 403, HEADERS
        )
    length = request.headers.get("content-length", "")
    # A body in chunks has no length that holds; some servers take it beside a declared one.
    if request.method == "POST" and (not length.isdigit() or "transfer-encoding" in request.headers):
        return JSONResponse({"detail": say(en="Content-Length is missing", zh="缺少 Content-Length")}, 411, HEADERS)
    if length.isdigit() and int(length) > MAX_UPLOAD + 10_000:  # the form around the file
        return JSONResponse({"detail": _too_large()}, 413, HEADERS)
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # "http://[" is no address
        return None


def _state(request: Request) -> dict:
    assistant = request.app.state.assistant
    return {
        "lang": language(),
        "reranker": assistant.score is not None,
        "chunks": len(assistant.store.get(include=[])["ids"]),
        "uploads": request.app.state.uploads,
        "types": list(LOADERS),
        "max_bytes": MAX_UPLOAD,
    }


def _ask(question: Question, request: Request) -> StreamingResponse:
    state = request.app.state
    if question.rerank and state.assistant.score is None:
        raise HTTPException(422, say(en="this server has no reranker", zh="这个服务没有重排器"))
    lines = _lines(state.assistant, question)
    return _Stream(_in_turn(lines, state.lock), media_type="application/x-ndjson")


class _Stream(StreamingResponse):
    """Closed when its reader has gone: starlette would leave that to the garbage collector, and the lock taken meanwhile."""

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.body_iterator.aclose()


async def _in_turn(lines: Iterator[str], lock: asyncio.Lock) -> AsyncIterator[str]:
    """The lines from a thread, one question after the other; when the reader goes away the next one's turn comes.

    A question waits here and not in a thread: there are forty, and the one that is being answered needs them too.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            await lock.acquire()
    except TimeoutError:
        yield _line({"error": say(en="too many questions at once; try again", zh="同时提问的人太多，稍后再试")})
        yield _line({"done": True, "abstained": False})
        return
    try:
        async for line in iterate_in_threadpool(lines):
            yield line
    finally:
        lock.release()  # first: closing a chain may raise
        lines.close()


def _line(part: dict) -> str:
    return json.dumps(part, ensure_ascii=False) + "\n"


def _lines(assistant: rag.Assistant, asked: Question) -> Iterator[str]:
    """One JSON object a line, as the chain goes: documents, pieces of the answer, citations; or an error.

    The chain is made when the first line is wanted, and by then it is this question's turn: an upload before it counts.
    """
    answer, question = "", asked.question
    try:
        for part in assistant.chain(asked.retriever, asked.rerank).stream(question):
            answer += part.get("answer", "")
            if shown := _shown(part):
                yield _line(shown)
    except Exception as problem:  # a chat server may raise anything; the page says it, and the log has the rest
        logging.getLogger(__name__).exception("the answer to %r failed", question)
        yield _line({"error": f"{type(problem).__name__}: {problem}"})
    yield _line({"done": True, "abstained": is_refusal(answer)})


def _shown(part: dict) -> dict:
    """The part of the chain's state that the page shows, in JSON's types."""
    shown = {key: part[key] for key in ("answer",) if key in part}
    if "documents" in part:
        shown["documents"] = [_source(document) for document in part["documents"]]
    if "evidence" in part:
        shown["evidence"] = round(max(part["evidence"], -1e9), 3)  # JSON has no infinity
    if "citations" in part:
        shown["citations"] = [Citation(*citation)._asdict() for citation in part["citations"]]
    return shown


def _source(document: Document) -> dict:
    names = ("source", "title", "page")
    shown = {name: document.metadata[name] for name in names if name in document.metadata}
    scores = {name: round(document.metadata[name], 3) for name in SCORES if name in document.metadata}
    return {**shown, "scores": scores, "text": body(document)}


def _too_large() -> str:
    return say(en=f"the file is larger than {MAX_UPLOAD >> 20} MB", zh=f"文件超过 {MAX_UPLOAD >> 20} MB")


async def _upload(file: UploadFile, request: Request) -> dict:
    state, path = request.app.state, PurePosixPath((file.filename or "").replace("\\", "/"))
    name = path.name[-100:]  # its end says the type
    if PurePosixPath(name).suffix.lower() not in LOADERS:
        raise HTTPException(415, say(en=f"{name}: only {' '.join(LOADERS)}", zh=f"{name}：只收 {' '.join(LOADERS)}"))
    content = await file.read(MAX_UPLOAD + 1)
    if len(content) > MAX_UPLOAD:
        raise HTTPException(413, _too_large())
    async with state.uploading:
        await run_in_threadpool(_check_name, name, state)
        try:
            chunks = await run_in_threadpool(state.assistant.read, name, content)
        except ValueError as problem:
            raise HTTPException(422, str(problem)) from None
        await _take(chunks, state)
        state.uploads[name] = len(chunks)
    return {"name": name, "chunks": state.uploads[name]}


def _check_name(name: str, state) -> None:
    """The same file again replaces the one before; a file of the server's own is not a visitor's to replace."""
    if name in state.uploads:
        return
    if len(state.uploads) >= MAX_FILES:
        raise HTTPException(409, say(en=f"{MAX_FILES} files are here already", zh=f"已经有 {MAX_FILES} 个文件了"))
    if state.assistant.store.get(where={"source": name}, limit=1, include=[])["ids"]:
        en = f"{name}: a document of this name is here already; rename the file"
        raise HTTPException(409, say(en=en, zh=f"{name}：已经有同名的文档了；给文件改个名字"))


async def _take(chunks: list[Document], state) -> None:
    """Questions have the model between one turn of encoding and the next: only one thread may use it."""
    vectors: dict[str, list[float]] = {}
    for start in range(0, len(chunks), TURN):
        async with state.lock:
            vectors |= await run_in_threadpool(state.assistant.encode, chunks[start : start + TURN])
    async with state.lock:
        await run_in_threadpool(state.assistant.take, chunks, vectors)
