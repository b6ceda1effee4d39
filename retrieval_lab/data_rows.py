"""From numbered records to checked lines: which format a file is in, and every field of every line checked by a pydantic model.
Taught in lesson 07.
"""

from collections import Counter
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from typing import Annotated

import pydantic
from pydantic import AliasChoices, BaseModel, Field
from pydantic_core import PydanticCustomError

from retrieval_lab.data_records import Record
from retrieval_lab.data_report import Problem, problem, shorten, word

SPELLINGS = {
    "positive": "pos",
    "negative": "neg",
    "prompt": "prompt_for_query",
    "document": "content",
    "label": "score",
}
_LIST_FIELDS = ("query", "content", "score")  # a [query, document, label] line as a flat one


def _listed(value):
    return [value] if isinstance(value, str | int | float) else value


def _on_scale(value: float, info: pydantic.ValidationInfo) -> float:
    """Labels keep to the (min_label, max_label) of the context; without one any number will do."""
    low, high = info.context or (value, value)
    if not low <= value <= high:
        raise PydanticCustomError("out_of_range", "", {"found": f"{value:g}", "low": f"{low:g}", "high": f"{high:g}"})
    return value


Plain = Annotated[str, Field(strict=True, pattern="")]  # a pattern makes pydantic look for halves of surrogate pairs
Text = Annotated[str, Field(strict=True, pattern=r"\S")]
Texts = Annotated[list[Text], pydantic.BeforeValidator(_listed), Field(min_length=1)]
Score = Annotated[float, Field(strict=True, allow_inf_nan=False), pydantic.AfterValidator(_on_scale)]
Scores = Annotated[list[Score], pydantic.BeforeValidator(_listed), Field(min_length=1)]


def _choices(name: str) -> AliasChoices:
    return AliasChoices(name, *(spelling for spelling, canonical in SPELLINGS.items() if canonical == name))


class _Query(BaseModel):
    model_config = pydantic.ConfigDict(alias_generator=pydantic.AliasGenerator(validation_alias=_choices))
    query: Text
    prompt_for_query: Plain = ""


class _Pair(_Query):
    pos: Texts


class _Triplet(_Pair):
    neg: Texts


class _Scored(_Pair):
    scores: Scores


class _Graded(_Pair):
    neg: Texts = []
    pos_scores: Scores = []
    neg_scores: Scores = []


class _Flat(_Query):
    content: Text
    score: Score


# How a file can be written -> the kinds that it can be read as (its own kind first) -> the model of a line.
FEEDS: dict[str, dict[str, type[_Query]]] = {
    "query": {"teacher": _Query},
    "pair": {"pair": _Pair},
    "triplet": {"triplet": _Triplet, "graded": _Triplet, "pair": _Pair},
    "scored": {"scored": _Scored, "graded": _Scored},
    "graded": {"graded": _Graded, "scored": _Graded, "triplet": _Triplet},
    "flat": {"graded": _Flat, "scored": _Flat},
    "list": {"graded": _Flat, "scored": _Flat},
}
KINDS = ("pair", "triplet", "scored", "graded", "teacher")
_ALLOWED = {shape: set(next(iter(feeds.values())).model_fields) for shape, feeds in FEEDS.items()}
KNOWN = set().union(*_ALLOWED.values())
# The first of these fields that a record has tells its format.
_SIGNS = {"content": "flat", "score": "flat", "pos_scores": "graded", "neg_scores": "graded", "scores": "scored"}
_SIGNS |= {"neg": "triplet", "pos": "pair", "query": "query"}


@dataclass(frozen=True)
class Line:
    """One checked line, whatever its format: a query with relevant texts, others, and their scores where there are any.

    ``position`` counts records from 0. ``scores`` belongs to ``pos`` and ``neg_scores`` to ``neg``; None where the line gives none.
    A flat line has its document in ``pos`` and its score in ``scores``.
    """

    line: int
    position: int
    query: str
    prompt: str
    pos: list[str]
    neg: list[str]
    scores: list[float] | None
    neg_scores: list[float] | None


def shape_of(value) -> str | None:
    """The format that a record is written in, by its field names alone; None when it has no known field.

    >>> shape_of({"query": "a", "positive": "b"}), shape_of(["a", "b", 1]), shape_of({"text": "a"})
    ('pair', 'list', None)
    """
    if isinstance(value, list):
        return "list"
    keys = {SPELLINGS.get(key, key) for key in value} if isinstance(value, dict) else set()
    return next((shape for key, shape in _SIGNS.items() if key in keys), None)


def file_shape(records: list[Record], kind: str | None = None) -> str | None:
    """The format of most records; with a ``kind``, of most among those that can be read as it, if there are any.

    >>> file_shape([Record(1, 0, {"query": "a", "pos": "b"}), Record(2, 1, 5)])
    'pair'
    """
    counts = Counter(shape_of(record.value) for record in records)
    counts.pop(None, None)
    return max(counts, key=lambda shape: (kind in FEEDS[shape], counts[shape]), default=None)


def check(
    record: Record, shape: str, kind: str, *, label_range=None, spare=(), first=1
) -> tuple[Line | None, list[Problem]]:
    """One record as a `Line`, or None and what is wrong with it.

    Parameters
    ----------
    record : the JSON value and its place
    shape : the format of its file, a key of ``FEEDS``
    kind : what it is read as, a key of ``FEEDS[shape]``
    label_range : (min_label, max_label) that scores must keep to; None for any finite number
    spare : fields that may stand in the line although its format has none of them and the kind uses none
    first : a line of the file that is in its format, for the message about mixed files

    Source: lesson 07; both spellings of RAG-Retrieval (pos, neg) and open-retrievals (positive, negative).

    >>> line, problems = check(Record(4, 3, {"query": "a", "positive": "b"}), "pair", "pair")
    >>> line.pos, problems
    (['b'], [])
    >>> check(Record(4, 3, ["a", "b", 3]), "list", "graded", label_range=(0, 1))[1][0].cause
    'label 3 lies outside 0..1'
    """
    if found := _shape_problems(record, shape, spare, first):
        return None, found
    if shape == "list":
        flat = record._replace(value=dict(zip(_LIST_FIELDS, record.value, strict=True)))
        line, found = check(flat, "flat", kind, label_range=label_range)
        return line, [replace(item, field=f"[{_LIST_FIELDS.index(item.field)}]") for item in found]
    model, found = checked(FEEDS[shape][kind], record, label_range)
    if model:
        line = _line(record, dict(model))
        found = _line_problems(line, record, model, kind)
    return (None if found else line), found


def _shape_problems(record: Record, shape: str, spare: tuple[str, ...], first: int) -> list[Problem]:
    value, at = record.value, record.line
    if not isinstance(value, dict | list):
        return [problem("not_a_record", at, found=word(type(value).__name__))]
    if isinstance(value, list) != (shape == "list"):
        return [problem("mixed", at, shape=shape_of(value) or "?", expected=shape, first=first)]
    if isinstance(value, list):
        return [] if len(value) == 3 else [problem("list_length", at, count=len(value))]
    strange = [key for key in value if SPELLINGS.get(key, key) in KNOWN - _ALLOWED[shape] - set(spare)]
    named = ", ".join(strange)
    return [problem("mixed", at, named, shape=shape_of(value), expected=shape, first=first)] if strange else []


def _line(record: Record, given: dict) -> Line:
    pos, scores = given.get("pos", []), given.get("scores") or given.get("pos_scores") or None
    if "content" in given:
        pos, scores = [given["content"]], [given["score"]]
    texts = {"pos": pos, "neg": given.get("neg", []), "scores": scores, "neg_scores": given.get("neg_scores") or None}
    return Line(record.line, record.position, given["query"], given["prompt_for_query"], **texts)


def _line_problems(line: Line, record: Record, model: _Query, kind: str) -> list[Problem]:
    """What no single field can tell: texts against scores, scores of one side only, query against prompt."""
    sides = [(line.pos, line.scores, "scores" if "scores" in record.value else "pos_scores")]
    sides += [(line.neg, line.neg_scores, "neg_scores")]
    values = [(name, {"scores": len(scores), "texts": len(texts)}) for texts, scores, name in sides if scores]
    found = [problem("length", line.line, name, **n) for name, n in values if n["scores"] != n["texts"]]
    # Graded lines may give one side's labels; scores that are compared with each other must be there for all texts.
    one_side = kind == "graded" and (line.scores or line.neg_scores)
    if isinstance(model, _Graded) and kind != "triplet" and not one_side:
        found += [_missing(name, record, type(model)) for texts, scores, name in sides if texts and not scores]
    if line.prompt.strip() and line.query.startswith(line.prompt):
        name = "prompt" if "prompt" in record.value else "prompt_for_query"
        found.append(problem("prompt_twice", line.line, name))
    return found


@cache
def spellings(model: type[BaseModel]) -> tuple[tuple[str, ...], ...]:
    """The names that each field of a model may have in a file."""
    aliases = [(name, info.validation_alias) for name, info in model.model_fields.items()]
    return tuple(tuple(getattr(alias, "choices", [alias or name])) for name, alias in aliases)


def checked(model: type[BaseModel], record: Record, context=None) -> tuple[BaseModel | None, list[Problem]]:
    """A record's value as a model, or None and its problems, each with the field's path as the file spells it."""
    keys = record.value if isinstance(record.value, dict) else {}
    given = [[f'"{name}"' for name in names if name in keys] for names in spellings(model)]
    if twice := [names for names in given if len(names) > 1]:
        values = [{"field": names[0].strip('"'), "first": names[1], "second": names[0]} for names in twice]
        return None, [problem("both_spellings", record.line, **found) for found in values]
    try:
        return model.model_validate(record.value, context=context), []
    except pydantic.ValidationError as error:
        return None, [_translated(item, record, model) for item in error.errors(include_url=False)]


_CODES = {"string_pattern_mismatch": "empty_text", "string_unicode": "surrogate", "finite_number": "not_finite"}
_EXPECTED = {
    "string_type": "str",
    "float_type": "float",
    "list_type": "list",
    "dict_type": "dict",
    "model_type": "dict",
}
_LISTS = {"pos": "text_list", "neg": "text_list", "scores": "number_list"}
_LISTS |= {"pos_scores": "number_list", "neg_scores": "number_list"}


def _translated(error: dict, record: Record, model: type[BaseModel]) -> Problem:
    """One pydantic error in the reader's words."""
    code, given, loc = error["type"], error["input"], error["loc"]
    name = SPELLINGS.get(loc[0], loc[0]) if loc else ""
    field = _path(loc, record.value)
    if code == "missing":
        return _missing(field, record, model)
    if code == "too_short":
        required = "empty_negatives" if name == "neg" else "empty_list"
        return problem(required if model.model_fields[name].is_required() else "empty_optional", record.line, field)
    if code in _EXPECTED and not (code == "float_type" and type(given) is int):
        expected = _LISTS.get(name, "list") if code == "list_type" else _EXPECTED[code]
        return problem("wrong_type", record.line, field, found=word(type(given).__name__), expected=word(expected))
    code = "not_finite" if code == "float_type" else _CODES.get(code, code)  # an int too large for a float
    return problem(code, record.line, field, **{"found": shorten(given)} | error.get("ctx", {}))


def _path(loc: tuple, value) -> str:
    """``pos[2]`` or ``passages[0].text``; a text that stands for a list of one has no index."""
    if len(loc) == 2 and not isinstance(value[loc[0]], list | dict):
        loc = loc[:1]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


def _missing(field: str, record: Record, model: type[BaseModel]) -> Problem:
    """The field is missing; an unknown field with a name like it is pointed out."""
    wanted = next((names for names in spellings(model) if field in names), ())
    unknown = {key.lower().strip(): key for key in record.value if not any(key in names for names in spellings(model))}
    near = [match for name in wanted for match in get_close_matches(name, unknown, 1, 0.75)]
    if near:
        return problem("missing_near", record.line, field, near=f'"{unknown[near[0]]}"', wanted=field)
    return problem("missing", record.line, field)
