"""Training files: read, validate, and turn into the datasets that sentence-transformers' trainers take.
Taught in lesson 07 (the formats) and used by every training lesson; `doctor` looks further, `converters` changes the format.
"""

import warnings
from collections import Counter
from pathlib import Path

from retrieval_lab import data_columns, data_records
from retrieval_lab.data_columns import Options
from retrieval_lab.data_report import DataError, DataWarning, Problem, Report, problem
from retrieval_lab.data_rows import FEEDS, KINDS, KNOWN, SPELLINGS, Line, check, file_shape, shape_of
from retrieval_lab.negatives import NegativeDraw, NegativeSampler, set_epoch

__all__ = ["KINDS", "DataError", "DataWarning", "Line", "NegativeDraw", "NegativeSampler", "Problem", "Report"]
__all__ += ["apply_prompts", "load_lines", "prompts", "read", "read_with_report", "set_epoch", "validate"]


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
    return _load(path, Options(kind, min_label, max_label, lang))


def _load(path: str | Path, options: Options) -> tuple[list[Line], Report]:
    found = data_records.read(path, options.lang)
    counts = {"n_lines": found.n_lines, "n_records": found.n_records}
    report = Report(str(path), options.kind, problems=found.problems, notes=found.notes, lang=options.lang, **counts)
    if not found.whole or not found.n_lines:
        return [], report
    report.shape = file_shape(found.records, options.kind)
    report.problems += _file_problems(found.records, report.shape, options)
    if any(item.line is None for item in report.problems):
        return [], report
    report.kind = options.kind or next(iter(FEEDS[report.shape]))
    lines = _checked(found.records, report, options)
    report.notes += _unused_fields(found.records, report, options.lang)
    report.n_rows = sum(_rows_of(line, report.kind) for line in lines)
    report.problems.sort(key=lambda item: item.line or 0)
    return lines, report


def _file_problems(records: list[data_records.Record], shape: str | None, options: Options) -> list[Problem]:
    """Why the file as a whole cannot be read as the kind that was asked for."""
    if not records:
        return [problem("no_rows", options.lang)]
    if shape is None:
        return [problem("unknown_shape", options.lang)]
    if options.kind is None or options.kind in FEEDS[shape]:
        return []
    needs = {
        "pair": "pos",
        "triplet": "pos, neg",
        "scored": "pos, scores",
        "graded": "pos, pos_scores",
        "teacher": "query",
    }
    values = {"shape": shape, "kind": options.kind, "choices": ", ".join(FEEDS[shape]), "needs": needs[options.kind]}
    return [problem("kind", options.lang, **values)]


def _checked(records: list[data_records.Record], report: Report, options: Options) -> list[Line]:
    first = next(record.line for record in records if shape_of(record.value) == report.shape)
    # Labels have a scale; scores that are compared within one query (kind "scored") need none.
    label_range = (options.min_label, options.max_label) if report.kind == "graded" else None
    spare = ("neg",) if options.kind == "pair" else ()
    more = {"label_range": label_range, "spare": spare, "first": first, "lang": options.lang}
    lines = []
    for record in records:
        line, found = check(record, report.shape, report.kind, **more)
        report.problems += found
        lines += [line] if line else []
    return lines


def _unused_fields(records: list[data_records.Record], report: Report, lang: str) -> list[Problem]:
    """A note for each field that no format knows, or that this kind does not use."""
    used = set(FEEDS[report.shape][report.kind].model_fields)
    keys = Counter(key for record in records if isinstance(record.value, dict) for key in record.value)
    first = {key: r.line for r in reversed(records) if isinstance(r.value, dict) for key in r.value}
    notes = []
    for key, count in keys.items():
        name = SPELLINGS.get(key, key)
        if name not in used:
            code = "unused_field" if name in KNOWN else "unknown_field"
            notes.append(problem(code, lang, first[key], key, count=count, kind=report.kind))
    return notes


def _rows_of(line: Line, kind: str) -> int:
    return {"teacher": 1, "pair": len(line.pos), "triplet": len(line.pos)}.get(kind, len(line.pos) + len(line.neg))


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
    options = Options(kind, min_label, max_label, lang, neg_nums, seed, epoch, redraw, skip_bad, embeddings)
    dataset, report = _read(path, options)
    if report.left_out:
        warnings.warn(str(report), DataWarning, stacklevel=2)
    return dataset


def read_with_report(path: str | Path, kind: str | None = None, **options):
    """`read`, with the same options, and beside the dataset the report with its notes and the number of lines left out.

    >>> import tempfile; file = Path(tempfile.mkdtemp()) / "pairs.jsonl"
    >>> _ = file.write_text('{"query": "a", "pos": "b"}' + chr(10) + '{"query": ""}')
    >>> dataset, report = read_with_report(file, skip_bad=True)
    >>> len(dataset), report.left_out
    (1, 1)
    """
    return _read(path, Options(kind, **options))


def _read(path: str | Path, options: Options):
    lines, report = _load(path, options)
    _refuse(lines, report, options)
    return data_columns.dataset(lines, report, options), report


def _refuse(lines: list[Line], report: Report, options: Options) -> None:
    """Raise the report unless the good lines may be used; count what is left out."""
    if options.kind is None and report.shape == "triplet" and lines:
        report.problems.insert(0, problem("kind_ambiguous", report.lang))
    elif not lines and not any(item.line is None for item in report.problems):
        report.problems.append(problem("no_rows", report.lang))
    if any(item.line is None for item in report.problems) or (report.problems and not options.skip_bad) or not lines:
        raise DataError(report)
    report.left_out = len(report.bad_lines)


def prompts(path: str | Path, **options) -> dict[str, int]:
    """The prompts of a file, each with the number of its lines, in order of appearance; "" stands for lines without one.

    A model is saved with its prompt, so a file for one model should have one. Bad lines are not counted; options as in `validate`.

    >>> import tempfile; file = Path(tempfile.mkdtemp()) / "pairs.jsonl"
    >>> _ = file.write_text('{"query": "a", "pos": "b", "prompt_for_query": "search: "}')
    >>> prompts(file)
    {'search: ': 1}
    """
    return dict(Counter(line.prompt for line in load_lines(path, **options)[0]))


def apply_prompts(dataset):
    """Put each row's ``prompt_for_query`` before its query and drop the column, so that it cannot be applied twice.

    The two texts are joined as they are: braces and percent signs in a query mean nothing. A dataset without the column comes back
    as it is.

    Source: lesson 07.

    >>> from datasets import Dataset
    >>> rows = Dataset.from_dict({"query": ["{x} %s"], "prompt_for_query": ["search: "]})
    >>> apply_prompts(apply_prompts(rows))["query"][0]
    'search: {x} %s'
    """
    if "prompt_for_query" not in dataset.column_names:
        return dataset
    import pyarrow.compute
    from datasets import Dataset

    table = dataset.with_format("arrow")[:].replace_schema_metadata(None)
    joined = pyarrow.compute.binary_join_element_wise(table["prompt_for_query"], table["query"], "")
    table = table.set_column(table.column_names.index("query"), "query", joined).drop_columns("prompt_for_query")
    redraws = dataset.format["type"] == "custom"
    return Dataset(table).with_transform(dataset.format["format_kwargs"]["transform"]) if redraws else Dataset(table)
