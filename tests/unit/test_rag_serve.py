"""`retrieval-lab serve`, started as a user starts it, over a folder of documents."""

import os
import socket
import subprocess
import sys
import time

import httpx
import pytest

from retrieval_lab import rag_serve, tiny


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A saved random encoder: the command's mechanics need no meaning."""
    folder = tmp_path_factory.mktemp("models") / "encoder"
    tiny.encoder().save_pretrained(str(folder))
    return str(folder)


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "zebra.md").write_text("# Zebra\n\nThe zebra lives in the zoo.", encoding="utf-8")
    return str(folder)


def test_assistant_over_a_folder_holds_its_chunks_and_the_thresholds_of_the_corpus(encoder, docs, tmp_path):
    made = rag_serve.assistant("en", docs=docs, model=encoder, reranker="none", index=str(tmp_path / "index"))
    assert made.chain("words").invoke("zebra")["documents"][0].metadata["source"] == "zebra.md"
    assert made.thresholds.keys() == {"both", "meaning", "words"} and made.score is None


def test_command_serves_the_page_until_it_is_stopped(encoder, docs, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "retrieval_lab.cli", "serve", "--lang", "zh", "--docs", docs, "--model", encoder]
    command += ["--reranker", "none", "--index", str(tmp_path / "index"), "--port", str(port)]
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, text=True)
    try:
        assert "正在加载模型" in process.stdout.readline()
        assert f"http://localhost:{port}" in process.stdout.readline()
        assert _state(f"http://localhost:{port}") == ("zh", 1)
    finally:
        process.terminate()
        assert process.wait(20) in (0, -15)


def _state(url: str) -> tuple[str, int]:
    for _ in range(100):
        try:
            state = httpx.get(f"{url}/api/state").json()
            return state["lang"], state["chunks"]
        except httpx.ConnectError:
            time.sleep(0.1)
    pytest.fail(f"nothing answers at {url}")


@pytest.mark.parametrize(
    "given, en, zh",
    [
        ({"base_url": "http://x"}, "--base-url http://x without --chat", "没有给 --chat"),
        ({"index": "a", "chroma": "http://x"}, "--index a beside --chroma http://x", "只能给一个"),
    ],
)
def test_option_that_would_not_be_read_is_refused_before_any_model_is_loaded(given, en, zh, lang):
    with pytest.raises(ValueError, match={"en": en, "zh": zh}[lang]):
        rag_serve.assistant(lang, model="nowhere/none", **given)


@pytest.mark.parametrize(
    "host, url, asked",
    [
        ("::1", "http://[::1]:8765", "[::1]:8765"),
        ("127.0.0.1", "http://localhost:8765", "localhost:8765"),
        ("0.0.0.0", "http://localhost:8765", "any.example"),
    ],
)
def test_page_is_asked_for_under_the_address_that_is_printed(host, url, asked, harbour, tmp_path, monkeypatch, capsys):
    import uvicorn
    from fastapi.testclient import TestClient

    from retrieval_lab import rag, rag_documents

    made = rag.Assistant(tiny.encoder(), rag_documents.from_collection(harbour), tmp_path)
    served = []
    monkeypatch.setattr(rag_serve, "assistant", lambda lang: made)
    monkeypatch.setattr(uvicorn, "run", lambda app, **_: served.append(app))
    rag_serve.serve(host)
    assert f"open {url} " in capsys.readouterr().out
    assert TestClient(served[0]).get("/", headers={"host": asked}).status_code == 200


def test_missing_folder_is_said_without_a_traceback(encoder, tmp_path, capsys):
    from retrieval_lab.cli import main

    given = ["--docs", str(tmp_path / "none"), "--model", encoder, "--reranker", "none", "--index", str(tmp_path / "i")]
    assert main(["serve", *given]) == 2
    assert "is not there; check the path" in capsys.readouterr().err
