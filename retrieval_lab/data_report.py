"""What was found in a data file: one `Problem` a place, a `Report` a file, and the error that carries the report.
Taught in lesson 07; re-exported by `formats`.
"""

from dataclasses import dataclass, field
from itertools import groupby

from retrieval_lab import data_messages


@dataclass(frozen=True)
class Problem:
    """One thing wrong in one place of a file, and what to do about it.

    ``line`` counts from 1 and is None where the whole file is meant; ``field`` is the name as the file spells it, with the item's
    index from 0 (``pos[2]``); ``code`` is the message's key, the same in every language.
    """

    line: int | None
    field: str
    cause: str
    remedy: str
    code: str = ""


def problem(code: str, lang: str, /, line: int | None = None, field: str = "", **values) -> Problem:
    """A `Problem` whose cause and remedy come from the message table.

    >>> problem("length", "en", 7, "scores", scores=2, texts=3)
    Problem(line=7, field='scores', cause='number of scores: 2, number of texts: 3',
    remedy='give one score a text', code='length')
    """
    return Problem(line, field, *data_messages.text(code, lang, **values), code)


@dataclass
class Report:
    """Everything that a reader needs to mend one data file.

    ``n_lines`` counts what the file holds (blank and broken lines too; elements of a JSON array), ``n_records`` the lines that are
    not blank, ``n_rows`` the training rows that its good lines give. ``problems`` stop `formats.read`; ``notes`` tell of what was accepted or not used. ``left_out``
    counts the lines that ``skip_bad=True`` went on without.
    """

    path: str
    kind: str | None = None
    shape: str | None = None
    n_lines: int = 0
    n_records: int = 0
    n_rows: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    left_out: int = 0
    lang: str = "en"

    @property
    def ok(self) -> bool:
        """True when there is no problem; notes do not count."""
        return not self.problems

    @property
    def bad_lines(self) -> list[int]:
        """Numbers of the lines that have a problem, ascending, each once."""
        return sorted({found.line for found in self.problems if found.line is not None})

    def __str__(self) -> str:
        items = [self._heading(), *(self._item(*group) for group in _grouped(self.problems))]
        label = {"en": "note, ", "zh": "提示，"}[self.lang]
        return "\n".join(items + [self._item(*group, label=label) for group in _grouped(self.notes)])

    def _heading(self) -> str:
        what = self.kind or {"en": "unknown format", "zh": "未知格式"}[self.lang]
        english = f"{self.path}: {what}, {_count(self.n_lines, 'line')}, {_count(self.n_rows, 'training row')}"
        chinese = f"{self.path}：{what}，{self.n_lines} 行，可得 {self.n_rows} 条训练样本"
        if self.problems:
            english += f"; {_count(len(self.problems), 'problem')}"
            chinese += f"；{len(self.problems)} 个问题"
        if self.bad_lines:
            english += f" on {_count(len(self.bad_lines), 'line')}"
            chinese += f"，涉及 {len(self.bad_lines)} 行"
        if self.left_out:
            english += f"; left out {self.left_out} of {self.n_lines} lines"
            chinese += f"；共 {self.n_lines} 行，跳过了 {self.left_out} 行"
        return {"en": english, "zh": chinese}[self.lang]

    def _item(self, lines: list[int], name: str, cause: str, remedy: str, label: str = "") -> str:
        numbers = ranges(lines, self.lang)
        if self.lang == "zh":
            place = f"第 {numbers} 行" if lines else "整个文件"
            return f"  {label}{place}{f'，{name}' if name else ''}：{cause}。办法：{remedy}"
        place = f"line{'s' * (len(lines) > 1)} {numbers}" if lines else "whole file"
        return f"  {label}{place}{f', {name}' if name else ''}: {cause}. Do: {remedy}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _grouped(problems: list[Problem]) -> list[tuple[list[int], str, str, str]]:
    """Problems with the same field, cause and remedy as one item that names all their lines, in order of the first line."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for found in problems:
        lines = groups.setdefault((found.field, found.cause, found.remedy), [])
        if found.line is not None:
            lines.append(found.line)
    items = [(sorted(set(lines)), *key) for key, lines in groups.items()]
    return sorted(items, key=lambda item: item[0][:1])


def ranges(numbers: list[int], lang: str = "en") -> str:
    """Sorted line numbers, neighbours drawn together.

    >>> ranges([1, 2, 3, 7, 9, 10])
    '1-3, 7, 9-10'
    >>> ranges([1, 3], "zh")
    '1、3'
    """
    runs = []
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        runs.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return {"en": ", ", "zh": "、"}[lang].join(runs)


class DataError(ValueError):
    """A data file that cannot be used. The message is the whole report, ``.report`` the report itself."""

    def __init__(self, report: Report):
        super().__init__(str(report))
        self.report = report


class DataWarning(UserWarning):
    """Something was left out on request (``skip_bad=True``); the message says how much."""
