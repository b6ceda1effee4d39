"""What was found in a data file: one `Problem` a place, a `Report` a file, and the error that carries the report.
Taught in lesson 07; the texts, in both languages, are in data_messages.toml.
"""

import tomllib
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from retrieval_lab import profiles

_TABLE = tomllib.loads(Path(__file__).with_name("data_messages.toml").read_text(encoding="utf-8"))
_WORDS = _TABLE.pop("words")
MESSAGES = {code: {lang: tuple(pair[lang].split(" → ")) for lang in pair} for code, pair in _TABLE.items()}
_SPOKEN: ContextVar[str | None] = ContextVar("spoken", default=None)


@contextmanager
def speaking(lang: str | None):
    """Write every message inside the block in this language; None leaves the language as it is.

    Raises
    ------
    ValueError
        If the language is neither "en" nor "zh".

    >>> with speaking("zh"):
    ...     word("list")
    '列表'
    """
    if lang not in (None, *profiles.LANGUAGES):
        raise ValueError(f"lang={lang!r} is not known; use 'en' or 'zh' / lang={lang!r} 无效；可用 'en' 或 'zh'")
    token = _SPOKEN.set(lang or _SPOKEN.get())
    try:
        yield
    finally:
        _SPOKEN.reset(token)


def language() -> str:
    """The language of messages: that of `speaking`, else the reader's (``RETRIEVAL_LAB_LANG``, else English)."""
    return _SPOKEN.get() or profiles.language()


def text(code: str, /, **values) -> tuple[str, str]:
    """Cause and remedy of one message, its names filled in.

    Only our own templates go through ``str.format``; what a user wrote is a value and is never read as a template.

    >>> text("length", scores=2, texts=3)
    ('number of scores: 2, number of texts: 3', 'give one score a text')
    >>> text("not_finite", found="{x}")[0]
    '{x} is not a finite number'
    """
    cause, remedy = MESSAGES[code][language()]
    return cause.format(**values), remedy.format(**values)


def word(name: str) -> str:
    """The name of a type or thing as a reader calls it.

    >>> word("NoneType")
    'null'
    """
    return _WORDS[name][language()] if name in _WORDS else name


def shorten(value, width: int = 40) -> str:
    """A value as Python writes it, cut to ``width`` characters.

    >>> shorten("abcdefghij", width=8)
    "'abcd..."
    """
    shown = repr(value)
    return shown if len(shown) <= width else shown[: width - 3] + "..."


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


def problem(code: str, /, line: int | None = None, field: str = "", **values) -> Problem:
    """A `Problem` whose cause and remedy come from the message table.

    >>> problem("length", 7, "scores", scores=2, texts=3)
    Problem(line=7, field='scores', cause='number of scores: 2, number of texts: 3',
    remedy='give one score a text', code='length')
    """
    printable = field.encode("utf-8", "backslashreplace").decode()  # a key may hold half of a surrogate pair
    return Problem(line, printable, *text(code, **values), code)


def sentence(found: str | Problem, /, **values) -> str:
    """Cause and remedy in one sentence: of a problem, or of a message's code for an error that is not about a file's content."""
    cause, remedy = (found.cause, found.remedy) if isinstance(found, Problem) else text(found, **values)
    return {"en": f"{cause}; {remedy}", "zh": f"{cause}；{remedy}"}[language()]


@dataclass
class Report:
    """Everything that a reader needs to mend one data file.

    ``n_lines`` counts what the file holds (blank and broken lines too; elements of a JSON array), ``n_records`` the lines that are
    not blank, ``n_rows`` the training rows that its good lines give. ``problems`` stop `formats.read`; ``notes`` tell of what was
    accepted or not used. ``left_out`` counts the lines that ``skip_bad=True`` went on without.
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
    lang: str = field(default_factory=language)

    @property
    def ok(self) -> bool:
        """True when there is no problem; notes do not count."""
        return not self.problems

    @property
    def unreadable(self) -> bool:
        """True when a problem is about the file as a whole."""
        return any(found.line is None for found in self.problems)

    @property
    def bad_lines(self) -> list[int]:
        """Numbers of the lines that have a problem, ascending, each once."""
        return sorted({found.line for found in self.problems if found.line is not None})

    def __str__(self) -> str:
        label = {"en": "note, ", "zh": "提示，"}[self.lang]
        problems = [self._item(*group) for group in _grouped(self.problems)]
        return "\n".join([self._heading(), *problems, *(self._item(*group, label) for group in _grouped(self.notes))])

    def _heading(self) -> str:
        what = self.kind or {"en": "unknown format", "zh": "未知格式"}[self.lang]
        n_problems, n_bad = len(self.problems), len(self.bad_lines)
        if self.lang == "zh":
            parts = [f"{self.path}：{what}，{self.n_lines} 行，可得 {self.n_rows} 条训练样本"]
            parts += [f"；{n_problems} 个问题"] * bool(n_problems) + [f"，涉及 {n_bad} 行"] * bool(n_bad)
            return "".join(parts + [f"；共 {self.n_lines} 行，跳过了 {self.left_out} 行"] * bool(self.left_out))
        parts = [f"{self.path}: {what}, {_count(self.n_lines, 'line')}, {_count(self.n_rows, 'training row')}"]
        parts += [f"; {_count(n_problems, 'problem')}"] * bool(n_problems)
        parts += [f" on {_count(n_bad, 'line')}"] * bool(n_bad)
        return "".join(parts + [f"; left out {self.left_out} of {self.n_lines} lines"] * bool(self.left_out))

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
    groups: dict[tuple[str, str, str], set[int]] = {}
    for found in problems:
        lines = groups.setdefault((found.field, found.cause, found.remedy), set())
        lines |= {found.line} - {None}
    return sorted(((sorted(lines), *key) for key, lines in groups.items()), key=lambda item: item[0][:1])


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
