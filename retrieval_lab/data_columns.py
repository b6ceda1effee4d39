"""From checked lines to the columns of a ``datasets.Dataset``, one layout a kind of training; prompts are joined to queries here.
Taught in lesson 07; called by `formats.read`.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from retrieval_lab import teacher_embeddings
from retrieval_lab.data_report import Report
from retrieval_lab.data_rows import Line
from retrieval_lab.negatives import NegativeDraw


def n_rows(line: Line, kind: str) -> int:
    """How many training rows a line gives."""
    return {"teacher": 1, "pair": len(line.pos), "triplet": len(line.pos)}.get(kind, len(line.pos) + len(line.neg))


def dataset(
    lines: list[Line], report: Report, *, scale: tuple[float, float], draw: NegativeDraw, redraw: bool, embeddings=None
):
    """The Dataset of ``report.kind`` from the good lines of a file.

    Parameters
    ----------
    lines, report : from `formats.load_lines`
    scale : (min_label, max_label), which become 0 and 1
    draw, redraw : which negatives a triplet gets, now (False) or whenever its row is read (True)
    embeddings : the teacher's file of vectors

    Raises
    ------
    DataError
        If the teacher's vectors are missing or do not fit the lines.
    """
    from datasets import Dataset

    columns, prompts = defaultdict(list), []
    groups: dict[tuple[str, str], int] = {}
    for line in lines:
        group = groups.setdefault((line.prompt, line.query), len(groups))
        for row in _rows(line, group, report.kind, scale):
            prompts.append(line.prompt)
            for name, value in ({"query": line.query} | row).items():
                columns[name].append(value)
    if report.kind == "teacher":
        columns["label"] = _vectors(lines, report, embeddings)
    if any(prompts):
        columns["prompt_for_query"] = prompts
    if report.kind != "triplet":
        return Dataset.from_dict(columns)
    return Dataset.from_dict(columns).with_transform(draw) if redraw else Dataset.from_dict(draw(columns))


def _rows(line: Line, group: int, kind: str, scale: tuple[float, float]) -> Iterator[dict]:
    """The training rows of one line, without its query."""
    if kind == "teacher":
        yield {}
    elif kind == "pair":
        yield from ({"positive": text} for text in line.pos)
    elif kind == "triplet":
        negatives = {"negatives": line.neg, "row_index": line.position, "turns": len(line.pos)}
        yield from ({"positive": text, "turn": turn} | negatives for turn, text in enumerate(line.pos))
    else:
        low, high = scale
        for text, score in _documents(line, low, high):
            label = {"label": (score - low) / (high - low)}
            yield {"document": text} | (label if kind == "graded" else {"score": score, "group": group})


def _documents(line: Line, low: float, high: float) -> list[tuple[str, float]]:
    """Texts of a line with their scores; a text without one is at the top when positive, at the bottom when negative."""
    scores = line.scores or [high] * len(line.pos), line.neg_scores or [low] * len(line.neg)
    return [*zip(line.pos, scores[0], strict=True), *zip(line.neg, scores[1], strict=True)]


def _vectors(lines: list[Line], report: Report, embeddings: str | Path | None):
    """The teacher's vector of each line; a vector stays in its file until its row is read.

    That the file was made of these texts can be told only where no line was left out.
    """
    import pyarrow

    path = embeddings or Path(report.path).with_suffix(".memmap")
    texts = [line.query for line in lines] if len(lines) == report.n_records else None
    vectors = teacher_embeddings.open_vectors(path, rows=report.n_records, texts=texts)
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.reshape(-1)), vectors.shape[1])
    if len(lines) < report.n_records:  # skip_bad left some out: their vectors go too
        column = column.take(pyarrow.array([line.position for line in lines]))
    return column


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
