"""Formats that hold a whole collection: a BEIR folder, the same with TREC judgements, and LlamaIndex's question-answer JSON.
Used by `converters`; taught in lesson 07. To evaluate on a collection, `corpora.load` is the shorter way.
"""

import json
import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from retrieval_lab import data_records
from retrieval_lab.data_bundle import Bundle, Example, Passage
from retrieval_lab.data_line_formats import Id, checked, refuse, unknown_fields
from retrieval_lab.data_messages import shorten, word
from retrieval_lab.data_report import Problem, problem

_HEADER = "query-id\tcorpus-id\tscore"
_SUFFIXES = {"beir": (".tsv",), "trec": (".qrels", ".trec", ".txt")}


class _Entry(BaseModel):
    id: Id = Field(alias="_id")
    text: Annotated[str, Field(strict=True)]
    title: Annotated[str, Field(strict=True)] = ""


def read_folder(path: Path, lang: str, *, style: str, split: str | None) -> Bundle:
    """``corpus.jsonl``, ``queries.jsonl`` and the judgements of one split, in BEIR's or TREC's columns.

    Parameters
    ----------
    path : the folder
    style : "beir" (``qrels/SPLIT.tsv`` with a header) or "trec" (``qrels/SPLIT.qrels``: query, iteration, document, grade)
    split : name of the judgement file; None takes the only one

    Raises
    ------
    DataError
        If a file is missing or broken, or a judgement names an unknown id.
    """
    fields: list[str] = []
    corpus = {e.id: Passage(e.text, e.id, e.title) for e in _entries(path / "corpus.jsonl", fields, lang, style)}
    queries = {e.id: e.text for e in _entries(path / "queries.jsonl", fields, lang, style)}
    qrels = _qrels(_judgement_file(path, split, style, lang), queries, corpus, style, lang)
    judged = {doc_id for grades in qrels.values() for doc_id in grades}
    graded = any(grade not in (0, 1) for grades in qrels.values() for grade in grades.values())
    examples = [_example(query_id, text, qrels.get(query_id, {}), corpus, graded) for query_id, text in queries.items()]
    return Bundle(examples, [p for doc_id, p in corpus.items() if doc_id not in judged], list(dict.fromkeys(fields)))


def _entries(path: Path, fields: list[str], lang: str, style: str) -> list[_Entry]:
    found = data_records.read(path, lang)
    problems, entries, seen = found.problems, [], {}
    for record in found.records:
        entry, wrong = checked(_Entry, record, lang)
        if entry and seen.setdefault(entry.id, entry) is not entry:
            wrong = [problem("repeated_id", lang, record.line, "_id", id=repr(entry.id))]
        problems += wrong
        entries += [entry] if entry else []
    refuse(path, problems, lang, style)
    fields += unknown_fields(found.records, _Entry)
    return entries


def _judgement_file(path: Path, split: str | None, style: str, lang: str) -> Path:
    files = sorted(file for file in (path / "qrels").glob("*") if file.suffix in _SUFFIXES[style])
    there = ", ".join(file.stem for file in files) or "-"
    wanted = [file for file in files if split in (None, file.stem)]
    if len(wanted) != 1:
        code = "which_split" if split is None and wanted else "no_qrels"
        refuse(path / "qrels", [problem(code, lang, there=there)], lang, style)
    return wanted[0]


def _qrels(path: Path, queries: dict, corpus: dict, style: str, lang: str) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    found = data_records.read_lines(path, lang)
    problems = found.problems
    shape = r"(\S+)\s+\S+\s+(\S+)\s+(-?\d+)\s*" if style == "trec" else r"([^\t]+)\t([^\t]+)\t(-?\d+)\s*"
    expected = "query 0 document grade" if style == "trec" else _HEADER.replace("\t", " TAB ")
    for record in found.records:
        if record.line == 1 and style == "beir" and record.value == _HEADER:
            continue
        parts = re.fullmatch(shape, record.value)
        if not parts:
            values = {"found": shorten(record.value), "expected": expected}
            problems.append(problem("bad_judgement", lang, record.line, **values))
            continue
        query_id, doc_id, grade = parts.groups()
        if query_id not in queries:
            problems.append(_unknown("query", query_id, "queries.jsonl", record.line, lang))
        if doc_id not in corpus:
            problems.append(_unknown("document", doc_id, "corpus.jsonl", record.line, lang))
        qrels.setdefault(query_id, {})[doc_id] = int(grade)
    refuse(path, problems, lang, style)
    return qrels


def _unknown(what: str, name: str, where: str, line: int | None, lang: str, field: str = "") -> Problem:
    return problem("unknown_id", lang, line, field, what=word(f"id_{what}", lang), id=repr(name), where=where)


def _example(query_id: str, text: str, grades: dict[str, int], corpus: dict[str, Passage], graded: bool) -> Example:
    sides: dict[bool, list[Passage]] = {True: [], False: []}
    for doc_id, grade in grades.items():
        passage = corpus[doc_id]
        score = float(grade) if graded else None
        sides[grade > 0].append(Passage(passage.text, passage.id, passage.title, score))
    return Example(text, tuple(sides[True]), tuple(sides[False]), query_id)


def write_folder(bundle: Bundle, *, style: str, split: str) -> dict[str, str]:
    """The files of the folder: relative path -> text. A judgement without a score is 1 for a positive, 0 for a negative."""
    corpus = {p.id: p for e in bundle.examples for p in e.pos + e.neg} | {p.id: p for p in bundle.documents}
    rows = [{"_id": p.id, "title": p.title, "text": p.text} for p in corpus.values()]
    judgements = [(e.id, doc_id, grade) for e in bundle.examples for doc_id, grade in _grades(e).items()]
    if style == "trec":
        lines, suffix = [f"{query_id} 0 {doc_id} {grade}" for query_id, doc_id, grade in judgements], ".qrels"
    else:
        lines, suffix = [_HEADER, *("\t".join(map(str, judgement)) for judgement in judgements)], ".tsv"
    return {
        "corpus.jsonl": jsonl(rows),
        "queries.jsonl": jsonl([{"_id": e.id, "text": e.query} for e in bundle.examples]),
        f"qrels/{split}{suffix}": "".join(f"{line}\n" for line in lines),
    }


def _grades(example: Example) -> dict[str, int]:
    """Whole-number grades of one query; fractional scores have no place, a text that is both stays positive."""
    scores = [passage.score for passage in example.pos + example.neg]
    whole = all(score is not None and score == int(score) for score in scores)
    grades = {passage.id: int(passage.score) if whole else 0 for passage in example.neg}
    return grades | {passage.id: int(passage.score) if whole else 1 for passage in example.pos}


def jsonl(rows: list[dict]) -> str:
    """Rows as JSON lines, characters as they are.

    >>> jsonl([{"query": "北京"}])
    '{"query": "北京"}\\n'
    """
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


class _QA(BaseModel):
    queries: dict[str, str]
    corpus: dict[str, str]
    relevant_docs: dict[str, list[str]]
    mode: str = "text"


def read_llamaindex(path: Path, lang: str) -> Bundle:
    """One object of queries, corpus and relevant_docs, as EmbeddingQAFinetuneDataset saves it.

    Raises
    ------
    DataError
        If the object is broken or relevant_docs names an unknown id.
    """
    found = data_records.read_object(path, lang)
    refuse(path, found.problems, lang, "llamaindex")
    data, problems = checked(_QA, found.records[0], lang)
    refuse(path, problems or _unknown_ids(data, lang), lang, "llamaindex")
    corpus = {doc_id: Passage(text, doc_id) for doc_id, text in data.corpus.items()}
    relevant = {query_id: tuple(corpus[doc_id] for doc_id in ids) for query_id, ids in data.relevant_docs.items()}
    examples = [Example(text, relevant.get(query_id, ()), id=query_id) for query_id, text in data.queries.items()]
    used = {passage.id for passages in relevant.values() for passage in passages}
    documents = [passage for doc_id, passage in corpus.items() if doc_id not in used]
    return Bundle(examples, documents, unknown_fields(found.records, _QA))


def _unknown_ids(data: _QA, lang: str) -> list[Problem]:
    problems = []
    for query_id, ids in data.relevant_docs.items():
        field = f"relevant_docs.{query_id}"
        if query_id not in data.queries:
            problems.append(_unknown("query", query_id, "queries", None, lang, field))
        problems += [_unknown("document", name, "corpus", None, lang, field) for name in ids if name not in data.corpus]
    return problems


def write_llamaindex(bundle: Bundle) -> str:
    """The JSON text that EmbeddingQAFinetuneDataset.from_json reads."""
    corpus = {p.id: p.text for e in bundle.examples for p in e.pos + e.neg} | {p.id: p.text for p in bundle.documents}
    relevant = {example.id: list(dict.fromkeys(p.id for p in example.pos)) for example in bundle.examples}
    data = {
        "queries": {e.id: e.query for e in bundle.examples},
        "corpus": corpus,
        "relevant_docs": relevant,
        "mode": "text",
    }
    return json.dumps(data, ensure_ascii=False, indent=4) + "\n"
