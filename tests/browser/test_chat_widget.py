"""The chat widget in a real JupyterLab in a headless browser: type a question, switch the reranker, read the answer."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import nbformat
import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium in PATH: the widget was NOT tested in a browser")

CELL = """
from langchain_core.documents import Document
from retrieval_lab import rag, tiny, widgets
texts = {"ferry": "The ferry is hourly. <img src=x onerror=alert(1)>", "tram": "The tram runs often."}
documents = [Document(text, metadata={"source": source, "title": ""}) for source, text in texts.items()]
assistant = rag.Assistant(tiny.encoder(), documents, "index", score=lambda pairs: [len(t) for _, t in pairs])
widgets.Chat(assistant, "ferry")
"""


@pytest.fixture
def lab(tmp_path):
    """JupyterLab over one notebook, stopped afterwards."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, tmp_path / "chat.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "jupyter"), "lab", "--no-browser", "--allow-root", f"--port={port}"]
    command += [f"--notebook-dir={tmp_path}", "--IdentityProvider.token=", "--ServerApp.ip=127.0.0.1"]
    folders = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "RUNTIME", "DATA")}
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | folders, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                httpx.get(f"{url}/api").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield f"{url}/lab/tree/chat.ipynb"
    finally:
        process.terminate()
        process.wait(20)


def test_widget_answers_in_a_notebook(lab):
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.goto(lab)
        page.click(".jp-Notebook .jp-Cell .cm-content", timeout=60_000)
        page.keyboard.press("Shift+Enter")
        output = page.locator(".jp-OutputArea-output").filter(
            has=page.locator("input[type=checkbox]")
        )  # not a progress bar
        expect(output.locator("mark").first).to_be_visible(timeout=60_000)
        assert "cosine" in output.inner_text() and "rerank_score" not in output.inner_text()

        output.locator("input[type=checkbox]").check()
        expect(output.locator("small").first).to_contain_text("rerank_score", timeout=20_000)

        output.locator("input[type=text]").fill("tram")
        page.keyboard.press("Enter")
        expect(output.locator("p b").first).to_contain_text("tram", timeout=20_000)
        assert output.locator("img").count() == 0  # a document's markup stays text
        browser.close()
