"""The service in a process of its own, for as long as a `with` block lasts; and a load test against it.
Taught in lesson 06.
"""

import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import psutil

from retrieval_lab.profiles import say


class Running:
    """A started service: ``url``, ``pid``, `memory_mb`; stopped by `stop` or at the end of the ``with`` block.

    Parameters
    ----------
    arguments : of ``retrieval-lab serve --api``, e.g. ``"--model", folder, "--int8"``
    seconds : to become healthy; loading torch takes a while

    Raises
    ------
    RuntimeError
        If the service ends or stays silent; the message holds its last lines.
    """

    def __init__(self, *arguments: str, seconds: float = 120):
        self.url = f"http://127.0.0.1:{_free_port()}"
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log", encoding="utf-8")  # noqa: SIM115  closed by stop
        command = [sys.executable, "-m", "retrieval_lab.cli", "serve", "--api", "--port", self.url.rpartition(":")[2]]
        self.process = subprocess.Popen([*command, *map(str, arguments)], stdout=self._log, stderr=self._log)
        try:
            self._wait(seconds)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Process id of the service."""
        return self.process.pid

    def memory_mb(self) -> float:
        """Resident memory, in MB."""
        return psutil.Process(self.pid).memory_info().rss / 1e6

    def stop(self, seconds: float = 40) -> int:
        """SIGTERM, then SIGKILL for one that does not listen; the exit status."""
        self.process.terminate()
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._log.close()
        return status

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_) -> None:
        if self.process.poll() is None:
            self.stop()

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health", timeout=2, trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.2)
        lines = Path(self._log.name).read_text(encoding="utf-8").splitlines()[-5:]
        raise RuntimeError(
            say(
                en=f"the service did not start (exit status {self.process.poll()}):\n" + "\n".join(lines),
                zh=f"服务没有启动（退出码 {self.process.poll()}）：\n" + "\n".join(lines),
            )
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _ask(http: httpx.Client, text: str) -> int | None:
    """The status, or None when no answer came."""
    try:
        return http.post("/embed", json={"inputs": text, "truncate": True}).status_code
    except httpx.TransportError:
        time.sleep(0.05)  # a service that is gone would be asked a thousand times a second
        return None


def load_test(url: str, texts: list[str], seconds: float = 5.0, clients: int = 16) -> dict[str, float]:
    """Clients that each send one text, wait for its vector and send the next.

    Parameters
    ----------
    url : of a service
    texts : taken in turn, each client from another place
    seconds : of sending, after one second to warm up
    clients : connections at the same time; they share this machine's cores with the service

    Returns
    -------
    ``requests/s``, ``p50 ms``, ``p99 ms`` over the answers; ``errors``: answers other than 200, and requests without one

    Raises
    ------
    RuntimeError
        If no request was answered in time.
    """
    start = time.perf_counter() + 1.0
    times: list[list[float]] = [[] for _ in range(clients)]
    errors = [0] * clients

    def client(number: int) -> None:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as http:
            place = number * len(texts) // clients
            while (begun := time.perf_counter()) < start + seconds:
                status = _ask(http, texts[place % len(texts)])
                place += 1
                if begun >= start:
                    errors[number] += status != 200
                    times[number] += [] if status is None else [time.perf_counter() - begun]

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - start
    found = [value for one in times for value in one]
    if not found:
        raise RuntimeError(
            say(
                en=f"{url} answered no request within {seconds:g} s; send for longer, or fewer clients",
                zh=f"{url} 在 {seconds:g} 秒内没有回答任何请求；延长时间，或减少客户端",
            )
        )
    p50, p99 = np.quantile(found, [0.5, 0.99], method="inverted_cdf")  # a time that was measured, not one between two
    return {"requests/s": len(found) / took, "p50 ms": 1000 * p50, "p99 ms": 1000 * p99, "errors": sum(errors)}
