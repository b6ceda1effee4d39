"""Formats with one example a line: ours, FlagEmbedding's, Tevatron's, and the columns of sentence-transformers.
Used by `converters`; taught in lesson 07. Readers give a `Bundle`, writers take one and give rows.
"""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from retrieval_lab import data_records, formats
from retrieval_lab.data_bundle import Bundle, Example, Passage
from retrieval_lab.data_messages import word
from retrieval_lab.data_report import DataError, Problem, Report, problem
from retrieval_lab.data_rows import FEEDS, KNOWN, SPELLINGS, Line, Text, check, shape_of


def refuse(path: str | Path, problems: list[Problem], lang: str, kind: str) -> None:
    """Raise a `DataError` that lists the problems, if there are any."""
    if problems:
        ordered = sorted(problems, key=lambda item: item.line or 0)
        raise DataError(Report(str(path), kind, problems=ordered, lang=lang, n_lines=len({p.line for p in problems})))


def _example(line: Line) -> Example:
    sides = []
    for texts, scores in [(line.pos, line.scores), (line.neg, line.neg_scores)]:
        scores = scores or (None,) * len(texts)
        sides.append(tuple(Passage(text, score=score) for text, score in zip(texts, scores, strict=True)))
    return Example(line.query, *sides, prompt=line.prompt)


def _merged(examples: list[Example]) -> list[Example]:
    """Examples of the same query as one, each passage once a side, in order of appearance."""
    merged: dict[tuple[str, str], Example] = {}
    for example in examples:
        had = merged.get((example.prompt, example.query), replace(example, pos=(), neg=()))
        sides = {"pos": tuple(dict.fromkeys(had.pos + example.pos)), "neg": tuple(dict.fromkeys(had.neg + example.neg))}
        merged[example.prompt, example.query] = replace(had, **sides)
    return list(merged.values())


def read_lab(path: Path, lang: str) -> Bundle:
    """Our own formats, all of them; flat lines of one query become one example."""
    lines, report = formats.load_lines(path, min_label=-math.inf, max_label=math.inf, lang=lang)
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


def read_flagembedding(path: Path, lang: str) -> Bundle:
    """Lines of query, pos, neg, pos_scores, neg_scores and prompt; empty lists of negatives are allowed here."""
    found = data_records.read(path, lang)
    problems, examples, fields = found.problems, [], {}
    for record in found.records:
        if isinstance(record.value, dict):
            value = {
                key: v for key, v in record.value.items() if v != [] or key not in ("neg", "negative", "neg_scores")
            }
            fields |= {key: None for key in value if SPELLINGS.get(key, key) not in KNOWN}
            record = replace(record, value=value)
        shape = shape_of(record.value)
        shape = shape if shape in ("triplet", "graded") else "pair"
        line, wrong = check(record, shape, next(iter(FEEDS[shape])), first=record.line, lang=lang)
        problems += wrong
        examples += [_example(line)] if line else []
    refuse(path, problems, lang, "flagembedding")
    return Bundle(examples, fields=list(fields))


def write_flagembedding(bundle: Bundle) -> list[dict]:
    """Rows as FlagEmbedding reads them: ``neg`` is always there."""
    rows = [_grouped(example, "pos_scores", "prompt") for example in bundle.examples]
    return [{"query": row["query"], "pos": row["pos"], "neg": row.get("neg", []), **row} for row in rows]


Id = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value), Field(strict=True)]


class _Document(BaseModel):
    docid: Id
    text: Text
    title: Annotated[str, Field(strict=True)] = ""


class _Tevatron(BaseModel):
    query_id: Id
    query: Text
    positive_passages: Annotated[list[_Document], Field(min_length=1)]
    negative_passages: list[_Document] = []


def checked(model: type[BaseModel], record: data_records.Record, lang: str):
    """The record as a model, or None, and its problems, fields with their full path."""
    try:
        return model.model_validate(record.value), []
    except ValidationError as error:
        return None, [_translated(item, record.line, lang) for item in error.errors(include_url=False)]


_EXPECTED = {
    "string_type": "str",
    "list_type": "list",
    "model_type": "dict",
    "dict_type": "dict",
    "float_type": "float",
}


def _translated(error: dict, line: int, lang: str) -> Problem:
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).removeprefix(".")
    code = {"too_short": "empty_list"}.get(error["type"], error["type"])
    if code not in _EXPECTED:
        return problem(code, lang, line, field)  # missing, empty_text, empty_list
    words = {"found": word(type(error["input"]).__name__, lang), "expected": word(_EXPECTED[code], lang)}
    return problem("wrong_type", lang, line, field, **words)


def unknown_fields(records: list[data_records.Record], model: type[BaseModel]) -> list[str]:
    """Names of fields that the model has no place for, in order of appearance."""
    known = {info.alias or name for name, info in model.model_fields.items()}
    keys = {key: None for record in records if isinstance(record.value, dict) for key in record.value}
    return [key for key in keys if key not in known]


def read_tevatron(path: Path, lang: str) -> Bundle:
    """Lines of query_id, query, positive_passages and negative_passages, each passage with docid, title and text."""
    found = data_records.read(path, lang)
    problems, examples, texts = found.problems, [], {}
    for record in found.records:
        line, wrong = checked(_Tevatron, record, lang)
        problems += wrong
        if line:
            sides = [
                [Passage(d.text, d.docid, d.title) for d in s] for s in (line.positive_passages, line.negative_passages)
            ]
            problems += _repeated_ids(sides[0] + sides[1], texts, record.line, lang)
            examples.append(Example(line.query, tuple(sides[0]), tuple(sides[1]), line.query_id))
    refuse(path, problems, lang, "tevatron")
    return Bundle(examples, fields=unknown_fields(found.records, _Tevatron) + _unknown_in_passages(found.records))


def _unknown_in_passages(records: list[data_records.Record]) -> list[str]:
    sides = ("positive_passages", "negative_passages")
    passages = [passage for record in records for side in sides for passage in record.value.get(side, [])]
    return [
        f"passages.{key}"
        for key in dict.fromkeys(k for passage in passages for k in passage)
        if key not in _Document.model_fields
    ]


def _repeated_ids(passages: list[Passage], texts: dict[str, str], line: int, lang: str) -> list[Problem]:
    """Passages whose id was used for another text before; ``texts`` remembers them."""
    wrong = {p.id: None for p in passages if texts.setdefault(p.id, p.whole) != p.whole}
    return [problem("repeated_id", lang, line, "docid", id=repr(name)) for name in wrong]


def write_tevatron(bundle: Bundle) -> list[dict]:
    """Rows as Tevatron reads them."""

    def documents(passages: tuple[Passage, ...]) -> list[dict]:
        return [{"docid": passage.id, "title": passage.title, "text": passage.text} for passage in passages]

    return [
        {
            "query_id": example.id,
            "query": example.query,
            "positive_passages": documents(example.pos),
            "negative_passages": documents(example.neg),
        }
        for example in bundle.examples
    ]


_COLUMNS = {"anchor": "query", "sentence1": "query", "positive": "pos", "sentence2": "content", "document": "content"}
_COLUMNS |= {"score": "score", "label": "score"}


def _column(name: str) -> str:
    """The field that a column of sentence-transformers belongs to; negatives are ``negative`` or ``negative_1..``."""
    return "neg" if re.fullmatch(r"negative(_\d+)?", name) else _COLUMNS.get(name, name)


def read_columns(path: Path, lang: str) -> Bundle:
    """Rows of anchor, positive and negatives, or of sentence1, sentence2 and score; rows of one anchor become one example."""
    found = data_records.read(path, lang)
    problems, examples, fields = found.problems, [], {}
    for record in found.records:
        columns = record.value if isinstance(record.value, dict) else {}
        negatives = [name for name in columns if _column(name) == "neg"]
        fields |= {name: None for name in columns if _column(name) not in KNOWN}
        wrong = _two_columns_of_one(columns, record.line, lang)
        if not wrong:
            line, wrong = _check_columns(record, columns, negatives, lang)
            examples += [_example(line)] if line else []
        problems += wrong
    refuse(path, problems, lang, "sentence-transformers")
    return Bundle(_merged(examples), fields=list(fields))


def _two_columns_of_one(columns: dict, line: int, lang: str) -> list[Problem]:
    first: dict[str, str] = {}
    twice = [(first.setdefault(_column(name), name), name) for name in columns if _column(name) != "neg"]
    return [
        problem("both_spellings", lang, line, name, first=f'"{other}"', second=f'"{name}"')
        for other, name in twice
        if other != name
    ]


def _check_columns(record: data_records.Record, columns: dict, negatives: list[str], lang: str):
    """One row as a line of our own formats; its problems name the row's own columns."""
    value = {_column(name): text for name, text in columns.items() if _column(name) in KNOWN}
    value |= {"neg": [columns[name] for name in negatives]} if negatives else {}
    shape = "flat" if {"content", "score"} & set(value) else "triplet" if negatives else "pair"
    record = replace(record, value=value if columns else record.value)
    line, wrong = check(record, shape, next(iter(FEEDS[shape])), first=record.line, lang=lang)
    return line, [replace(item, field=_column_name(item.field, columns, negatives)) for item in wrong]


def _column_name(field: str, columns: dict, negatives: list[str]) -> str:
    """The column that a checked field came from, e.g. ``neg[1]`` from ``negative_2``."""
    if index := re.fullmatch(r"neg\[(\d+)\]", field):
        return negatives[int(index[1])]
    own = {_column(name): name for name in columns}
    return own.get(field, {"query": "anchor", "pos": "positive"}.get(field, field))


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
