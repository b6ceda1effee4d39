"""Formats with one example a line: ours, FlagEmbedding's, Tevatron's, and the columns of sentence-transformers.
Used by `converters`; taught in lesson 07. Readers give a `Bundle`, writers take one and give rows.
"""

import math
import re
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field

from retrieval_lab import data_records, formats
from retrieval_lab.data_bundle import Bundle, Example, Passage
from retrieval_lab.data_report import DataError, Problem, Report, problem
from retrieval_lab.data_rows import (
    FEEDS,
    KNOWN,
    SPELLINGS,
    Line,
    Plain,
    Score,
    Text,
    check,
    checked,
    shape_of,
    spellings,
)


def refuse(path: str | Path, problems: list[Problem], kind: str) -> None:
    """Raise a `DataError` that lists the problems, if there are any."""
    if problems:
        ordered = sorted(problems, key=lambda item: item.line or 0)
        raise DataError(Report(str(path), kind, problems=ordered, n_lines=len({p.line for p in problems})))


def unknown_fields(records: list[data_records.Record], *models: type[BaseModel]) -> list[str]:
    """Names of fields that none of the models has a place for, in order of appearance."""
    known = {name for model in models for names in spellings(model) for name in names}
    return [key for key in dict.fromkeys(key for record in records for key in record.value) if key not in known]


def _example(line: Line) -> Example:
    sides = []
    for texts, scores in [(line.pos, line.scores), (line.neg, line.neg_scores)]:
        scores = scores or [None] * len(texts)
        sides.append(tuple(Passage(text, score=score) for text, score in zip(texts, scores, strict=True)))
    return Example(line.query, *sides, prompt=line.prompt)


def _merged(examples: list[Example]) -> list[Example]:
    """Examples of the same query as one, each passage once a side, in order of appearance."""
    merged: dict[tuple[str, str], tuple[dict, dict]] = {}
    for example in examples:
        pos, neg = merged.setdefault((example.query, example.prompt), ({}, {}))
        pos |= dict.fromkeys(example.pos)
        neg |= dict.fromkeys(example.neg)
    return [Example(q, tuple(pos), tuple(neg), prompt=prompt) for (q, prompt), (pos, neg) in merged.items()]


def read_lab(path: Path) -> Bundle:
    """Our own formats, all of them; flat lines of one query become one example."""
    lines, report = formats.load_lines(path, min_label=-math.inf, max_label=math.inf)
    if report.problems:
        raise DataError(report)
    examples = [_example(line) for line in lines]
    return Bundle(
        _merged(examples) if report.shape in ("flat", "list") else examples,
        fields=[note.field for note in report.notes if note.code == "unknown_field"],
        score_field="scores" if report.shape == "scored" else "pos_scores",
    )


def write_lab(bundle: Bundle) -> list[dict]:
    """Rows of query, pos, and of neg, scores and prompt_for_query where there are any."""
    return [_grouped(example, bundle.score_field, "prompt_for_query") for example in bundle.examples]


def _grouped(example: Example, score_field: str, prompt_field: str) -> dict:
    row = {"query": example.query, "pos": [passage.text for passage in example.pos]}
    if example.neg:
        row["neg"] = [passage.text for passage in example.neg]
    for name, side in [(score_field, example.pos), ("neg_scores", example.neg)]:
        if side and side[0].score is not None:
            row[name] = [passage.score for passage in side]
    return row | ({prompt_field: example.prompt} if example.prompt else {})


def read_flagembedding(path: Path) -> Bundle:
    """Lines of query, pos, neg, pos_scores, neg_scores and prompt; empty lists of negatives are allowed here."""
    found = data_records.read(path)
    problems, examples, fields = found.problems, [], {}
    for record in found.records:
        if isinstance(record.value, dict):
            empty = [key for key in ("neg", "negative", "neg_scores") if record.value.get(key) == []]
            record = record._replace(value={key: v for key, v in record.value.items() if key not in empty})
            fields |= {key: None for key in record.value if SPELLINGS.get(key, key) not in KNOWN}
        shape = shape_of(record.value)
        shape = shape if shape in ("triplet", "graded") else "pair"
        line, wrong = check(record, shape, next(iter(FEEDS[shape])), first=record.line)
        problems += wrong
        examples += [_example(line)] if line else []
    refuse(path, problems, "flagembedding")
    return Bundle(examples, fields=list(fields))


def write_flagembedding(bundle: Bundle) -> list[dict]:
    """Rows as FlagEmbedding reads them: ``neg`` is always there."""
    rows = [_grouped(example, "pos_scores", "prompt") for example in bundle.examples]
    return [{"query": row["query"], "pos": row["pos"], "neg": row.get("neg", []), **row} for row in rows]


Id = Annotated[Plain, BeforeValidator(lambda value: str(value) if type(value) is int else value)]


class _Document(BaseModel):
    docid: Id
    text: Text
    title: Plain = ""


class _Tevatron(BaseModel):
    query_id: Id
    query: Text
    positive_passages: Annotated[list[_Document], Field(min_length=1)]
    negative_passages: list[_Document] = []


def read_tevatron(path: Path) -> Bundle:
    """Lines of query_id, query, positive_passages and negative_passages, each passage with docid, title and text."""
    found = data_records.read(path)
    problems, examples, texts, inner = found.problems, [], {}, {}
    for record in found.records:
        row, wrong = checked(_Tevatron, record)
        if row:
            pos, neg = (
                tuple(Passage(document.text, document.docid, document.title) for document in side)
                for side in (row.positive_passages, row.negative_passages)
            )
            wrong = _repeated_ids(pos + neg, texts, record.line)
            examples.append(Example(row.query, pos, neg, row.query_id))
            documents = record.value["positive_passages"] + record.value.get("negative_passages", [])
            inner |= {f"passages.{key}": None for d in documents for key in d if key not in _Document.model_fields}
        problems += wrong
    refuse(path, problems, "tevatron")
    return Bundle(examples, fields=unknown_fields(found.records, _Tevatron) + list(inner))


def _repeated_ids(passages: tuple[Passage, ...], texts: dict[str, str], line: int) -> list[Problem]:
    """Passages whose id was used for another text before; ``texts`` remembers them."""
    wrong = {p.id: None for p in passages if texts.setdefault(p.id, p.whole) != p.whole}
    return [problem("repeated_id", line, "docid", id=repr(name)) for name in wrong]


def write_tevatron(bundle: Bundle) -> list[dict]:
    """Rows as Tevatron reads them."""

    def documents(passages: tuple[Passage, ...]) -> list[dict]:
        return [{"docid": passage.id, "title": passage.title, "text": passage.text} for passage in passages]

    return [
        {
            "query_id": e.id,
            "query": e.query,
            "positive_passages": documents(e.pos),
            "negative_passages": documents(e.neg),
        }
        for e in bundle.examples
    ]


_ANCHOR = AliasChoices("anchor", "sentence1", "query")


class _Tuple(BaseModel, extra="allow"):
    """A row of anchor, positive and, as extra columns, ``negative`` or ``negative_1..``."""

    anchor: Text = Field(validation_alias=_ANCHOR)
    positive: Text
    __pydantic_extra__: dict[str, Text]


class _ScoredPair(BaseModel):
    anchor: Text = Field(validation_alias=_ANCHOR)
    other: Text = Field(validation_alias=AliasChoices("sentence2", "document"))
    score: Score = Field(validation_alias=AliasChoices("score", "label"))


def read_columns(path: Path) -> Bundle:
    """Rows of anchor, positive and negatives, or of sentence1, sentence2 and score; rows of one anchor become one example."""
    found = data_records.read(path)
    problems, examples = found.problems, []
    for record in found.records:
        example, wrong = _column_row(record)
        problems += wrong
        examples += [example] if example else []
    refuse(path, problems, "sentence-transformers")
    fields = unknown_fields(found.records, _Tuple, _ScoredPair)
    return Bundle(_merged(examples), fields=[name for name in fields if not _is_negative(name)])


def _column_row(record: data_records.Record) -> tuple[Example | None, list[Problem]]:
    columns = record.value if isinstance(record.value, dict) else {}
    if {"sentence2", "document", "score", "label"} & set(columns):
        row, wrong = checked(_ScoredPair, record)
        return row and Example(row.anchor, (Passage(row.other, score=row.score),)), wrong
    known = {name for names in spellings(_Tuple) for name in names}
    own = {name: text for name, text in columns.items() if name in known or _is_negative(name)}
    row, wrong = checked(_Tuple, record._replace(value=own if columns else record.value))
    negatives = tuple(map(Passage, row.model_extra.values())) if row else ()
    return row and Example(row.anchor, (Passage(row.positive),), negatives), wrong


def _is_negative(name: str) -> bool:
    return bool(re.fullmatch(r"negative(_\d+)?", name))


def mixed_table(bundle: Bundle) -> str | None:
    """ "scores" or "negatives" when some queries have them and others not, which one table of columns cannot hold."""
    scored = {passage.score is not None for example in bundle.examples for passage in example.pos + example.neg}
    negatives = {bool(example.neg) for example in bundle.examples}
    if len(scored) > 1:
        return "scores"
    return "negatives" if len(negatives) > 1 and scored == {False} else None


def write_columns(bundle: Bundle) -> list[dict]:
    """Rows for sentence-transformers: pairs; n-tuples when all queries have equally many negatives, else triplets; scored pairs."""
    examples = bundle.examples
    if any(passage.score is not None for example in examples for passage in example.pos):
        rows = [(example, passage) for example in examples for passage in example.pos + example.neg]
        return [{"sentence1": example.query, "sentence2": p.text, "score": p.score} for example, p in rows]
    rows = [(example, passage) for example in examples for passage in example.pos]
    if len({len(example.neg) for example in examples}) > 1:
        return [{"anchor": e.query, "positive": p.text, "negative": n.text} for e, p in rows for n in e.neg]
    return [{"anchor": e.query, "positive": p.text} | _numbered(e.neg) for e, p in rows]


def _numbered(negatives: tuple[Passage, ...]) -> dict[str, str]:
    names = ["negative"] if len(negatives) == 1 else [f"negative_{number + 1}" for number in range(len(negatives))]
    return dict(zip(names, [passage.text for passage in negatives], strict=True))
