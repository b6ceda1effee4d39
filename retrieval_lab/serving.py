"""The models as an HTTP service: /embed, /rerank, /search, /v1/embeddings, /health, /metrics.
Taught in lesson 06. `retrieval-lab serve --api` starts it.
"""

import asyncio
import base64
import contextlib
from collections.abc import Sequence
from importlib import metadata

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from retrieval_lab import fusion
from retrieval_lab.serving_backends import Backend
from retrieval_lab.serving_batcher import Batcher, OverloadedError
from retrieval_lab.serving_guard import ClientGoneError, Guard, Metrics, unless_gone
from retrieval_lab.serving_requests import (
    EmbedRequest,
    Limits,
    OpenAIRequest,
    RefusedError,
    RerankRequest,
    SearchRequest,
    as_list,
    error_body,
)

RERANKED = 10  # documents that a reranker reads for one search; 20 gained nothing on dev and cost twice the time
LONGEST_TOKEN = 16  # characters, generously: a query is cut to the tokens that a model holds, times this


class Service:
    """The models with their batchers, and the vectors of the corpus.

    Parameters
    ----------
    embedder : a `Backend` of family "embedding"
    reranker : of family "reranker", or None
    corpus : doc_id -> text; encoded when the service starts
    limits : what one client may ask
    """

    def __init__(
        self, embedder: Backend, reranker: Backend | None = None, corpus: dict[str, str] | None = None, *, limits=None
    ):
        self.limits, self.metrics = limits or Limits(), Metrics()
        self.embedder, self.reranker, self.corpus = embedder, reranker, corpus or {}
        self.doc_ids = list(self.corpus)
        self.vectors = np.zeros((0, embedder.dim), np.float32)
        self._batchers = {}

    @contextlib.asynccontextmanager
    async def running(self, _app=None):
        """From the first request to the last answer: batchers are started, then emptied."""
        options = {"budget": self.limits.budget, "max_waiting": self.limits.max_waiting}
        for backend in filter(None, (self.embedder, self.reranker)):
            self._batchers[backend.family] = Batcher(backend.forward, on_batch=self.metrics.on_batch, **options)
        await self._encode_corpus()
        yield
        for batcher in self._batchers.values():
            await batcher.close()

    async def _encode_corpus(self) -> None:
        prompt = self.embedder.task_prompts["document"]
        texts = [prompt + text for text in self.corpus.values()]
        rows = [await self.embed(some, truncate=True) for some in self._steps(self.embedder, texts)]
        self.vectors = np.concatenate([np.zeros((0, self.embedder.dim), np.float32), *(vectors for vectors, _ in rows)])

    def _steps(self, backend: Backend, texts: list[str]) -> list[list[str]]:
        """What the service sends itself in one go: no more cut texts than may wait, or it would be refused like a client."""
        step = max(1, min(32, self.limits.max_waiting // backend.max_seq_length))
        return [texts[i : i + step] for i in range(0, len(texts), step)]

    async def embed(self, texts: list[str], truncate: bool) -> tuple[np.ndarray, int]:
        """Vectors (n, dim) and the number of tokens."""
        encodings = await self._tokens(self.embedder, texts, truncate)
        return await self._batchers["embedding"].submit(encodings), sum(len(e.ids) for e in encodings)

    async def score(self, query: str, texts: list[str], truncate: bool) -> np.ndarray:
        """(n, 2): score and logit of each text.

        Raises
        ------
        RefusedError
            404 if the service has no reranker, 413 if the query, once for each text, is more than a body may hold.
        """
        reranker, most = self._needed_reranker(), self.limits.max_body_bytes
        if len(query) * len(texts) > most:  # it is tokenised with every text, and what is cut off costs as much
            found = f"`query` has {len(query)} characters and is read with each of {len(texts)} texts"
            raise RefusedError(413, "Validation", f"{found}, more than {most} in all; shorten it, or send fewer texts")
        encodings = await self._tokens(reranker, [(query, text) for text in texts], truncate)
        return await self._batchers["reranker"].submit(encodings)

    def _needed_reranker(self) -> Backend:
        if self.reranker is None:
            raise RefusedError(404, "Unhealthy", "this service runs no reranker; start it with --reranker MODEL")
        return self.reranker

    async def _tokens(self, backend: Backend, texts: list, truncate: bool) -> list:
        encodings = await asyncio.to_thread(backend.tokens, texts, truncate)
        for i, encoding in enumerate(encodings):
            if len(encoding.ids) > backend.max_seq_length:
                raise RefusedError(
                    413,
                    "Validation",
                    f"text {i} has {len(encoding.ids)} tokens, {backend.name} reads {backend.max_seq_length}; split it, or send truncate: true",
                )
        n_tokens = sum(len(encoding.ids) for encoding in encodings)
        if n_tokens > self.limits.max_waiting:  # it would never fit, so 429 and "try again" would be a lie
            most = self.limits.max_waiting
            raise RefusedError(413, "Validation", f"{n_tokens} tokens in one request, at most {most}; send several")
        return encodings

    async def search(self, query: str, top_k: int, weight: float = 0.0) -> list[dict]:
        """The best documents, best first. With a ``weight`` the reranker reads the best `RERANKED` too, see `fusion.interpolate`.

        Raises
        ------
        RefusedError
            404 if there is no corpus, or no reranker and one is asked for.
        """
        if not self.corpus:
            raise RefusedError(404, "Unhealthy", "this service has no corpus; start it with --corpus")
        (vector,), _ = await self.embed([self.embedder.task_prompts["query"] + query], truncate=True)
        cosines = self.vectors @ vector
        places = np.argsort(-cosines, kind="stable")[: max(top_k, RERANKED if weight else 0)].tolist()
        scores = {i: float(cosines[i]) for i in places}
        if weight:
            texts = [self.corpus[self.doc_ids[i]] for i in places[:RERANKED]]
            logits = await self._logits(query, texts)
            scores = fusion.interpolate(scores, dict(zip(places, logits, strict=False)), weight)
        best = [(self.doc_ids[i], score) for i, score in list(scores.items())[:top_k]]
        return [{"id": doc_id, "score": score, "text": self.corpus[doc_id]} for doc_id, score in best]

    async def _logits(self, query: str, texts: list[str]) -> list[float]:
        """The reranker's, for documents of the corpus; the query is cut before it could be refused."""
        reranker = self._needed_reranker()
        query = query[: min(reranker.max_seq_length * LONGEST_TOKEN, self.limits.max_body_bytes // RERANKED)]
        rows = [await self.score(query, some, truncate=True) for some in self._steps(reranker, texts)]
        return np.concatenate(rows)[:, 1].tolist()

    def prompted(self, texts: list[str], prompt_name: str | None) -> list[str]:
        """The texts with the named prompt before each.

        Raises
        ------
        RefusedError
            422 if the model has no such prompt.
        """
        if prompt_name is None:
            return texts
        known = self.embedder.prompts | self.embedder.task_prompts
        if prompt_name not in known:
            raise RefusedError(422, "Validation", f"prompt_name {prompt_name[:40]!r} is not one of {sorted(known)}")
        return [known[prompt_name] + text for text in texts]

    def health(self) -> dict:
        """What runs here, with its limits."""
        models = [backend for backend in (self.embedder, self.reranker) if backend]
        described = {
            b.family: {"model": b.name, "runtime": b.runtime, "max_seq_length": b.max_seq_length} for b in models
        }
        described["embedding"] |= {"dim": self.embedder.dim, "prompts": self.embedder.task_prompts}
        return {"status": "ok", "documents": len(self.corpus), **described, "limits": vars(self.limits)}


def create_app(
    embedder: Backend,
    reranker: Backend | None = None,
    corpus: dict[str, str] | None = None,
    *,
    limits=None,
    hosts: Sequence[str] = ("*",),
) -> FastAPI:
    """The application, for uvicorn or for a test client.

    Parameters
    ----------
    embedder, reranker, corpus, limits : as for `Service`
    hosts : names under which it may be asked for; another one is a foreign site that points its name at this machine

    Source: the request shapes are those of text-embeddings-inference and of OpenAI's embeddings; lesson 06.
    """
    service = Service(embedder, reranker, corpus, limits=limits)
    app = FastAPI(title="Retrieval Lab", version=metadata.version("retrieval-lab"), lifespan=service.running)
    app.state.service = service
    _add_routes(app, service)
    _add_errors(app)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    app.add_middleware(Guard, limits=service.limits, metrics=service.metrics)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    limits = service.limits

    @app.post("/embed")
    async def embed(body: EmbedRequest, request: Request):
        texts = service.prompted(as_list(body.inputs, "inputs", limits), body.prompt_name)
        vectors, _ = await unless_gone(request, service.embed(texts, body.truncate))
        return JSONResponse(vectors.tolist())

    @app.post("/v1/embeddings")
    async def openai(body: OpenAIRequest, request: Request):
        if body.dimensions not in (None, service.embedder.dim):
            given, dim = body.dimensions, service.embedder.dim
            raise RefusedError(400, "Validation", f"dimensions={given}: this model gives {dim}; leave `dimensions` out")
        texts = service.prompted(as_list(body.input, "input", limits), body.prompt_name)
        vectors, tokens = await unless_gone(request, service.embed(texts, body.truncate))
        rows = [_openai_vector(vector, body.encoding_format) for vector in vectors]
        data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "data": data, "model": service.embedder.name, "usage": usage})

    @app.post("/rerank")
    async def rerank(body: RerankRequest, request: Request):
        texts = as_list(body.texts, "texts", limits)
        scores = (await unless_gone(request, service.score(body.query, texts, body.truncate)))[:, int(body.raw_scores)]
        rows = [{"index": int(i), "score": float(scores[i])} for i in np.argsort(-scores, kind="stable")]
        return [row | {"text": texts[row["index"]]} for row in rows] if body.return_text else rows

    @app.post("/search")
    async def search(body: SearchRequest, request: Request):
        weight = body.rerank_weight if body.rerank else 0.0
        return {"results": await unless_gone(request, service.search(body.query, body.top_k, weight))}

    @app.get("/health")
    async def health():
        return service.health()

    @app.get("/metrics")
    async def metrics():
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _openai_vector(vector: np.ndarray, encoding_format: str):
    """Numbers, or the little-endian float32 bytes in base64 that OpenAI's client asks for."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if encoding_format == "base64" else vector.tolist()


def _place(loc: tuple) -> str:
    """Which field an error is about; the name of an unknown one is the client's, so it is cut."""
    return ".".join(map(str, loc[1:]))[:60] or "body"


def _add_errors(app: FastAPI) -> None:
    def answer(request: Request, status: int, kind: str, message: str) -> JSONResponse:
        headers = {"Retry-After": "1"} if status == 429 else None
        return JSONResponse(error_body(request.url.path, kind, message, status), status, headers)

    @app.exception_handler(RefusedError)
    async def refused(request, problem):
        return answer(request, problem.status, problem.kind, problem.message)

    @app.exception_handler(OverloadedError)
    async def overloaded(request, problem):
        return answer(request, 429, "Overloaded", f"{problem}; try again in a second")

    @app.exception_handler(RequestValidationError)
    async def invalid(request, problem):  # never echo what came in: it may be anything
        where = "; ".join(f"{_place(e['loc'])}: {e['msg']}" for e in problem.errors()[:3])
        return answer(request, 422, "Validation", where.encode("utf-8", "replace").decode())

    @app.exception_handler(HTTPException)
    async def known(request, problem):
        return answer(request, problem.status_code, "Validation", str(problem.detail))

    @app.exception_handler(ClientGoneError)
    async def gone(request, problem):
        return Response(status_code=499)  # nobody reads it; it is counted

    @app.exception_handler(Exception)
    async def failed(request, problem):
        return answer(
            request, 500, "Backend", f"the model failed ({type(problem).__name__}); the request may be tried again"
        )


def run(app: FastAPI, host: str, port: int) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that are being answered are finished first, for at most 30 s."""
    import uvicorn

    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        limit_concurrency=512,  # connections; beyond it uvicorn answers 503
        timeout_graceful_shutdown=30,
    )
