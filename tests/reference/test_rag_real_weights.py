"""The RAG chain on real weights over the shipped corpus, in both languages; and the small language model in the answerer's place."""

import pytest

from retrieval_lab import corpora, embedding, profiles, rag, rag_documents
from retrieval_lab.rag_answers import not_found

ASKED = {
    "en": ("What is the express surcharge for a building file?", "archive-records.building-files", "express surcharge of 20"),
    "zh": ("房屋建筑档案的加急费是多少？", "archive-records.building-files", "加 20 元加急费"),
}  # fmt: skip
ELSEWHERE = {
    "en": "How do submarines find their way under the ice of the Arctic?",
    "zh": "北极冰层底下，潜艇靠什么辨别方向？",
}


@pytest.fixture
def assistant(lang, tmp_path):
    """The dev families only: 55 passages are encoded in seconds."""
    city = corpora.load("city_services", lang=lang, split="dev")
    families = {query_id.split(".")[0] for query_id in city.queries}
    documents = [d for d in rag_documents.from_collection(city) if d.metadata["source"].split(".")[0] in families]
    made = rag.Assistant(embedding.load(profiles.current().encoder(lang)), documents, tmp_path)
    made.calibrate(lang)
    return made


def test_answers_with_right_citations_and_refuses_what_it_does_not_know(assistant, lang):
    question, source, words = ASKED[lang]
    found = assistant.chain("both").invoke(question)
    assert words in found["answer"]
    assert found["citations"][0].source == source
    assert not any(citation.problem for citation in found["citations"])
    assert assistant.chain("both").invoke(ELSEWHERE[lang])["answer"] == not_found()


def test_every_citation_over_the_dev_questions_holds_its_words(assistant, lang):
    questions = list(corpora.load("city_services", lang=lang, split="dev").queries.values())[:40]
    assistant.thresholds = {}  # answer all
    found = [
        citation for question in questions for citation in assistant.chain("meaning").invoke(question)["citations"]
    ]
    assert len(found) >= 40 and not any(citation.problem for citation in found)


def test_small_language_model_streams_through_the_same_chain_and_is_checked():
    from langchain_core.documents import Document

    from retrieval_lab.rag_retrieval import WordRetriever

    chunks = [Document("The express surcharge is 20 crowns.", metadata={"source": "fees"})]
    chain = rag.chain(WordRetriever(chunks=chunks), rag.generative(rag.chat_model("smollm2", max_new_tokens=12)))
    parts = list(chain.stream("What is the express surcharge?"))
    pieces = [part["answer"] for part in parts if part.get("answer")]
    assert len(pieces) > 1 and "".join(pieces).strip()
    citations = next(part["citations"] for part in parts if "citations" in part)
    assert citations  # one for each number, or one that says that nothing is cited
