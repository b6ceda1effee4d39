"""Formats that hold a whole collection: a BEIR folder, the same with TREC judgements, and LlamaIndex's question-answer JSON.
Used by `converters`; taught in lesson 07. To evaluate on a collection, `corpora.load` is the shorter way.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, Field

from retrieval_lab import data_records
from retrieval_lab.data_bundle import Bundle, Example, Passage
from retrieval_lab.data_line_formats import Id, refuse, unknown_fields
from retrieval_lab.data_report import Problem, problem, shorten, word
from retrieval_lab.data_rows import Plain, checked

_HEADER = "query-id\tcorpus-id\tscore"
# style -> suffixes of a judgement file, the shape of a judgement, and how to write one
_JUDGEMENTS = {
    "beir": ((".tsv",), r"([^\t]+)\t([^\t]+)\t(-?\d+)\s*", _HEADER.replace("\t", " TAB ")),
    "trec": ((".qrels", ".trec", ".txt"), r"(\S+)\s+\S+\s+(\S+)\s+(-?\d+)\s*", "query 0 document grade"),
}


class _Entry(BaseModel):
    id: Id = Field(validation_alias="_id")
    text: Plain
    title: Plain = ""


def read_folder(path: Path, *, style: str, split: str | None) -> Bundle:
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
    fields: dict[str, None] = {}
    corpus = {e.id: Passage(e.text, e.id, e.title) for e in _entries(path / "corpus.jsonl", fields, style)}
    queries = {e.id: e.text for e in _entries(path / "queries.jsonl", fields, style)}
    qrels = _qrels(_judgement_file(path, split, style), queries, corpus, style)
    judged = {doc_id for grades in qrels.values() for doc_id in grades}
    graded = any(grade not in (0, 1) for grades in qrels.values() for grade in grades.values())
    examples = [_example(query_id, text, qrels.get(query_id, {}), corpus, graded) for query_id, text in queries.items()]
    return Bundle(examples, [p for doc_id, p in corpus.items() if doc_id not in judged], list(fields))


def _entries(path: Path, fields: dict[str, None], style: str) -> list[_Entry]:
    found = data_records.read(path)
    problems, entries = found.problems, {}
    for record in found.records:
        entry, wrong = checked(_Entry, record)
        if entry and entries.setdefault(entry.id, entry) is not entry:
            wrong = [problem("repeated_id", record.line, "_id", id=repr(entry.id))]
        problems += wrong
    refuse(path, problems, style)
    fields |= dict.fromkeys(unknown_fields(found.records, _Entry))
    return list(entries.values())


def _judgement_file(path: Path, split: str | None, style: str) -> Path:
    files = sorted(file for file in (path / "qrels").glob("*") if file.suffix in _JUDGEMENTS[style][0])
    wanted = [file for file in files if split in (None, file.stem)]
    if len(wanted) != 1:
        code = "which_split" if split is None and wanted else "no_qrels"
        refuse(path / "qrels", [problem(code, there=", ".join(file.stem for file in files) or "-")], style)
    return wanted[0]


def _qrels(path: Path, queries: dict, corpus: dict, style: str) -> dict[str, dict[str, int]]:
    _, shape, expected = _JUDGEMENTS[style]
    qrels, found = {}, data_records.read_lines(path)
    for line, _, text in found.records:
        if (line, style, text) == (1, "beir", _HEADER):
            continue
        parts = re.fullmatch(shape, text)
        if not parts:
            found.problems.append(problem("bad_judgement", line, found=shorten(text), expected=expected))
            continue
        query_id, doc_id, grade = parts[1], parts[2], int(parts[3])
        found.problems += _unknown("query", query_id, queries, "queries.jsonl", line)
        found.problems += _unknown("document", doc_id, corpus, "corpus.jsonl", line)
        if qrels.setdefault(query_id, {}).setdefault(doc_id, grade) != grade:
            found.problems.append(problem("judged_twice", line, query=repr(query_id), document=repr(doc_id)))
    refuse(path, found.problems, style)
    return qrels


def _unknown(what: str, name: str, known: dict, where: str, line: int | None = None, field: str = "") -> list[Problem]:
    if name in known:
        return []
    return [problem("unknown_id", line, field, what=word(f"id_{what}"), id=repr(name), where=where)]


def _example(query_id: str, text: str, grades: dict[str, int], corpus: dict[str, Passage], graded: bool) -> Example:
    sides: dict[bool, list[Passage]] = {True: [], False: []}
    for doc_id, grade in grades.items():
        passage = corpus[doc_id]
        score = float(grade) if graded else None
        sides[grade > 0].append(Passage(passage.text, passage.id, passage.title, score))
    return Example(text, tuple(sides[True]), tuple(sides[False]), query_id)


def write_folder(bundle: Bundle, *, style: str, split: str) -> dict[str, str]:
    """The files of the folder: relative path -> text. A judgement without a score is 1 for a positive, 0 for a negative."""
    rows = {p.id: {"_id": p.id, "title": p.title, "text": p.text} for p in bundle.passages}
    judgements = [(e.id, doc_id, grade) for e in bundle.examples for doc_id, grade in _grades(e).items()]
    lines = [_HEADER, *("\t".join(map(str, judgement)) for judgement in judgements)]
    if style == "trec":
        lines = [f"{query_id} 0 {doc_id} {grade}" for query_id, doc_id, grade in judgements]
    return {
        "corpus.jsonl": jsonl(rows.values()),
        "queries.jsonl": jsonl({"_id": e.id, "text": e.query} for e in bundle.examples),
        f"qrels/{split}{_JUDGEMENTS[style][0][0]}": "".join(f"{line}\n" for line in lines),
    }


def _grades(example: Example) -> dict[str, int]:
    """Whole-number grades of one query; fractional scores have no place, a text that is both stays positive."""
    scores = [passage.score for passage in example.pos + example.neg]
    whole = all(score is not None and score == int(score) for score in scores)
    grades = {passage.id: int(passage.score) if whole else 0 for passage in example.neg}
    return grades | {passage.id: int(passage.score) if whole else 1 for passage in example.pos}


def jsonl(rows: Iterable[dict]) -> str:
    """Rows as JSON lines, characters as they are.

    >>> jsonl([{"query": "北京"}])
    '{"query": "北京"}\\n'
    """
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


class _QA(BaseModel):
    queries: dict[str, Plain]
    corpus: dict[str, Plain]
    relevant_docs: dict[str, list[str]]
    mode: str = "text"


def read_llamaindex(path: Path) -> Bundle:
    """One object of queries, corpus and relevant_docs, as EmbeddingQAFinetuneDataset saves it.

    Raises
    ------
    DataError
        If the object is broken or relevant_docs names an unknown id.
    """
    found = data_records.read_object(path)
    refuse(path, found.problems, "llamaindex")
    data, problems = checked(_QA, found.records[0])
    refuse(path, problems or _unknown_ids(data), "llamaindex")
    corpus = {doc_id: Passage(text, doc_id) for doc_id, text in data.corpus.items()}
    relevant = {query_id: tuple(corpus[doc_id] for doc_id in ids) for query_id, ids in data.relevant_docs.items()}
    examples = [Example(text, relevant.get(query_id, ()), id=query_id) for query_id, text in data.queries.items()]
    used = {passage.id for passages in relevant.values() for passage in passages}
    documents = [passage for doc_id, passage in corpus.items() if doc_id not in used]
    return Bundle(examples, documents, unknown_fields(found.records, _QA))


def _unknown_ids(data: _QA) -> list[Problem]:
    problems = []
    for query_id, ids in data.relevant_docs.items():
        field = f"relevant_docs.{query_id}"
        problems += _unknown("query", query_id, data.queries, "queries", field=field)
        for doc_id in ids:
            problems += _unknown("document", doc_id, data.corpus, "corpus", field=field)
    return problems


def write_llamaindex(bundle: Bundle) -> str:
    """The JSON text that EmbeddingQAFinetuneDataset.from_json reads."""
    data = {
        "queries": {e.id: e.query for e in bundle.examples},
        "corpus": {p.id: p.text for p in bundle.passages},
        "relevant_docs": {e.id: list(dict.fromkeys(p.id for p in e.pos)) for e in bundle.examples},
        "mode": "text",
    }
    return json.dumps(data, ensure_ascii=False, indent=4) + "\n"
