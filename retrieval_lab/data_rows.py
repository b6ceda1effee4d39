"""From numbered records to checked lines: which format a file is in, and every field of every line checked by a pydantic model.
Taught in lesson 07.
"""

from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from retrieval_lab.data_messages import shorten, word
from retrieval_lab.data_records import Record
from retrieval_lab.data_report import Problem, problem

SPELLINGS = {
    "positive": "pos",
    "negative": "neg",
    "prompt": "prompt_for_query",
    "document": "content",
    "label": "score",
}
_LIST_FIELDS = ("query", "content", "score")  # a [query, document, label] line as a flat one


def _filled(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("empty_text", "empty")
    return value


def _listed(value):
    return [value] if isinstance(value, str | int | float) else value


Text = Annotated[str, Field(strict=True), AfterValidator(_filled)]
Texts = Annotated[list[Text], BeforeValidator(_listed), Field(min_length=1)]
Score = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Scores = Annotated[list[Score], BeforeValidator(_listed), Field(min_length=1)]


class _Query(BaseModel):
    query: Text
    prompt_for_query: Annotated[str, Field(strict=True)] = ""


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
_FIELDS = {"query": _Query, "pair": _Pair, "triplet": _Triplet, "scored": _Scored, "graded": _Graded, "flat": _Flat}
_ALLOWED = {shape: set(model.model_fields) for shape, model in _FIELDS.items()} | {"list": set(_Flat.model_fields)}
KNOWN = set().union(*_ALLOWED.values())


@dataclass(frozen=True)
class Line:
    """One checked line, whatever its format: a query with relevant texts, others, and their scores where there are any.

    ``position`` counts records from 0. ``scores`` belongs to ``pos`` and ``neg_scores`` to ``neg``; None where the line gives none.
    A flat line has its document in ``pos`` and its score in ``scores``.
    """

    line: int
    position: int
    query: str
    prompt: str = ""
    pos: tuple[str, ...] = ()
    neg: tuple[str, ...] = ()
    scores: tuple[float, ...] | None = None
    neg_scores: tuple[float, ...] | None = None


def shape_of(value) -> str | None:
    """The format that a record is written in, by its field names alone; None when it has no known field.

    >>> shape_of({"query": "a", "positive": "b"}), shape_of(["a", "b", 1]), shape_of({"text": "a"})
    ('pair', 'list', None)
    """
    if isinstance(value, list):
        return "list"
    keys = {SPELLINGS.get(key, key) for key in value} if isinstance(value, dict) else set()
    signs = {"content": "flat", "score": "flat", "pos_scores": "graded", "neg_scores": "graded", "scores": "scored"}
    signs |= {"neg": "triplet", "pos": "pair", "query": "query"}
    return next((shape for key, shape in signs.items() if key in keys), None)


def file_shape(records: list[Record], kind: str | None = None) -> str | None:
    """The format of most records; with a ``kind``, of most among those that can be read as it, if there are any.

    >>> file_shape([Record(1, 0, {"query": "a", "pos": "b"}), Record(2, 1, 5)])
    'pair'
    """
    counts = Counter(shape_of(record.value) for record in records)
    counts.pop(None, None)
    return max(counts, key=lambda shape: (kind in FEEDS[shape], counts[shape]), default=None)


def check(
    record: Record, shape: str, kind: str, *, label_range=None, spare=(), first=1, lang="en"
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
    (('b',), [])
    >>> check(Record(4, 3, ["a", "b", 3]), "list", "graded", label_range=(0, 1))[1][0].cause
    'label 3 lies outside 0..1'
    """
    found = _shape_problems(record, shape, spare, first, lang)
    if found:
        return None, found
    place = _Place.of(record, shape, kind, lang)
    try:
        line = _line(record, FEEDS[shape][kind].model_validate(place.values))
    except ValidationError as error:
        return None, [place.translated(item) for item in error.errors(include_url=False)]
    found = _line_problems(line, place, label_range)
    return (None if found else line), found


def _shape_problems(record: Record, shape: str, spare: tuple[str, ...], first: int, lang: str) -> list[Problem]:
    value, at = record.value, record.line
    if not isinstance(value, dict | list):
        return [problem("not_a_record", lang, at, found=word(type(value).__name__, lang))]
    if isinstance(value, list) != (shape == "list"):
        return [problem("mixed", lang, at, shape=shape_of(value) or "?", expected=shape, first=first)]
    if isinstance(value, list):
        return [] if len(value) == 3 else [problem("list_length", lang, at, count=len(value))]
    twice = [(a, b) for a, b in SPELLINGS.items() if a in value and b in value]
    if twice:
        return [problem("both_spellings", lang, at, b, first=f'"{a}"', second=f'"{b}"') for a, b in twice]
    strange = [key for key in value if SPELLINGS.get(key, key) in KNOWN - _ALLOWED[shape] - set(spare)]
    named = ", ".join(strange)
    return [problem("mixed", lang, at, named, shape=shape_of(value), expected=shape, first=first)] if strange else []


def _line(record: Record, model: _Query) -> Line:
    if isinstance(model, _Flat):
        texts = {"pos": (model.content,), "scores": (model.score,)}
    else:
        scores = getattr(model, "scores", None) or getattr(model, "pos_scores", None)
        others = getattr(model, "neg_scores", None)
        texts = {"pos": tuple(getattr(model, "pos", ())), "neg": tuple(getattr(model, "neg", ()))}
        texts |= {"scores": tuple(scores) if scores else None, "neg_scores": tuple(others) if others else None}
    return Line(record.line, record.position, model.query, model.prompt_for_query, **texts)


def _line_problems(line: Line, place: "_Place", label_range: tuple[float, float] | None) -> list[Problem]:
    """What no single field can tell: texts against scores, labels against their range, query against prompt."""
    first = "scores" if "scores" in place.values else "score" if "score" in place.values else "pos_scores"
    sides = [(line.pos, line.scores, first), (line.neg, line.neg_scores, "neg_scores")]
    found = []
    for texts, scores, name in sides:
        if scores is not None and len(scores) != len(texts):
            found.append(place.problem("length", name, scores=len(scores), texts=len(texts)))
        if scores is not None and label_range:
            found += _out_of_range(scores, name, place, *label_range)
    if place.shape == "graded" and place.kind != "triplet":
        # Graded lines may give one side's labels; scores that are compared with each other must be there for all texts.
        one_is_enough = place.kind == "graded" and (line.scores or line.neg_scores)
        found += [place.missing(name) for texts, scores, name in sides if texts and not scores and not one_is_enough]
    if line.prompt.strip() and line.query.startswith(line.prompt):
        found.append(place.problem("prompt_twice", "prompt_for_query"))
    return found


def _out_of_range(scores: tuple[float, ...], name: str, place: "_Place", low: float, high: float) -> list[Problem]:
    wrong = [(index, score) for index, score in enumerate(scores) if not low <= score <= high]
    values = {"low": f"{low:g}", "high": f"{high:g}"}
    return [place.problem("out_of_range", name, index, found=f"{score:g}", **values) for index, score in wrong]


@dataclass(frozen=True)
class _Place:
    """One record with its values under the canonical names, and the words to report on it."""

    record: Record
    shape: str
    kind: str
    lang: str
    values: dict
    names: dict[str, str]  # canonical name -> the file's own spelling

    @classmethod
    def of(cls, record: Record, shape: str, kind: str, lang: str) -> "_Place":
        if isinstance(record.value, list):
            values = dict(zip(_LIST_FIELDS, record.value, strict=True))
            return cls(record, shape, kind, lang, values, {n: f"[{i}]" for i, n in enumerate(_LIST_FIELDS)})
        values = {SPELLINGS.get(key, key): value for key, value in record.value.items()}
        return cls(record, shape, kind, lang, values, {SPELLINGS.get(key, key): key for key in record.value})

    def problem(self, code: str, name: str, index: int | None = None, **values) -> Problem:
        item = f"[{index}]" if index is not None and isinstance(self.values.get(name), list) else ""
        return problem(code, self.lang, self.record.line, self.names.get(name, name) + item, **values)

    def missing(self, name: str) -> Problem:
        """The field is missing; an unknown field with a name like it is pointed out."""
        spellings = [name, *(spelling for spelling, canonical in SPELLINGS.items() if canonical == name)]
        unknown = {key.lower().strip(): key for key in self.values if key not in KNOWN}
        near = [match for spelling in spellings for match in get_close_matches(spelling, unknown, 1, 0.75)]
        if near:
            return self.problem("missing_near", name, near=f'"{unknown[near[0]]}"', wanted=name)
        return self.problem("missing", name)

    def translated(self, error: dict) -> Problem:
        """One pydantic error in the reader's words."""
        name, index, given, code = error["loc"][0], (*error["loc"][1:], None)[0], error["input"], error["type"]
        if code == "missing":
            return self.missing(name)
        if code == "too_short":
            code = {"pos": "empty_list", "scores": "empty_list", "neg": "empty_negatives"}.get(name, "empty_optional")
            return self.problem("empty_optional" if (name, self.shape) == ("neg", "graded") else code, name)
        if code == "finite_number" or (code == "float_type" and type(given) is int):  # an int too large for a float
            return self.problem("not_finite", name, index, found=shorten(given))
        if code not in ("string_type", "float_type", "list_type"):
            return self.problem(code, name, index)  # empty_text
        expected = {"string_type": "str", "float_type": "float"}.get(
            code, "number_list" if "scores" in name else "text_list"
        )
        words = {"found": word(type(given).__name__, self.lang), "expected": word(expected, self.lang)}
        return self.problem("wrong_type", name, index, **words)
