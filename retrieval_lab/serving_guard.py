"""What stands before the application: bodies are read whole, within a size and a time, and every answer is counted.
Taught in lesson 06.
"""

import asyncio
import json
import time

from retrieval_lab.serving_requests import Limits, RefusedError

DRAINED = 32  # a refused body is read and thrown away up to this many times the limit, so that the client hears why


class ClientGoneError(Exception):
    """The client closed the connection."""


class Metrics:
    """Counters of one application, in Prometheus' format."""

    def __init__(self):
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self.registry = CollectorRegistry()
        kept = {"registry": self.registry}
        seconds = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
        self.requests = Counter("requests", "Answers by path and status", ["path", "status"], **kept)
        self.latency = Histogram("request_seconds", "Time to answer", ["path"], buckets=seconds, **kept)
        self.batch = Histogram("batch_texts", "Texts in a run of the model", buckets=(1, 2, 4, 8, 16, 32, 64), **kept)
        self.tokens = Counter("tokens", "Tokens computed, by kind", ["kind"], **kept)

    def on_batch(self, texts: int, real: int, padded: int) -> None:
        """Count one run of the model."""
        self.batch.observe(texts)
        self.tokens.labels("real").inc(real)
        self.tokens.labels("padding").inc(padded - real)

    def text(self) -> bytes:
        """The page of /metrics."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)


class Guard:
    """ASGI middleware: 413 for a body over the limit, 408 for one that does not arrive, counts and times for all.

    Parameters
    ----------
    app : the application
    limits : `Limits`
    metrics : `Metrics`
    """

    def __init__(self, app, limits: Limits, metrics: Metrics):
        self.app, self.limits, self.metrics = app, limits, metrics

    async def __call__(self, scope, receive, send) -> None:
        """Handle one connection event."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), [0]

        async def counted(message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            await send(message)

        try:
            body = await self._body_in_time(scope, receive)
            await self.app(scope, _replayed(body, receive), counted)
        except ClientGoneError:
            status[0] = 499  # as other servers count it
        except RefusedError as refused:
            await _refuse(refused, scope, counted)
        except Exception:
            status[0] = 500  # answered further out
            raise
        finally:
            self._count(scope, status[0], time.perf_counter() - start)

    def _count(self, scope, status: int, seconds: float) -> None:
        path = getattr(scope.get("route"), "path", "other")  # templates only: clients must not invent labels
        if status:
            self.metrics.requests.labels(path, status).inc()
            self.metrics.latency.labels(path).observe(seconds)

    async def _body_in_time(self, scope, receive) -> bytes:
        seconds = self.limits.body_seconds
        try:
            return await asyncio.wait_for(self._body(scope, receive), seconds)
        except TimeoutError:
            raise RefusedError(408, "Timeout", f"the body did not arrive within {seconds:g} s; send it again") from None

    async def _body(self, scope, receive) -> bytes:
        """The whole body; one over the limit is read on, up to a point, and refused."""
        limit, body, size = self.limits.max_body_bytes, bytearray(), 0
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        too_large = declared.isdigit() and int(declared) > limit
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            size += len(message.get("body", b""))
            too_large = too_large or size > limit
            if not too_large:
                body += message.get("body", b"")
            if not message.get("more_body") or size > limit * DRAINED:
                break
        if too_large:
            raise RefusedError(413, "Validation", f"the body is larger than {limit} bytes; send fewer or shorter texts")
        return bytes(body)


def _replayed(body: bytes, receive):
    """Give the body at once; what comes after it is the client's leaving."""
    sent = False

    async def replay():
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(refused: RefusedError, scope, send) -> None:
    body = json.dumps(refused.body(scope["path"])).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send(
        {"type": "http.response.start", "status": refused.status, "headers": [*headers, (b"connection", b"close")]}
    )
    await send({"type": "http.response.body", "body": body})


async def unless_gone(request, work):
    """The result of a coroutine, which is cancelled when the client leaves.

    Raises
    ------
    ClientGoneError
        If it left.
    """
    job, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({job, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            raise ClientGoneError
        return job.result()
    finally:
        job.cancel()
        gone.cancel()


async def _gone(request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
