"""Training files: read, validate, and turn into the datasets that sentence-transformers' trainers take.
Taught in lesson 07 (the formats) and used by every training lesson; `doctor` looks further, `converters` changes the format.
"""

import warnings
from collections import Counter
from difflib import get_close_matches
from pathlib import Path

from retrieval_lab import data_columns, data_records
from retrieval_lab.data_columns import apply_prompts
from retrieval_lab.data_report import DataError, DataWarning, Problem, Report, problem, sentence, speaking
from retrieval_lab.data_rows import FEEDS, KINDS, KNOWN, SPELLINGS, Line, check, file_shape, shape_of
from retrieval_lab.negatives import NegativeDraw, NegativeSampler, set_epoch

__all__ = ["KINDS", "DataError", "DataWarning", "Line", "NegativeDraw", "NegativeSampler", "Problem", "Report"]
__all__ += ["apply_prompts", "load_lines", "prompts", "read", "read_with_report", "set_epoch", "validate"]

_NEEDS = {
    "pair": "pos",
    "triplet": "pos, neg",
    "scored": "pos, scores",
    "graded": "pos, pos_scores",
    "teacher": "query",
}


def validate(path: str | Path, kind: str | None = None, *, min_label=0, max_label=1, lang: str | None = None) -> Report:
    """Check a whole file and report every problem; nothing is raised for what the file holds.

    Parameters
    ----------
    path : JSON lines or one JSON array, UTF-8
    kind : "pair", "triplet", "scored", "graded" or "teacher"; None takes the format's own
    min_label, max_label : the scale of graded labels
    lang : "en", "zh" or None for the reader's language

    Raises
    ------
    ValueError
        If kind is unknown or min_label is not below max_label.

    Source: lesson 07.

    >>> import tempfile; file = Path(tempfile.mkdtemp()) / "pairs.jsonl"
    >>> _ = file.write_text('{"query": "a", "pos": "b"}')
    >>> report = validate(file)
    >>> report.kind, report.n_rows, report.problems
    ('pair', 1, [])
    """
    return load_lines(path, kind, min_label=min_label, max_label=max_label, lang=lang)[1]


def load_lines(
    path: str | Path, kind: str | None = None, *, min_label=0, max_label=1, lang: str | None = None
) -> tuple[list[Line], Report]:
    """The good lines of a file as `Line` objects, and the report on all of them; parameters as in `validate`."""
    with speaking(lang):
        if kind is not None and kind not in KINDS:
            near = [repr(match) for match in get_close_matches(str(kind), KINDS, 1)]
            values = {"kind": repr(kind), "near": "".join(near), "choices": ", ".join(KINDS)}
            raise ValueError(sentence("kind_near" if near else "kind_unknown", **values))
        if not min_label < max_label:
            raise ValueError(sentence("label_scale", low=min_label, high=max_label))
        found = data_records.read(path)
        counts = {"n_lines": found.n_lines, "n_records": found.n_records}
        report = Report(str(path), kind, problems=found.problems, notes=found.notes, **counts)
        lines = _examined(found.records, report, (min_label, max_label)) if found.whole and found.n_lines else []
        report.problems.sort(key=lambda item: item.line or 0)
        return lines, report


def _examined(records: list[data_records.Record], report: Report, label_range: tuple[float, float]) -> list[Line]:
    """The good lines; what is wrong with the others goes into the report."""
    report.shape, asked = file_shape(records, report.kind), report.kind
    report.problems += _file_problems(records, report)
    if report.unreadable:
        return []
    report.kind = asked or next(iter(FEEDS[report.shape]))
    options = {
        # Labels have a scale; scores that are compared within one query (kind "scored") need none.
        "label_range": label_range if report.kind == "graded" else None,
        "spare": ("neg",) if asked == "pair" else (),
        "first": next(record.line for record in records if shape_of(record.value) == report.shape),
    }
    lines = []
    for record in records:
        line, found = check(record, report.shape, report.kind, **options)
        report.problems += found
        lines += [line] if line else []
    report.notes += _unused_fields(records, report)
    report.n_rows = sum(data_columns.n_rows(line, report.kind) for line in lines)
    return lines


def _file_problems(records: list[data_records.Record], report: Report) -> list[Problem]:
    """Why the file as a whole cannot be read as the kind that was asked for."""
    shape, kind = report.shape, report.kind
    if shape is None:
        return [problem("unknown_shape" if records else "no_rows")]
    if kind is None or kind in FEEDS[shape]:
        return []
    return [problem("kind", shape=shape, kind=kind, choices=", ".join(FEEDS[shape]), needs=_NEEDS[kind])]


def _unused_fields(records: list[data_records.Record], report: Report) -> list[Problem]:
    """A note for each field that no format knows, or that this kind does not use."""
    used = FEEDS[report.shape][report.kind].model_fields
    found: dict[str, list[int]] = {}
    for record in records:
        for key in record.value if isinstance(record.value, dict) else ():
            found.setdefault(key, []).append(record.line)
    codes = {key: "unused_field" if SPELLINGS.get(key, key) in KNOWN else "unknown_field" for key in found}
    unused = [(key, lines) for key, lines in found.items() if SPELLINGS.get(key, key) not in used]
    return [problem(codes[key], lines[0], key, count=len(lines), kind=report.kind) for key, lines in unused]


def read(
    path: str | Path,
    kind: str | None = None,
    *,
    neg_nums: int | None = None,
    seed: int = 0,
    epoch: int = 0,
    redraw: bool = False,
    skip_bad: bool = False,
    min_label: float = 0,
    max_label: float = 1,
    embeddings: str | Path | None = None,
    lang: str | None = None,
):
    """A training file as a ``datasets.Dataset``; the whole file is checked before anything is returned.

    Columns: pair ``query, positive``; triplet ``query, positive, negative_1..`` (one row a positive); scored ``query, document,
    score, group`` (one row a document, one group a query); graded ``query, document, label`` with the label scaled to 0..1;
    teacher ``query, label`` with the vector. ``prompt_for_query`` comes last where the file has prompts: see `apply_prompts`.

    Parameters
    ----------
    path, kind, min_label, max_label, lang : as in `validate`; lines of query, pos and neg need a kind
    neg_nums : negatives a triplet row; None is 1
    seed, epoch : which negatives are drawn, see `NegativeSampler`
    redraw : give a dataset whose negatives follow `set_epoch` instead of fixed columns
    skip_bad : read on without the lines that have a problem; a `DataWarning` says how many
    embeddings : the teacher's file of vectors; None is ``path`` with the suffix .memmap

    Raises
    ------
    DataError
        If a line has a problem and skip_bad is False, if no good line is left, or if the file as a whole cannot be read.
    ValueError
        If kind is unknown, min_label is not below max_label, or neg_nums is below 1.

    Source: lesson 07.

    >>> import tempfile; file = Path(tempfile.mkdtemp()) / "graded.jsonl"
    >>> _ = file.write_text('{"query": "a", "pos": ["b", "c"], "pos_scores": [1, 3]}')
    >>> read(file, min_label=1, max_label=3)["label"][:]
    [0.0, 1.0]
    """
    scale = {"min_label": min_label, "max_label": max_label, "lang": lang}
    options = {"neg_nums": neg_nums, "seed": seed, "epoch": epoch, "redraw": redraw, "embeddings": embeddings}
    dataset, report = read_with_report(path, kind, skip_bad=skip_bad, **scale, **options)
    if report.left_out:
        warnings.warn(str(report), DataWarning, stacklevel=2)
    return dataset


def read_with_report(
    path: str | Path,
    kind: str | None = None,
    *,
    neg_nums=None,
    seed=0,
    epoch=0,
    redraw=False,
    skip_bad=False,
    min_label=0,
    max_label=1,
    embeddings=None,
    lang=None,
):
    """`read`, with the same options, and beside the dataset the report with its notes and the number of lines left out.

    >>> import tempfile; file = Path(tempfile.mkdtemp()) / "pairs.jsonl"
    >>> _ = file.write_text('{"query": "a", "pos": "b"}' + chr(10) + '{"query": ""}')
    >>> dataset, report = read_with_report(file, skip_bad=True)
    >>> len(dataset), report.left_out
    (1, 1)
    """
    with speaking(lang):
        draw = NegativeDraw(seed, neg_nums, epoch)
        lines, report = load_lines(path, kind, min_label=min_label, max_label=max_label)
        if kind is None and report.shape == "triplet" and lines:
            report.problems.insert(0, problem("kind_ambiguous"))
        elif not lines and not report.unreadable:
            report.problems.append(problem("no_rows"))
        if report.unreadable or (report.problems and not skip_bad):
            raise DataError(report)
        report.left_out = len(report.bad_lines)
        options = {"scale": (min_label, max_label), "draw": draw, "redraw": redraw, "embeddings": embeddings}
        return data_columns.dataset(lines, report, **options), report


def prompts(path: str | Path, **options) -> dict[str, int]:
    """The prompts of a file, each with the number of its lines, in order of appearance; "" stands for lines without one.

    A model is saved with its prompt, so a file for one model should have one. Bad lines are not counted; options as in `validate`.

    >>> import tempfile; file = Path(tempfile.mkdtemp()) / "pairs.jsonl"
    >>> _ = file.write_text('{"query": "a", "pos": "b", "prompt_for_query": "search: "}')
    >>> prompts(file)
    {'search: ': 1}
    """
    return dict(Counter(line.prompt for line in load_lines(path, **options)[0]))
