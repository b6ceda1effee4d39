"""From checked lines to the columns of a ``datasets.Dataset``, one layout a kind of training.
Taught in lesson 07; called by `formats.read`.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from retrieval_lab import teacher_embeddings
from retrieval_lab.data_messages import language
from retrieval_lab.data_report import Report
from retrieval_lab.data_rows import KINDS, Line
from retrieval_lab.negatives import NegativeDraw


@dataclass(frozen=True)
class Options:
    """What a caller of `formats.read` asked for; the fields are described there."""

    kind: str | None = None
    min_label: float = 0
    max_label: float = 1
    lang: str | None = None
    neg_nums: int | None = None
    seed: int = 0
    epoch: int = 0
    redraw: bool = False
    skip_bad: bool = False
    embeddings: str | Path | None = None

    def __post_init__(self):
        object.__setattr__(self, "lang", language(self.lang))
        if self.kind is not None and self.kind not in KINDS:
            near = get_close_matches(str(self.kind), KINDS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"kind={self.kind!r} is not known; use one of {', '.join(KINDS)}{hint}")
        if not self.min_label < self.max_label:
            raise ValueError(
                f"min_label={self.min_label}, max_label={self.max_label}; min_label must be the smaller one"
            )
        if self.neg_nums is not None and self.neg_nums < 1:
            raise ValueError(f"neg_nums={self.neg_nums}; use neg_nums >= 1, or kind='pair' to train without negatives")


def dataset(lines: list[Line], report: Report, options: Options):
    """The Dataset of ``report.kind`` from the good lines of a file.

    Raises
    ------
    DataError
        If the teacher's vectors are missing or do not fit the lines.
    """
    draw = NegativeDraw(options.seed, options.neg_nums or 1, options.epoch)
    embeddings = Path(options.embeddings or Path(report.path).with_suffix(".memmap"))
    return {
        "pair": lambda: _pairs(lines),
        "triplet": lambda: _triplets(lines, draw, options.redraw),
        "scored": lambda: _scored(lines),
        "graded": lambda: _graded(lines, options.min_label, options.max_label),
        "teacher": lambda: _teacher(lines, report.n_records, embeddings, report.lang),
    }[report.kind]()


def _dataset(columns: dict, owners: list[Line]):
    """A Dataset of the columns, with the prompt of each row's line when there is any."""
    from datasets import Dataset

    if any(line.prompt for line in owners):
        columns = columns | {"prompt_for_query": [line.prompt for line in owners]}
    return Dataset.from_dict(columns)


def _pairs(lines: list[Line]):
    rows = [(line, text) for line in lines for text in line.pos]
    columns = {"query": [line.query for line, _ in rows], "positive": [text for _, text in rows]}
    return _dataset(columns, [line for line, _ in rows])


def _triplets(lines: list[Line], draw: NegativeDraw, redraw: bool):
    rows = [(line, turn) for line in lines for turn in range(len(line.pos))]
    columns = {
        "query": [line.query for line, _ in rows],
        "positive": [line.pos[turn] for line, turn in rows],
        "negatives": [list(line.neg) for line, _ in rows],
        "row_index": [line.position for line, _ in rows],
        "turn": [turn for _, turn in rows],
        "turns": [len(line.pos) for line, _ in rows],
    }
    owners = [line for line, _ in rows]
    return _dataset(columns, owners).with_transform(draw) if redraw else _dataset(draw(columns), owners)


def _documents(line: Line, low: float = 0, high: float = 1) -> list[tuple[str, float]]:
    """Texts of a line with their scores; a text without one is at the top when positive, at the bottom when negative."""
    scores = line.scores or (high,) * len(line.pos)
    return [*zip(line.pos, scores, strict=True), *zip(line.neg, line.neg_scores or (low,) * len(line.neg), strict=True)]


def _graded(lines: list[Line], low: float, high: float):
    rows = [(line, text, label) for line in lines for text, label in _documents(line, low, high)]
    columns = {"query": [line.query for line, _, _ in rows], "document": [text for _, text, _ in rows]}
    columns["label"] = [(label - low) / (high - low) for _, _, label in rows]
    return _dataset(columns, [line for line, _, _ in rows])


def _scored(lines: list[Line]):
    groups = {key: number for number, key in enumerate(dict.fromkeys((line.prompt, line.query) for line in lines))}
    rows = [(line, text, score) for line in lines for text, score in _documents(line)]
    columns = {"query": [line.query for line, _, _ in rows], "document": [text for _, text, _ in rows]}
    columns["score"] = [score for _, _, score in rows]
    columns["group"] = [groups[line.prompt, line.query] for line, _, _ in rows]
    return _dataset(columns, [line for line, _, _ in rows])


def _teacher(lines: list[Line], n_records: int, embeddings: Path, lang: str):
    """Queries with the teacher's vectors; a vector stays in its file until its row is read."""
    import pyarrow
    from datasets import Dataset

    vectors = teacher_embeddings.open_vectors(embeddings, rows=n_records, lang=lang)
    label = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.reshape(-1)), vectors.shape[1])
    if len(lines) < n_records:  # skip_bad left some out: their vectors go too
        label = label.take(pyarrow.array([line.position for line in lines]))
    columns = {"query": [line.query for line in lines], "label": label}
    if any(line.prompt for line in lines):
        columns["prompt_for_query"] = [line.prompt for line in lines]
    return Dataset(pyarrow.table(columns))
