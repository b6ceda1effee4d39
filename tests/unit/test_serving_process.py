"""The service as a real uvicorn process on loopback: many clients, rude clients, and the end."""

import http.server
import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest

from retrieval_lab import cli, export, serving_command, serving_process, tiny

TEXTS = [f"tram {i} " * (i % 7 + 1) for i in range(40)]


@pytest.fixture(scope="module")
def model():
    return tiny.encoder(prompts={"query": "query: ", "document": "passage: "})


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return export.to_onnx(model, tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="module")
def service(folder):
    with serving_process.Running("--model", folder, seconds=60) as running:
        yield running


def address(url):
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


def asked_at_once(service):
    """Three answers for each text, from 16 clients."""

    def ask(text):
        with httpx.Client(base_url=service.url) as http:
            return [http.post("/embed", json={"inputs": text}, timeout=30).json()[0] for _ in range(3)]

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(ask, TEXTS))


def test_concurrent_clients_each_get_their_own_vectors(service, model):
    expected = model.encode(TEXTS, normalize_embeddings=True)
    for rows, vector in zip(asked_at_once(service), expected, strict=True):
        np.testing.assert_allclose(rows, [vector] * 3, atol=1e-5)


def test_requests_of_several_clients_share_runs(service):
    asked_at_once(service)
    text = httpx.get(f"{service.url}/metrics").text
    numbers = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("batch_texts_"))
    assert float(numbers["batch_texts_sum"]) > float(numbers["batch_texts_count"])


def test_huge_body_is_refused_and_memory_stays(service):
    before = service.memory_mb()
    body = b'{"inputs": "' + b"a" * 20_000_000 + b'"}'
    found = httpx.post(f"{service.url}/embed", content=body, timeout=30)
    assert found.status_code == 413 and "larger than 1000000 bytes" in found.json()["error"]
    assert service.memory_mb() - before < 200


def test_longest_allowed_text_is_answered(service):
    body = {"inputs": ["a " * 50_000], "truncate": True}
    assert httpx.post(f"{service.url}/embed", json=body, timeout=30).status_code == 200


def test_clients_that_vanish_leave_no_trace(service):
    body = json.dumps({"inputs": ["tram " * 20] * 64}).encode()
    head = (
        b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % len(body)
    )
    for sent in (head + body, head + body[:10], head, b"POST /em", b"\x16\x03\x01\x00garbage\r\n\r\n"):
        for _ in range(10):
            with socket.create_connection(address(service.url)) as rude:
                rude.sendall(sent)
                rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # reset
    assert httpx.post(f"{service.url}/embed", json={"inputs": "tram"}, timeout=30).status_code == 200
    end = time.monotonic() + 10
    while len(psutil.Process(service.pid).net_connections()) > 2 and time.monotonic() < end:
        time.sleep(0.05)
    assert len(psutil.Process(service.pid).net_connections()) <= 2  # the listening socket, and one that closes


def test_garbage_instead_of_http_gets_a_400(service):
    with socket.create_connection(address(service.url), timeout=10) as rude:
        rude.sendall(b"\x00\x01 nonsense\r\n\r\n")
        assert rude.recv(100).startswith(b"HTTP/1.1 400")


def test_sigterm_finishes_what_was_asked_and_then_ends(folder):
    answers = []
    with serving_process.Running("--model", folder, seconds=60) as running:
        body = {"inputs": ["a" * 120] * 64}

        def ask():
            answers.append(httpx.post(f"{running.url}/embed", json=body, timeout=30).status_code)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 10  # until the requests have been read
        while len(psutil.Process(running.pid).net_connections()) < 5 and time.monotonic() < end and not answers:
            time.sleep(0.005)
        time.sleep(0.05)
        os.kill(running.pid, signal.SIGTERM)
        status = running.process.wait(20)
        for thread in threads:
            thread.join()
    assert answers == [200] * 4
    assert status in (0, -signal.SIGTERM)


def test_killed_service_is_noticed_by_its_clients(folder):
    with serving_process.Running("--model", folder, seconds=60) as running:
        running.process.kill()
        running.process.wait(10)
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{running.url}/embed", json={"inputs": "tram"}, timeout=5)


def test_service_that_cannot_start_says_why(tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)the service did not start \(exit status 2\).*retrieval-lab serve"):
        serving_process.Running("--model", tmp_path, seconds=60)


def test_load_test_counts_requests_and_orders_its_times(service):
    found = serving_process.load_test(service.url, TEXTS, seconds=0.5, clients=4)
    assert found["requests/s"] > 1 and 0 < found["p50 ms"] <= found["p99 ms"] and found["errors"] == 0


class Leaving(http.server.BaseHTTPRequestHandler):
    """Answers until ``end``, then closes every connection unanswered."""

    end, dropped = 0.0, []

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        if time.perf_counter() < self.end:
            self.send_response(200)
            self.end_headers()
        else:
            self.dropped.append(1)

    def log_message(self, *_):
        pass


def test_load_test_counts_requests_that_got_no_answer():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Leaving) as server:
        threading.Thread(target=server.serve_forever).start()
        Leaving.end = time.perf_counter() + 1.5  # after the second of warming up
        found = serving_process.load_test(f"http://127.0.0.1:{server.server_port}", TEXTS, seconds=1, clients=3)
        server.shutdown()
    assert found["errors"] == len(Leaving.dropped) >= 3 and found["requests/s"] > 0


def test_service_on_loopback_answers_to_this_machines_names_only(service):
    def asked(host):
        found = httpx.post(f"{service.url}/embed", json={"inputs": "tram"}, headers={"host": host}, timeout=30)
        return found.status_code

    names = ["localhost", "127.0.0.1:8080", "[::1]:8080", "evil.example", "127.0.0.1.evil.example:8080", "[::2]"]
    assert [asked(name) for name in names] == [200, 200, 200, 400, 400, 400]


@pytest.mark.parametrize(
    "host, other", [("localhost", []), ("::1", []), ("127.0.0.2", ["127.0.0.2"]), ("0.0.0.0", None), ("box.lan", None)]
)
def test_only_loopback_is_closed_to_foreign_names(host, other):
    open_to_all = other is None
    names = ["localhost", "127.0.0.1", "[::1]"]
    assert serving_command.allowed_hosts(host) == (["*"] if open_to_all else names + other)


def test_load_test_of_a_service_that_is_too_slow_says_so(service, lang):
    words = {"en": "answered no request within -2 s", "zh": "在 -2 秒内没有回答任何请求"}
    with pytest.raises(RuntimeError, match=words[lang]):
        serving_process.load_test(service.url, TEXTS, seconds=-2, clients=1)


@pytest.mark.parametrize(
    "given, words",
    [
        (
            ["--int8", "--batch-tokens", "1"],
            {"en": "--int8, --batch-tokens: only together with --api", "zh": "同时带 --api"},
        ),
        (["--api", "--docs", "x"], {"en": "--docs: only without --api", "zh": "--docs 只能在不带 --api 时使用"}),
    ],
)
def test_setting_of_the_other_service_is_refused(capsys, given, words, lang):
    assert cli.main(["serve", *given]) == 2
    assert words[lang] in capsys.readouterr().err


@pytest.mark.parametrize(
    "command, words", [("export", ["--to", "--int8", "--triton"]), ("serve", ["--api", "--corpus"])]
)
def test_help_names_the_settings(capsys, command, words):
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    printed = capsys.readouterr().out
    assert all(word in printed for word in words)
