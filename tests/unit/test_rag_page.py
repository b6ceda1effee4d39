"""The page's calls through ASGI: what it answers, and what it refuses."""

import asyncio
import json
import time

import httpx
import pytest
from fastapi.testclient import TestClient
from langchain_core.runnables import RunnableLambda

from retrieval_lab import rag, rag_documents, rag_page, tiny


@pytest.fixture(scope="module")
def model():
    return tiny.encoder()


@pytest.fixture
def assistant(model, harbour, tmp_path):
    score = lambda pairs: [-len(text) for _, text in pairs]  # noqa: E731
    return rag.Assistant(model, rag_documents.from_collection(harbour), tmp_path, score=score)


@pytest.fixture
def page(assistant):
    return TestClient(rag_page.app(assistant), base_url="http://localhost")


def ask(page, question="crossing the river", **options) -> dict:
    """All lines of the answer as one dictionary; pieces of the answer are joined."""
    response = page.post("/api/ask", json={"question": question, **options})
    assert response.status_code == 200, response.text
    found = {"answer": ""}
    for line in response.text.splitlines():
        part = json.loads(line)
        found = {**found, **part, "answer": found["answer"] + part.get("answer", "")}
    return found


def upload(page, name, content, **headers):
    return page.post("/api/upload", files={"file": (name, content)}, headers=headers)


def test_page_and_its_files_come_with_headers_that_forbid_foreign_code(page):
    for path, kind in (("/", "text/html"), ("/rag.js", "text/javascript"), ("/rag.css", "text/css")):
        response = page.get(path)
        assert response.status_code == 200 and response.headers["content-type"].startswith(kind)
        assert response.headers["content-security-policy"].startswith("default-src 'self'")
        assert "http://" not in response.text.replace("http://www.w3.org", "") and "https://" not in response.text


def test_answer_comes_as_documents_text_and_checked_citations(page):
    found = ask(page)
    assert len(found["documents"]) == 3 and found["done"] and not found["abstained"]
    assert "[1]" in found["answer"] or "[2]" in found["answer"] or "[3]" in found["answer"]
    assert found["citations"] and not any(citation["problem"] for citation in found["citations"])
    assert {"source", "title", "scores", "text"} <= found["documents"][0].keys()


@pytest.mark.parametrize("retriever", rag.RETRIEVERS)
@pytest.mark.parametrize("rerank", [True, False])
def test_every_retriever_answers(page, retriever, rerank):
    found = ask(page, retriever=retriever, rerank=rerank)
    assert ("rerank_score" in found["documents"][0]["scores"]) == rerank


def test_weak_evidence_is_refused_and_the_nearest_sources_are_shown(page, assistant):
    assistant.thresholds = {"both": 2.0}
    found = ask(page)
    assert found["abstained"] and found["answer"] == "Not found in the sources." and found["documents"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # LangChain's threads, after the error
def test_failure_while_answering_is_said_and_the_next_question_is_answered(page, assistant):
    good, assistant.answerer = assistant.answerer, lambda state: 1 / 0
    assert "division by zero" in ask(page)["error"]
    assistant.answerer = good
    assert ask(page)["citations"]


def test_more_questions_than_there_are_threads_are_all_answered(page):
    async def everyone():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(page.app), base_url="http://localhost") as client:
            asked = (client.post("/api/ask", json={"question": "the ferry"}, timeout=20) for _ in range(50))
            return [response.text for response in await asyncio.gather(*asked)]

    assert all('"done": true' in text and '"error"' not in text for text in asyncio.run(everyone()))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # LangChain's generators, when closed
def test_reader_who_leaves_gives_up_the_turn(page, assistant):
    def talk(state):
        yield from ["word "] * 500

    assistant.answerer = RunnableLambda(talk)
    body, left = b'{"question": "the ferry"}', asyncio.Event()
    headers = {"host": "localhost", "content-type": "application/json", "content-length": str(len(body))}
    scope = {"type": "http", "method": "POST", "path": "/api/ask", "query_string": b"", "http_version": "1.1"}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": body}]

    async def receive():
        if len(messages) == 1:
            await left.wait()
        return messages.pop() if len(messages) > 1 else messages[0]

    async def send(message):
        if b"answer" in message.get("body", b""):
            left.set()
            await asyncio.sleep(0.05)

    async def visit():
        await page.app(scope, receive, send)
        return left.is_set(), page.app.state.lock.locked()

    assert asyncio.run(visit()) == (True, False)


def test_question_that_waits_too_long_is_told_so(page, monkeypatch):
    monkeypatch.setattr(rag_page, "PATIENCE", 0.01)
    asyncio.run(page.app.state.lock.acquire())
    found = ask(page)
    assert "too many questions at once" in found["error"] and found["done"] and not found["abstained"]
    page.app.state.lock.release()
    assert ask(page)["documents"]


@pytest.mark.parametrize(
    "body",
    [
        {}, {"question": ""}, {"question": "   "}, {"question": "x" * 501}, {"question": 3},
        {"question": "x", "retriever": "all"}, {"question": "x", "rerank": "maybe"},
    ],
)  # fmt: skip
def test_malformed_question_is_refused(page, body):
    assert page.post("/api/ask", json=body).status_code == 422


def test_body_that_is_no_json_is_refused(page):
    assert page.post("/api/ask", content=b"\xff{", headers={"content-type": "application/json"}).status_code == 400


def test_reranker_that_is_not_there_is_refused(page, assistant):
    assistant.score = None
    assert page.get("/api/state").json()["reranker"] is False
    assert page.post("/api/ask", json={"question": "x", "rerank": True}).status_code == 422


def test_uploaded_file_is_found_and_its_markup_stays_text(page):
    attack = "The zebra <img src=x onerror=alert(1)> lives here."
    assert upload(page, "zebra.txt", attack.encode()).json() == {"name": "zebra.txt", "chunks": 1}
    assert page.get("/api/state").json()["uploads"] == {"zebra.txt": 1}
    found = ask(page, "zebra", retriever="words")
    assert found["documents"][0]["text"] == attack  # as text: the page sets textContent, see tests/browser
    assert not found["citations"][0]["problem"]


@pytest.mark.parametrize(
    "name, content, status, message",
    [
        ("a.exe", b"MZ", 415, "a.exe: only .md"),
        ("noname", b"x", 415, "only .md"),
        ("a.pdf", b"no pdf", 422, "no readable PDF"),
        ("a.txt", b"\xff\xfe\x00", 422, "not UTF-8"),
        ("a.txt", b"   ", 422, "holds no text"),
        ("a.md", b"# Zebra\n", 422, "a.md holds headings without text"),
        ("a.txt", b"x" * (2 * 2**20 + 1), 413, "larger than 2 MB"),
        ("a.txt", b"x" * (3 * 2**20), 413, "larger than 2 MB"),
    ],
)
def test_file_is_checked_before_it_is_taken_in(page, name, content, status, message):
    response = upload(page, name, content)
    assert response.status_code == status and message in response.json()["detail"]
    assert page.get("/api/state").json()["uploads"] == {}


def test_file_named_like_a_document_of_the_server_is_refused(page, assistant, lang):
    assistant.add("zebra.txt", b"The zebra is mine.")
    response = upload(page, "zebra.txt", b"The zebra is yours.")
    words = {"en": "a document of this name is here already", "zh": "已经有同名的文档了"}
    assert response.status_code == 409 and words[lang] in response.json()["detail"]
    assert ask(page, "zebra", retriever="words")["documents"][0]["text"] == "The zebra is mine."


def during(page, name, content, question) -> tuple[float, float, dict]:
    """When the upload and the question asked meanwhile were done, and the last line of its answer."""

    async def both():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(page.app), base_url="http://localhost") as client:

            async def finished(call):
                return await call, time.monotonic()

            file = asyncio.create_task(finished(client.post("/api/upload", files={"file": (name, content)})))
            await asyncio.sleep(0.1)
            asked = asyncio.create_task(finished(client.post("/api/ask", json=question)))
            return (await file)[1], (await asked)[1], json.loads((await asked)[0].text.splitlines()[-1])

    return asyncio.run(both())


@pytest.mark.parametrize("step", ["read", "encode"])
def test_question_is_answered_while_a_large_file_is_read_and_encoded(page, assistant, monkeypatch, step):
    work = getattr(assistant, step)
    monkeypatch.setattr(assistant, step, lambda *given: (time.sleep(0.4), work(*given))[1])
    monkeypatch.setattr(rag_page, "TURN", 1)
    text = "\n".join(f"# {number}\nA zebra." for number in range(5)).encode()
    uploaded, answered, last = during(page, "zebra.md", text, {"question": "the ferry"})
    assert last["done"] and answered < uploaded


def test_question_that_waited_for_an_upload_finds_the_file(page, assistant, monkeypatch):
    take = assistant.take
    monkeypatch.setattr(assistant, "take", lambda *given: (time.sleep(0.4), take(*given))[1])
    last = during(page, "zebra.txt", b"A zebra.", {"question": "zebra", "retriever": "words"})[2]
    assert last == {"done": True, "abstained": False}


def test_path_in_a_file_name_is_dropped(page):
    assert upload(page, "../../etc/zebra.txt", b"A zebra.").json()["name"] == "zebra.txt"
    assert upload(page, "C:\\x\\zebra.txt", b"A zebra.").json()["name"] == "zebra.txt"


def test_long_file_name_keeps_its_type(page):
    assert upload(page, "z" * 150 + ".txt", b"A zebra.").json()["name"] == "z" * 96 + ".txt"


def test_more_files_than_the_page_holds_are_refused(page, monkeypatch):
    monkeypatch.setattr(rag_page, "MAX_FILES", 1)
    assert upload(page, "a.txt", b"one").status_code == 200
    assert upload(page, "a.txt", b"two").status_code == 200  # the same name again
    assert upload(page, "b.txt", b"one").status_code == 409


def test_other_sites_may_not_ask_or_upload(page):
    assert upload(page, "a.txt", b"x", origin="http://evil.example").status_code == 403
    assert page.post("/api/ask", json={"question": "x"}, headers={"origin": "http://evil.example"}).status_code == 403
    assert page.get("/api/state", headers={"host": "evil.example"}).status_code == 400
    assert page.get("/api/state", headers={"origin": "http://[evil"}).status_code == 403


@pytest.mark.parametrize("declared", [{}, {"content-length": "10", "transfer-encoding": "chunked"}])  # h11 takes both
def test_body_in_chunks_is_refused(page, declared):
    response = page.post("/api/ask", content=iter([b'{"question": "x"}']), headers=declared)
    assert response.status_code == 411


def test_chinese_messages(page, chinese):
    assert page.get("/api/state").json()["lang"] == "zh"
    assert "只收" in upload(page, "a.exe", b"x").json()["detail"]
