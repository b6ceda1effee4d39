"""The store over a real Chroma in a folder, and over a real server on loopback."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from langchain_core.documents import Document

from retrieval_lab import embedding, rag_store, tiny
from retrieval_lab.rag_store import Changes, ModelEmbeddings, chunks_in, ingest, open_store

PROMPTS = {"query": "query: ", "document": "passage: "}


@pytest.fixture(scope="module")
def model():
    return tiny.encoder(prompts=PROMPTS)


def chunks(**texts: str) -> list[Document]:
    return [Document(text, metadata={"source": source, "title": source, "chunk": 0}) for source, text in texts.items()]


def texts(store) -> list[str]:
    return [chunk.page_content for chunk in chunks_in(store)]


def test_query_prompt_goes_before_queries_and_the_documents_before_documents(model):
    ours = ModelEmbeddings(model)
    np.testing.assert_allclose(ours.embed_query("tram"), model.encode_query("tram"), atol=1e-5)
    np.testing.assert_allclose(ours.embed_documents(["tram"]), model.encode_document(["tram"]), atol=1e-5)
    assert ours.embed_documents([]) == []


def test_scores_of_the_store_are_cosines(model, tmp_path):
    store = open_store(model, tmp_path)
    ingest(store, chunks(tram="the tram", ferry="the ferry runs"))
    found = {d.metadata["source"]: 1 - s for d, s in store.similarity_search_with_score("when", 2)}
    asked = embedding.encode(model, ["when"], "query")[0]
    expected = embedding.encode(model, ["the tram", "the ferry runs"]) @ asked
    np.testing.assert_allclose([found["tram"], found["ferry"]], expected, atol=1e-5)


def test_ingesting_twice_changes_nothing(model, tmp_path):
    store = open_store(model, tmp_path)
    assert ingest(store, chunks(a="one", b="two")) == Changes(2, 0, 0)
    assert ingest(store, chunks(a="one", b="two")) == Changes(0, 2, 0)
    assert ingest(open_store(model, tmp_path), chunks(b="two", a="one")) == Changes(0, 2, 0)


def test_changed_source_is_replaced_and_missing_one_disappears(model, tmp_path):
    store = open_store(model, tmp_path)
    ingest(store, chunks(a="one", b="two", c="three"))
    assert ingest(store, chunks(a="one", b="TWO")) == Changes(1, 1, 2)
    assert texts(store) == ["one", "TWO"]
    assert ingest(store, []) == Changes(0, 0, 2)


def test_upload_touches_only_its_own_source(model, tmp_path):
    store = open_store(model, tmp_path)
    ingest(store, chunks(a="one", b="two"))
    assert ingest(store, chunks(b="zwei"), scope="sources") == Changes(1, 0, 1)
    assert texts(store) == ["one", "zwei"]
    assert ingest(store, [], scope="sources") == Changes(0, 0, 0)


def test_same_text_in_two_sources_is_kept_twice_and_twice_in_one_place_once(model, tmp_path):
    store = open_store(model, tmp_path)
    assert ingest(store, [*chunks(a="one", b="one"), *chunks(a="one")]) == Changes(2, 0, 0)


def test_more_chunks_than_a_batch_holds(model, tmp_path):
    store = open_store(model, tmp_path)
    many = [Document("x", metadata={"source": "s", "chunk": i}) for i in range(501)]
    assert ingest(store, many).added == 501
    assert ingest(store, []).deleted == 501


def test_index_of_another_model_is_refused(model, tmp_path, lang):
    ingest(open_store(model, tmp_path), chunks(a="one"))
    with pytest.raises(ValueError, match={"en": "made by another model", "zh": "另一个模型建的"}[lang]):
        open_store(tiny.encoder(prompts=PROMPTS, seed=1), tmp_path)
    with pytest.raises(ValueError):
        open_store(tiny.encoder(), tmp_path)  # the same weights without prompts
    open_store(tiny.encoder(seed=1), tmp_path, name="another")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"folder": "a", "url": "http://localhost:8000"}, "both given"),
        ({"url": "localhost:8000"}, "use http://host:port"),
    ],
)
def test_place_that_is_none_is_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        open_store(model, **options)


def test_chunk_without_source_and_unknown_scope_are_refused(model, tmp_path, lang):
    store = open_store(model, tmp_path)
    words = {"en": "no `source` in its metadata: 'lost'", "zh": "没有 `source`：'lost'"}
    with pytest.raises(ValueError, match=words[lang]):
        rag_store.chunk_id(Document("lost"))
    with pytest.raises(ValueError, match="scope='some'"):
        ingest(store, [], scope="some")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """`chroma run` on a free port of this machine, stopped afterwards."""
    folder = tmp_path_factory.mktemp("chroma")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "chroma"), "run", "--path", str(folder), "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "ANONYMIZED_TELEMETRY": "False"},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                httpx.get(f"{url}/api/v2/heartbeat").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        else:
            pytest.fail("chroma did not start in 30 s")
        yield url
    finally:
        process.terminate()
        process.wait(10)


def test_server_by_url_behaves_like_a_folder(model, server):
    store = open_store(model, url=server)
    assert ingest(store, chunks(a="one", b="two")) == Changes(2, 0, 0)
    again = open_store(model, url=server)
    assert ingest(again, chunks(a="one", b="TWO")) == Changes(1, 1, 1)
    assert texts(again) == ["one", "TWO"]
    with pytest.raises(ValueError, match="made by another model"):
        open_store(tiny.encoder(seed=1), url=server)


def test_server_that_does_not_answer_is_said(model):
    with pytest.raises(ConnectionError, match="no Chroma server answers at http://127.0.0.1:9"):
        open_store(model, url="http://127.0.0.1:9")
