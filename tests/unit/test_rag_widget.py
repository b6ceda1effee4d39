"""The chat widget: its view without a browser, its shell through the widgets' own events."""

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

from retrieval_lab import rag, rag_documents, tiny, widgets
from retrieval_lab.rag_answers import Citation


@pytest.fixture
def assistant(harbour, tmp_path):
    score = lambda pairs: [-len(text) for _, text in pairs]  # noqa: E731
    return rag.Assistant(tiny.encoder(), rag_documents.from_collection(harbour), tmp_path, score=score)


def test_view_marks_the_quoted_words_and_names_a_wrong_citation(assistant):
    result = assistant.chain("words").invoke("crossing the river")
    result["citations"] = [Citation(1, "crosses the river", "ferry", ""), Citation(9, "x", "", "there is no source 9")]
    view = widgets.chat_view(result)
    assert "<mark>crosses the river</mark>" in view and "there is no source 9" in view


def test_markup_in_documents_and_questions_stays_text(assistant):
    assistant.add("bad.md", b"Zebra <img src=x onerror=alert(1)> here.")
    view = widgets.Chat(assistant, "zebra").view("zebra", "words")
    assert "<img" not in view and "&lt;img" in view
    assert "<script>" not in widgets.Chat(assistant, "x").view("<script>alert(1)</script>")


@pytest.mark.parametrize(
    "text, quotes, expected",
    [
        ("The fee, mark it.", ["fee", "mark"], "The <mark>fee</mark>, <mark>mark</mark> it."),
        ("Fees & amp.", ["amp"], "Fees &amp; <mark>amp</mark>."),
        ("a < b\nc", ["< b\nc"], "a <mark>&lt; b<br>c</mark>"),
        ("The fee is due.", ["The fee is", "fee is due", ""], "<mark>The fee is due</mark>."),
        ("fee fee", ["fee"], "<mark>fee</mark> fee"),
        ("fee", ["toll"], "fee"),
    ],
)
def test_quotes_are_marked_in_the_text_and_never_in_its_markup(text, quotes, expected):
    document = Document(text, metadata={"source": "s"})
    citations = [Citation(1, quote, "s", "") for quote in quotes]
    view = widgets.chat_view({"answer": "", "documents": [document], "citations": citations})
    assert f"<br>{expected}</li>" in view


def test_failure_of_the_chat_server_is_shown_in_place_of_the_last_answer(assistant):
    box = widgets.Chat(assistant, "crossing the river").shell()

    def refused(state):
        raise ConnectionError("no <server>")

    assistant.answerer = RunnableLambda(refused)
    box.children[0].value = "lending books"
    assert box.children[2].value == "<p>ConnectionError: no &lt;server&gt;</p>"


def test_empty_question_is_said_not_raised(assistant, chinese):
    assert "先写点什么再问" in widgets.Chat(assistant, "x").view(" ")


def test_shell_answers_again_when_anything_is_changed(assistant):
    box = widgets.Chat(assistant, "crossing the river").shell()
    question, row, view = box.children
    retriever, rerank, button = row.children
    first = view.value
    assert "cosine" in first and "rerank_score" not in first
    rerank.value = True
    assert "rerank_score" in view.value
    rerank.value = False
    assert view.value == first
    retriever.value = "words"
    assert "cosine" not in view.value
    question.value = "lending books"
    assert "library" in view.value
    view.value = ""
    button.click()
    assert "library" in view.value


def test_reranker_cannot_be_chosen_where_there_is_none(assistant):
    assistant.score = None
    assert widgets.Chat(assistant, "river").shell().children[1].children[1].disabled


def test_saved_page_shows_the_first_answer(assistant):
    bundle = widgets.Chat(assistant, "crossing the river")._repr_mimebundle_()
    assert "river" in bundle["text/html"] and "application/vnd.jupyter.widget-view+json" in bundle
