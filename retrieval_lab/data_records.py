"""From the bytes of a JSON-lines file or a JSON array to numbered records; nothing here knows what the fields mean.
Taught in lesson 07 (lines are split at \\n only, so a U+2028 inside a text splits nothing).
"""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from retrieval_lab.data_report import Problem, problem, shorten

_SPACE = re.compile(r"[ \t\r\n]*")
_ARRAY = re.compile(rb'(?:\xef\xbb\xbf)?\s*\[\s*[^\s"]')  # `["` opens a [query, document, label] line instead


class Record(NamedTuple):
    """One JSON value of a file: its line from 1 (where it starts), its position among the records from 0, and the value."""

    line: int
    position: int
    value: object


class _Decoder(json.JSONDecoder):
    """A JSON decoder that also collects, in ``repeated``, the keys that stand twice in one object."""

    def __init__(self):
        super().__init__(object_pairs_hook=self._object)
        self.repeated: list[str] = []

    def _object(self, pairs):
        value = dict(pairs)
        if len(value) < len(pairs):
            self.repeated += [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        return value

    def raw_decode(self, text: str, start: int = 0) -> tuple[object, int]:
        """The value at ``start`` and the position after it; any failure is a ``json.JSONDecodeError``."""
        self.repeated = []
        try:
            return super().raw_decode(text, _SPACE.match(text, start).end())
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:  # an integer of thousands of digits; thousands of levels
            raise json.JSONDecodeError(str(error), text, start) from None


@dataclass
class Records:
    """All records of a file that could be parsed, and what was wrong with the others.

    ``n_lines`` counts lines (elements of an array); ``n_records`` leaves the blank ones out, so that it is the number of rows that
    a file of embeddings beside this one must have. ``whole`` is False when the rest of the file could not be told apart.
    """

    records: list[Record] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    n_lines: int = 0
    n_records: int = 0
    whole: bool = True
    decoder: _Decoder = field(default_factory=_Decoder, repr=False)


def read(path: str | Path) -> Records:
    """Parse a whole file of JSON lines, or one JSON array; what cannot be parsed becomes a problem instead of an exception.

    Source: RFC 8259 (JSON), jsonlines.org; lesson 07.

    >>> import tempfile; file = Path(tempfile.mkdtemp()) / "two.jsonl"
    >>> _ = file.write_bytes(b'{"query": "a"}' + bytes([10, 10]) + b'{"query": "b"}')
    >>> found = read(file)
    >>> [record.line for record in found.records], [(p.line, p.code) for p in found.problems]
    ([1, 3], [(2, 'blank_line')])
    """
    found = Records()
    lines = _decoded(Path(path), found)
    if Path(path).is_file() and _ARRAY.match(_head(path)):
        _array(list(lines), found)
    else:
        _lines(lines, found)
    if not found.n_lines and found.whole:
        found.problems.append(problem("file_empty"))
    return found


def read_lines(path: str | Path) -> Records:
    """The lines of a plain text file as records that hold strings; blank ones are left out."""
    found = Records()
    lines = enumerate(_decoded(Path(path), found), 1)
    found.records = [Record(number, number - 1, line) for number, line in lines if line and line.strip()]
    return found


def read_object(path: str | Path) -> Records:
    """A file that is one JSON object over any number of lines, as a single record; problems as in `read`."""
    found = Records()
    lines = list(_decoded(Path(path), found))
    if found.whole and None not in lines:
        _line("\n".join(lines), 1, found)
    return found


def _head(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(4096)


def _decoded(path: Path, found: Records) -> Iterator[str | None]:
    """The lines as text without their ends, None for one that is not UTF-8; none at all for a missing or UTF-16 file."""
    if not path.is_file():
        found.problems.append(problem("file_missing", folder=str(path.parent.resolve())))
    elif _head(path)[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in _head(path)[:4]:
        found.problems.append(problem("encoding_utf16", command=_iconv("UTF-16", path)))
    else:
        yield from _utf8(path, found)
        return
    found.whole = False


def _utf8(path: Path, found: Records) -> Iterator[str | None]:
    returns = 0
    with path.open("rb") as file:  # its lines end at \n and nowhere else
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode()
            except UnicodeDecodeError as error:
                found.problems.append(_not_utf8(path, number, raw, error.start))
                yield None
                continue
            if line.startswith("\ufeff"):
                found.notes.append(problem("bom", number))
            returns += line.endswith("\r\n")
            yield line.removeprefix("\ufeff").removesuffix("\n").removesuffix("\r")
    if returns:
        found.notes.append(problem("crlf", count=returns))


def _not_utf8(path: Path, number: int, raw: bytes, at: int) -> Problem:
    """Chinese encodings use their high bytes in pairs; a western one sets single accented letters between ASCII."""
    high, paired = (sum(map(len, re.findall(bytes_, raw))) for bytes_ in (rb"[\x80-\xff]", rb"[\x80-\xff]{2,}"))
    guess = "GB18030" if paired > high / 2 else "WINDOWS-1252"
    values = {"byte": at + 1, "value": f"0x{raw[at]:02X}", "guess": guess}
    return problem("encoding", number, command=_iconv(guess, path), **values)


def _iconv(encoding: str, path: Path) -> str:
    return f"iconv -f {encoding} -t UTF-8 {shlex.quote(path.name)} > {shlex.quote(path.stem + '.utf8' + path.suffix)}"


def _lines(lines: Iterator[str | None], found: Records) -> None:
    for number, line in enumerate(lines, 1):
        found.n_lines = number
        if line is None:
            found.n_records += 1
        elif line.strip():
            _line(line, number, found)
        else:
            found.problems.append(problem("blank_line", number))


def _line(text: str, number: int, found: Records) -> None:
    """Keep the one JSON value of a text that starts on line ``number``, or say what is wrong with it."""
    found.n_records += 1
    try:
        value, end = found.decoder.raw_decode(text)
        if text[end:].strip():
            raise json.JSONDecodeError("Extra data", text, end)
        _keep(Record(number, found.n_records - 1, value), found)
    except json.JSONDecodeError as error:
        code = "single_quotes" if re.match(r"\s*[\[{(]\s*'", text) else "broken_json"
        values = {"column": error.colno, "reason": error.msg, "near": shorten(text[error.pos : error.pos + 20])}
        found.problems.append(problem(code, number + error.lineno - 1, **values))


def _keep(record: Record, found: Records) -> None:
    """Add a record unless a key stands twice in it, of which JSON would silently drop one value."""
    found.problems += [problem("repeated_key", record.line, key, key=shorten(key)) for key in found.decoder.repeated]
    found.records += [] if found.decoder.repeated else [record]


def _array(lines: list[str | None], found: Records) -> None:
    """The elements of one JSON array, each with the line that it starts on."""
    if None in lines:
        found.n_lines, found.whole = len(lines), False
        return
    text = "\n".join(lines)
    position, line, counted = text.index("[") + 1, 1, 0
    closed = text[_SPACE.match(text, position).end()] == "]"
    try:
        while not closed:
            start = _SPACE.match(text, position).end()
            line, counted = line + text.count("\n", counted, start), start
            value, position = found.decoder.raw_decode(text, start)
            _keep(Record(line, found.n_records, value), found)
            found.n_lines = found.n_records = found.n_records + 1
            position, closed = _separator(text, position)
    except json.JSONDecodeError as error:
        found.problems.append(problem("array_broken", error.lineno, column=error.colno, reason=error.msg))
        found.n_lines, found.whole = found.n_lines + 1, False


def _separator(text: str, position: int) -> tuple[int, bool]:
    """The position after the comma or bracket at ``position``, and whether the array ends there."""
    position = _SPACE.match(text, position).end()
    sign = text[position : position + 1]
    if sign not in (",", "]"):
        raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
    rest = _SPACE.match(text, position + 1).end()
    if sign == "]" and rest < len(text):
        raise json.JSONDecodeError("Extra data", text, rest)
    return position + 1, sign == "]"
