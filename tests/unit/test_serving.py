"""The service in process: shapes of requests and answers, limits, errors, and what stands before the application."""

import asyncio
import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from retrieval_lab import export, llm_scalar, serving, serving_backends, tiny
from retrieval_lab.serving_guard import Guard, Metrics
from retrieval_lab.serving_requests import Limits

PROMPTS = {"query": "query: ", "document": "passage: "}
CORPUS = {
    "tram": "the tram leaves every ten minutes",
    "ferry": "the ferry crosses the river",
    "pool": "the pool opens at 7",
}
LIMITS = Limits(max_body_bytes=20_000, max_batch=4)


@pytest.fixture(scope="module")
def model():
    return tiny.encoder(prompts=PROMPTS)


@pytest.fixture(scope="module")
def reranker():
    return tiny.cross_encoder()


@pytest.fixture(scope="module")
def client(model, reranker):
    backends = serving_backends.of_model(model, "tiny"), serving_backends.of_model(reranker, "tiny-reranker")
    with TestClient(serving.create_app(*backends, CORPUS, limits=LIMITS), raise_server_exceptions=False) as client:
        yield client


def unit(model, texts):
    return model.encode(texts, normalize_embeddings=True)


@pytest.mark.parametrize("inputs", ["tram", ["tram"], ["tram", "", "在这", "a {x} %s"]])
def test_embed_gives_the_models_vectors(client, model, inputs):
    found = client.post("/embed", json={"inputs": inputs})
    assert found.status_code == 200
    np.testing.assert_allclose(found.json(), unit(model, [inputs] if isinstance(inputs, str) else inputs), atol=1e-5)


@pytest.mark.parametrize("name", ["query", "document"])
def test_named_prompt_is_put_before_the_text_once(client, model, name):
    found = client.post("/embed", json={"inputs": ["tram"], "prompt_name": name}).json()
    np.testing.assert_allclose(found, unit(model, [PROMPTS[name] + "tram"]), atol=1e-5)


def test_openai_shape_in_numbers_and_in_base64(client, model):
    asked = {"input": ["tram", "ferry"], "model": "whatever"}
    numbers = client.post("/v1/embeddings", json=asked).json()
    assert numbers["object"] == "list" and [row["index"] for row in numbers["data"]] == [0, 1]
    assert numbers["usage"] == {"prompt_tokens": 6 + 7, "total_tokens": 13}  # one a letter, [CLS] and [SEP]
    packed = client.post("/v1/embeddings", json=asked | {"encoding_format": "base64"}).json()
    for plain, coded, expected in zip(numbers["data"], packed["data"], unit(model, asked["input"]), strict=True):
        np.testing.assert_allclose(plain["embedding"], expected, atol=1e-5)
        np.testing.assert_allclose(np.frombuffer(base64.b64decode(coded["embedding"]), "<f4"), expected, atol=1e-5)


def test_openais_own_client_reads_it(client, model):
    openai = pytest.importorskip("openai")
    asking = openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=client)
    found = asking.embeddings.create(model="tiny", input=["tram"])
    np.testing.assert_allclose(found.data[0].embedding, unit(model, ["tram"])[0], atol=1e-5)


def test_rerank_orders_texts_by_the_rerankers_score(client, reranker):
    texts = list(CORPUS.values())
    expected = reranker.predict([("tram", text) for text in texts], show_progress_bar=False)
    rows = client.post("/rerank", json={"query": "tram", "texts": texts, "return_text": True}).json()
    assert [row["index"] for row in rows] == np.argsort(-expected).tolist()
    for row in rows:
        assert row["text"] == texts[row["index"]] and row["score"] == pytest.approx(expected[row["index"]], abs=1e-5)


def test_raw_scores_are_logits(client):
    rows, raw = (
        client.post("/rerank", json={"query": "tram", "texts": ["a", "b"], "raw_scores": given}).json()
        for given in (0, 1)
    )
    for plain, logit in zip(rows, raw, strict=True):
        assert plain["score"] == pytest.approx(1 / (1 + np.exp(-logit["score"])), abs=1e-5)


def test_search_is_cosine_over_the_corpus_with_both_prompts(client, model):
    docs = unit(model, ["passage: " + text for text in CORPUS.values()])
    cosines = docs @ unit(model, ["query: tram"])[0]
    order = np.argsort(-cosines)[:2]
    found = client.post("/search", json={"query": "tram", "top_k": 2}).json()["results"]
    assert [row["id"] for row in found] == [list(CORPUS)[i] for i in order]
    np.testing.assert_allclose([row["score"] for row in found], cosines[order], atol=1e-5)
    assert found[0]["text"] == CORPUS[found[0]["id"]]


def test_search_adds_cosine_and_logit_each_standardised(client, model, reranker):
    docs = unit(model, ["passage: " + text for text in CORPUS.values()])
    cosines = docs @ unit(model, ["query: tram"])[0]
    pairs = [("tram", text) for text in CORPUS.values()]
    logits = reranker.predict(pairs, show_progress_bar=False, activation_fn=torch.nn.Identity())
    for weight in (0.3, 0.75):
        sums = sum(w * (x - x.mean()) / x.std() for w, x in ((weight, logits), (1 - weight, cosines)))
        body = {"query": "tram", "rerank": True} | ({} if weight == 0.3 else {"rerank_weight": weight})
        found = client.post("/search", json=body).json()["results"]
        assert [row["id"] for row in found] == [list(CORPUS)[i] for i in np.argsort(-sums)]
        np.testing.assert_allclose([row["score"] for row in found], np.sort(sums)[::-1], atol=1e-3)


def test_reranker_alone_decides_at_weight_1(client, reranker):
    expected = reranker.predict([("tram", text) for text in CORPUS.values()], show_progress_bar=False)
    found = client.post("/search", json={"query": "tram", "rerank": True, "rerank_weight": 1}).json()["results"]
    assert [row["id"] for row in found] == [list(CORPUS)[i] for i in np.argsort(-expected)]


@pytest.mark.parametrize("weight", [0, -0.1, 1.1, "NaN"])
def test_impossible_weight_is_refused(client, weight):
    found = client.post("/search", json={"query": "tram", "rerank": True, "rerank_weight": weight})
    assert found.status_code == 422 and "rerank_weight" in found.json()["error"]


def test_search_keeps_the_documents_below_those_that_are_reranked(client, monkeypatch):
    monkeypatch.setattr(serving, "RERANKED", 1)
    plain = client.post("/search", json={"query": "tram"}).json()["results"]
    found = client.post("/search", json={"query": "tram", "rerank": True}).json()["results"]
    assert [row["id"] for row in found] == [row["id"] for row in plain]


@pytest.mark.parametrize("truncate", [True, False])
def test_query_is_refused_before_it_is_tokenised_with_every_text(model, reranker, truncate):
    backend, seen = serving_backends.of_model(reranker, "tiny-reranker"), []

    def tokens(texts, cut):
        seen.append(len(texts))
        return backend.tokens(texts, cut)

    app = serving.create_app(
        serving_backends.of_model(model, "tiny"), replace(backend, tokens=tokens), limits=Limits(max_body_bytes=1000)
    )
    body = {"query": "a" * 101, "texts": ["b"] * 10, "truncate": truncate}
    with TestClient(app) as client:
        found = client.post("/rerank", json=body)
        assert found.status_code == 413 and not seen
        words = "`query` has 101 characters and is read with each of 10 texts, more than 1000 in all; shorten it"
        assert found.json()["error"].startswith(words)
        assert client.post("/rerank", json=body | {"query": "a" * 100}).status_code == 200 and seen == [10]


def test_search_cuts_a_long_query_before_it_is_tokenised_and_the_scores_stay(client, reranker, monkeypatch):
    seen = []
    service = client.app.state.service
    tokens = service.reranker.tokens
    spy = replace(service.reranker, tokens=lambda pairs, cut: seen.extend(pairs) or tokens(pairs, cut))
    monkeypatch.setattr(service, "reranker", spy)
    query = "tram " * 3000  # 15 000 characters, with 3 texts 45 000: more than a body may have
    body = {"query": query, "rerank": True, "rerank_weight": 1}
    found = client.post("/search", json=body).json()["results"]
    expected = reranker.predict([(query, text) for text in CORPUS.values()], show_progress_bar=False)
    assert [row["id"] for row in found] == [list(CORPUS)[i] for i in np.argsort(-expected)]
    assert max(len(given) for given, _ in seen) == LIMITS.max_body_bytes // serving.RERANKED


def test_corpus_that_is_longer_than_one_client_may_send_is_encoded_and_reranked(model, reranker):
    corpus = {str(i): f"a ferry {i} " * 100 for i in range(12)}  # each cut to 128 tokens: 1536 in all
    backends = serving_backends.of_model(model, "tiny"), serving_backends.of_model(reranker, "tiny-reranker")
    with TestClient(serving.create_app(*backends, corpus, limits=Limits(max_waiting=300))) as client:
        vectors = client.app.state.service.vectors
        np.testing.assert_allclose(vectors, unit(model, ["passage: " + text for text in corpus.values()]), atol=1e-5)
        found = client.post("/search", json={"query": "tram", "rerank": True, "top_k": 12})
        assert found.status_code == 200 and len(found.json()["results"]) == 12


def test_health_says_what_runs_and_what_is_allowed(client):
    found = client.get("/health").json()
    assert found["status"] == "ok" and found["documents"] == 3
    assert found["embedding"] == {
        "model": "tiny",
        "runtime": "torch",
        "max_seq_length": 128,
        "dim": 32,
        "prompts": PROMPTS,
    }
    assert found["reranker"]["model"] == "tiny-reranker" and found["limits"]["max_batch"] == 4


def test_metrics_count_answers_by_path_and_status_and_invent_no_path(client):
    client.post("/embed", json={"inputs": []})
    client.get("/made/up/1")
    client.get("/made/up/2")
    text = client.get("/metrics").text
    assert 'requests_total{path="/embed",status="400"}' in text and 'path="other",status="404"' in text
    assert "made" not in text and "batch_texts_count" in text and 'tokens_total{kind="padding"}' in text


BAD = {
    "no text": ("/embed", {"inputs": []}, 400, "`inputs` is empty; send at least one text"),
    "too many": ("/embed", {"inputs": ["a"] * 5}, 413, "`inputs` holds 5 texts, at most 4 are taken"),
    "too long": (
        "/embed",
        {"inputs": ["ok", "a" * 200]},
        413,
        "text 1 has 202 tokens, tiny reads 128; split it, or send truncate",
    ),
    "no field": ("/embed", {"texts": ["a"]}, 422, "inputs: Field required"),
    "numbers": ("/embed", {"inputs": [1, 2]}, 422, "inputs"),
    "unknown prompt": ("/embed", {"inputs": "a", "prompt_name": "poem"}, 422, "prompt_name 'poem' is not one of"),
    "width that the model has not": (
        "/embed",
        {"inputs": "a", "dimensions": 7},
        422,
        "dimensions: Extra inputs are not",
    ),
    "cut from the left": (
        "/embed",
        {"inputs": "a", "truncation_direction": "Left"},
        422,
        "truncation_direction: Input",
    ),
    "unknown field": ("/rerank", {"query": "a", "texts": ["b"], "top_n": 3}, 422, "top_n: Extra inputs are not"),
    "misspelt": ("/search", {"query": "a", "topk": 3}, 422, "topk: Extra inputs are not"),
    "unnormalised": ("/embed", {"inputs": "a", "normalize": False}, 422, "normalize: Input should be True"),
    "no rerank text": ("/rerank", {"query": "a", "texts": []}, 400, "`texts` is empty"),
    "no query": ("/search", {"query": ""}, 422, "query: String should have at least 1 character"),
    "top_k of zero": ("/search", {"query": "a", "top_k": 0}, 422, "top_k: Input should be greater than or equal to 1"),
    "top_k of a million": ("/search", {"query": "a", "top_k": 10**6}, 422, "top_k: Input should be less than"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_request_gets_a_4xx_that_says_why(client, case):
    path, body, status, words = BAD[case]
    found = client.post(path, json=body)
    assert found.status_code == status and words in found.json()["error"] and "error_type" in found.json()


def test_name_of_an_unknown_field_is_cut(client):
    found = client.post("/embed", json={"inputs": "a", "b" * 5000: 1})
    assert found.status_code == 422 and found.json()["error"] == "b" * 60 + ": Extra inputs are not permitted"


def test_cutting_the_end_may_be_asked_for_by_name(client):
    body = {"inputs": "a" * 200, "truncate": True}
    asked = client.post("/embed", json=body | {"truncation_direction": "Right"})
    assert asked.status_code == 200 and asked.json() == client.post("/embed", json=body).json()


def test_openais_user_is_taken_and_other_unknown_fields_are_not(client):
    asked = {"input": ["a"], "model": "x", "encoding_format": "float", "dimensions": 32}
    assert client.post("/v1/embeddings", json=asked | {"user": "u-1"}).status_code == 200
    found = client.post("/v1/embeddings", json=asked | {"width": 7})
    assert found.status_code == 422 and found.json()["error"]["message"] == "width: Extra inputs are not permitted"


def test_openai_path_gives_openai_errors(client):
    found = client.post("/v1/embeddings", json={"input": ["a"], "dimensions": 7})
    assert found.status_code == 400
    error = found.json()["error"]
    assert error["message"] == "dimensions=7: this model gives 32; leave `dimensions` out"
    assert error["type"] == "invalid_request_error"


def test_long_text_is_cut_when_asked(client, model):
    found = client.post("/embed", json={"inputs": "a" * 200, "truncate": True})
    np.testing.assert_allclose(found.json(), unit(model, ["a" * 200]), atol=1e-5)


MALFORMED = {
    "not JSON": b"{inputs",
    "half a body": b'{"inputs": ["a"',
    "a list": b"[1, 2]",
    "nothing": b"",
    "not UTF-8": b'{"inputs": "\xff\xfe"}',
    "half a surrogate": b'{"inputs": "\\ud800 tram"}',
    "deep": b'{"inputs": ' + b"[" * 9000 + b"]" * 9000 + b"}",
    "numbers beyond floats": b'{"inputs": 1e999, "input": 1e999, "query": 1e999}',
    "null": b"null",
}


@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings", "/rerank", "/search"])
@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_body_gets_a_clear_4xx(client, path, case):
    found = client.post(path, content=MALFORMED[case], headers={"content-type": "application/json"})
    assert found.status_code in (400, 422)
    assert found.json()["error"]
    assert client.post("/embed", json={"inputs": "tram"}).status_code == 200


def test_body_over_the_limit_is_refused_declared_or_not(client):
    body = json.dumps({"inputs": "a" * 30_000}).encode()
    for content in (body, iter([body[:10_000], body[10_000:]])):
        found = client.post("/embed", content=content, headers={"content-type": "application/json"})
        assert found.status_code == 413 and found.json()["error"].startswith("the body is larger than 20000 bytes")


def test_service_without_reranker_or_corpus_says_so(model):
    with TestClient(serving.create_app(serving_backends.of_model(model, "tiny"))) as client:
        rerank = client.post("/rerank", json={"query": "a", "texts": ["b"]})
        search = client.post("/search", json={"query": "a"})
    assert rerank.status_code == search.status_code == 404
    assert "start it with --reranker MODEL" in rerank.json()["error"]
    assert "start it with --corpus" in search.json()["error"]


def test_overload_is_a_429_that_says_when_to_come_back(model):
    backend, busy, free = serving_backends.of_model(model, "tiny"), Event(), Event()

    def forward(encodings):
        busy.set()
        free.wait(10)
        return backend.forward(encodings)

    asked = {"json": {"inputs": "tram"}}  # 6 tokens
    app = serving.create_app(replace(backend, forward=forward), limits=Limits(max_waiting=10))
    with TestClient(app) as client, ThreadPoolExecutor(2) as clients:
        others = [clients.submit(client.post, "/embed", **asked)]
        busy.wait(10)
        others.append(clients.submit(client.post, "/embed", **asked))
        while not app.state.service._batchers["embedding"].waiting_tokens:
            time.sleep(0.001)
        found = client.post("/embed", **asked)
        free.set()
        assert found.status_code == 429 and found.headers["retry-after"] == "1"
        assert found.json() == {
            "error": "6 tokens are waiting, at most 10 may; try again in a second",
            "error_type": "Overloaded",
        }
        assert [other.result().status_code for other in others] == [200, 200]


def test_request_that_could_never_wait_is_too_large(model):
    with TestClient(
        serving.create_app(serving_backends.of_model(model, "tiny"), limits=Limits(max_waiting=10))
    ) as client:
        found = client.post("/embed", json={"inputs": ["a" * 7, "b"]})  # and [CLS] and [SEP] of each
        assert found.status_code == 413 and "12 tokens in one request, at most 10" in found.json()["error"]
        assert client.post("/embed", json={"inputs": "a"}).status_code == 200


@pytest.mark.parametrize("problem", [MemoryError, TimeoutError])  # a model's timeout is not a slow client's
def test_model_that_fails_gives_a_500_and_the_service_lives(model, problem):
    backend = serving_backends.of_model(model, "tiny")

    def forward(encodings):
        if len(encodings[0].ids) > 50:
            raise problem("no")
        return backend.forward(encodings)

    app = serving.create_app(replace(backend, forward=forward))
    with TestClient(app, raise_server_exceptions=False) as client:
        found = client.post("/embed", json={"inputs": "a" * 60})
        assert found.status_code == 500 and f"the model failed ({problem.__name__})" in found.json()["error"]
        assert 'requests_total{path="/embed",status="500"} 1.0' in client.get("/metrics").text
        assert client.post("/embed", json={"inputs": "a"}).status_code == 200


def sent_to_guard(messages, limits):
    """What a guard answers to these messages; the last one never comes when the list ends."""
    sent, waiting = [], list(messages)

    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        if not waiting:
            await asyncio.sleep(60)
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/embed", "headers": []}
    metrics = Metrics()
    asyncio.run(Guard(app, limits, metrics)(scope, receive, send))
    return sent, metrics.text().decode()


def test_body_that_does_not_arrive_is_a_408():
    sent, _ = sent_to_guard([{"type": "http.request", "body": b"{", "more_body": True}], Limits(body_seconds=0.05))
    assert sent[0]["status"] == 408 and b"did not arrive within 0.05 s; send it again" in sent[1]["body"]


def test_endless_body_is_not_read_for_ever():
    endless = [{"type": "http.request", "body": b"x" * 100, "more_body": True}] * 1000
    sent, _ = sent_to_guard(endless, Limits(max_body_bytes=10))
    assert sent[0]["status"] == 413


def test_client_that_leaves_while_sending_is_counted_and_gets_nothing():
    sent, text = sent_to_guard([{"type": "http.disconnect"}], Limits())
    assert sent == [] and 'status="499"' in text


@pytest.fixture(scope="module")
def exported_reranker(reranker, tmp_path_factory):
    return export.to_onnx(reranker, tmp_path_factory.mktemp("reranker"))


def test_exported_backend_gives_scores_and_logits(exported_reranker, reranker):
    backend = serving_backends.load(exported_reranker, "reranker")
    rows = backend.forward(backend.tokens([("tram", "a"), ("tram", "a longer text")], True))
    expected = reranker.predict([("tram", "a"), ("tram", "a longer text")], show_progress_bar=False)
    np.testing.assert_allclose(rows[:, 0], expected, atol=1e-5)
    np.testing.assert_allclose(1 / (1 + np.exp(-rows[:, 1])), expected, atol=1e-5)


def test_backend_of_another_family_is_refused(exported_reranker, lang):
    words = {"en": "holds a model of family 'reranker'; 'embedding' is needed here", "zh": "这里需要 'embedding'"}
    with pytest.raises(ValueError, match=words[lang]):
        serving_backends.load(exported_reranker)


def test_reranker_whose_prompt_no_tokenizer_makes_is_refused(tmp_path, lang):
    model = llm_scalar.load(tiny.chat_folder("llama", tmp_path))
    words = {"en": "CrossEncoder of this kind can be neither exported nor served", "zh": "也不能在这里部署"}
    with pytest.raises(ValueError, match=words[lang]):
        serving_backends.of_model(model, "decoder")


@pytest.mark.parametrize("made, family", [(tiny.encoder, "embedding"), (tiny.multi_vector_encoder, "multi_vector")])
def test_model_that_scores_no_pairs_is_no_reranker(tmp_path, made, family):
    made().save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match=f"holds a model of family '{family}'; 'reranker' is needed here"):
        serving_backends.load(tmp_path, "reranker")


def test_int8_of_a_model_that_was_not_exported_is_refused(tmp_path, lang):
    words = {"en": "int8 needs an exported folder, and minilm is none", "zh": "int8 需要先导出"}
    with pytest.raises(ValueError, match=words[lang]):
        serving_backends.load("minilm", int8=True)
