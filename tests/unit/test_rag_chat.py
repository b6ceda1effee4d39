"""The local chat model against plain `generate`, and a server's model through LangChain's loader over real HTTP."""

import threading
import time

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage

from retrieval_lab import tiny
from retrieval_lab.models import ModelError
from retrieval_lab.rag_chat import LocalChat, chat_model, until

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}. {% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)


@pytest.fixture(scope="module")
def chat():
    model, tokenizer = tiny.causal_lm()
    model.generation_config.eos_token_id = None  # a random model would stop at any time
    tokenizer.chat_template = TEMPLATE
    return LocalChat(model=model, tokenizer=tokenizer, max_new_tokens=12)


MESSAGES = [SystemMessage("be"), HumanMessage("hi {x} %s"), AIMessage("ok"), HumanMessage("go")]


def test_answer_is_what_generate_gives_for_the_models_own_template(chat):
    prompt = "system:be. user:hi {x} %s. assistant:ok. user:go. a:"
    inputs = chat.tokenizer.apply_chat_template(
        [{"role": {"human": "user", "ai": "assistant"}.get(m.type, m.type), "content": m.content} for m in MESSAGES],
        tokenize=False, add_generation_prompt=True,
    )  # fmt: skip
    assert inputs == prompt
    ids = chat.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    expected = chat.model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert chat.invoke(MESSAGES).content == chat.tokenizer.decode(expected, skip_special_tokens=True)


def test_stream_adds_up_to_the_answer(chat):
    assert "".join(chunk.content for chunk in chat.stream(MESSAGES)) == chat.invoke(MESSAGES).content


def test_stream_that_is_left_stops_its_thread(chat):
    threads, steps = threading.active_count(), []
    seen = chat.model.register_forward_hook(lambda *_: steps.append(1))
    long = chat.model_copy(update={"max_new_tokens": 100})
    pieces = long._stream([HumanMessage("go")])
    next(pieces)
    pieces.close()
    seen.remove()
    assert threading.active_count() == threads and len(steps) < 100


@pytest.mark.parametrize(
    "pieces, stop, expected",
    [
        (["one two ", "three"], ["two"], "one "),
        (["on", "e t", "w", "o three"], ["three", "two"], "one "),
        (["one t", "w"], ["two"], "one tw"),
        (["two"], ["two"], ""),
        (["two"], [], "two"),
    ],
)
def test_text_ends_before_the_first_stop_string_however_it_is_cut(pieces, stop, expected):
    assert "".join(until(pieces, stop)) == expected


def test_answer_ends_before_a_stop_string(chat):
    whole = chat.invoke(MESSAGES).content
    for stop in (whole[5:7], whole[:2]):  # the answer may be empty
        expected = whole[: whole.index(stop)]
        assert chat.invoke(MESSAGES, stop=[stop]).content == expected
        assert "".join(chunk.content for chunk in chat.stream(MESSAGES, stop=[stop])) == expected


def test_content_blocks_and_pieces_of_a_stream_are_messages_too(chat):
    blocks = [{"type": "text", "text": "hi {x}"}, {"type": "text", "text": " %s"}]
    given = [MESSAGES[0], HumanMessage(blocks), AIMessageChunk("ok"), MESSAGES[3]]
    assert chat.invoke(given).content == chat.invoke(MESSAGES).content


def test_message_of_another_kind_is_refused(chat, lang):
    with pytest.raises(ValueError, match={"en": "is a ToolMessage; a local", "zh": "是 ToolMessage；本地"}[lang]):
        chat.invoke([ToolMessage("4", tool_call_id="1")])


def test_option_that_a_local_model_does_not_have_is_refused(lang):
    words = {
        "en": "no option temperature; 'smollm2' takes max_new_tokens",
        "zh": "没有选项 temperature；'smollm2' 可用",
    }
    with pytest.raises(ValueError, match=words[lang]):
        chat_model("smollm2", temperature=0.5)


def test_error_while_generating_reaches_the_reader(chat, monkeypatch):
    def broken(**options):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(chat.model, "generate", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(chat.stream(MESSAGES))


def test_prompt_that_does_not_fit_is_refused(chat, lang):
    with pytest.raises(ValueError, match={"en": r"the model has room for 130", "zh": "只容得下 130"}[lang]):
        chat.invoke([HumanMessage("a" * 130)])


def test_unknown_name_is_refused():
    with pytest.raises(ModelError, match="no model 'nowhere/none'"):
        chat_model("nowhere/none")


@pytest.fixture(scope="module")
def server():
    """An OpenAI-compatible chat server on this machine that answers with the first quoted words it is given."""
    import socket

    import uvicorn
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse

    app = FastAPI()

    @app.post("/v1/chat/completions")
    def complete(body: dict):
        text = body["messages"][-1]["content"].split("\n")[1]
        head = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": body["model"]}
        pieces = ["“", text, "” [1]"]
        if not body.get("stream"):
            message = {"role": "assistant", "content": "".join(pieces)}
            return {
                **head,
                "object": "chat.completion",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            }
        import json

        lines = [
            {**head, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]} for piece in pieces
        ]
        body = "".join(f"data: {json.dumps(line)}\n\n" for line in lines) + "data: [DONE]\n\n"
        return StreamingResponse(iter([body]), media_type="text/event-stream")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    service = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=service.run, daemon=True)
    thread.start()
    while not service.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/v1"
    service.should_exit = True
    thread.join(10)


def test_servers_model_answers_in_the_chain_and_streams(server, documents_of_two):
    from retrieval_lab import rag

    chat = chat_model("openai:any", base_url=server, api_key="none")
    answers = rag.chain(documents_of_two, rag.generative(chat))
    found = answers.invoke("What is the fee?")
    assert found["answer"] == "“The fee is 12 crowns.” [1]"
    assert [citation.problem for citation in found["citations"]] == [""]
    pieces = [part["answer"] for part in answers.stream("What is the fee?") if part.get("answer")]
    assert pieces == ["“", "The fee is 12 crowns.", "” [1]"]


@pytest.fixture
def documents_of_two():
    from langchain_core.documents import Document

    from retrieval_lab.rag_retrieval import WordRetriever

    texts = {"fees": "The fee is 12 crowns.", "ferry": "The ferry is hourly."}
    return WordRetriever(chunks=[Document(t, metadata={"source": s}) for s, t in texts.items()], k=1)
