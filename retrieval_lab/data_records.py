"""From the bytes of a JSON-lines file or a JSON array to numbered records; nothing here knows what the fields mean.
Taught in lesson 07 (lines are split at \\n only, so a U+2028 inside a text splits nothing).
"""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from retrieval_lab.data_messages import shorten
from retrieval_lab.data_report import Problem, problem

_SPACE = re.compile(r"[ \t\r\n]*")
_ARRAY = re.compile(
    rb"(?:\xef\xbb\xbf)?[ \t\r\n]*\[[ \t\r\n]*(?!\")(?=\S)"
)  # `["` opens a [query, document, label] line instead

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class Record:
    """One JSON value of a file: its line from 1 (where it starts), its position among the records from 0, and the value."""

    line: int
    position: int
    value: object


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


def read(path: str | Path, lang: str = "en") -> Records:
    """Parse a whole file; every line that cannot be parsed becomes a problem instead of an exception.

    Parameters
    ----------
    path : a file of JSON lines, or one JSON array
    lang : "en" or "zh", the language of the problems

    Source: RFC 8259 (JSON), jsonlines.org; lesson 07.

    >>> import tempfile; file = Path(tempfile.mkdtemp()) / "two.jsonl"
    >>> _ = file.write_bytes(b'{"query": "a"}' + bytes([10, 10]) + b'{"query": "b"}')
    >>> found = read(file)
    >>> [record.line for record in found.records], [(p.line, p.code) for p in found.problems]
    ([1, 3], [(2, 'blank_line')])
    """
    path, found = Path(path), Records()
    if not path.is_file():
        found.problems.append(problem("file_missing", lang, folder=str(path.parent.resolve())))
        found.whole = False
        return found
    data = path.read_bytes()
    lines = _decoded(path, data, found, lang)
    if lines is None:
        return found
    if not _ARRAY.match(data):
        _lines(lines, found, lang)
    elif None in lines:
        found.n_lines, found.whole = len(lines), False
    else:
        _array("\n".join(lines), found, lang)
    if not found.n_lines:
        found.problems.append(problem("file_empty", lang))
    return found


def read_lines(path: str | Path, lang: str = "en") -> Records:
    """The lines of a plain text file as records that hold strings; blank ones are left out."""
    found = Records()
    lines = _decoded(Path(path), Path(path).read_bytes(), found, lang) or []
    found.records = [Record(number, number - 1, line) for number, line in enumerate(lines, 1) if line and line.strip()]
    return found


def read_object(path: str | Path, lang: str = "en") -> Records:
    """A file that is one JSON object over any number of lines, as a single record; problems as in `read`."""
    path, found = Path(path), Records()
    if not path.is_file():
        found.problems.append(problem("file_missing", lang, folder=str(path.parent.resolve())))
        return found
    lines = _decoded(path, path.read_bytes(), found, lang)
    if lines is None or None in lines:
        return found
    _line(_Decoder(), "\n".join(lines), Record(1, 0, None), found, lang)
    found.n_lines = found.n_records = 1
    return found


def _decoded(path: Path, data: bytes, found: Records, lang: str) -> list[str | None] | None:
    """The lines as text, None for a line that is not UTF-8; None altogether for UTF-16."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:4]:
        found.problems.append(problem("encoding_utf16", lang, command=_iconv("UTF-16", path)))
        found.whole = False
        return None
    lines, guess = [], None
    for number, raw in enumerate(data.split(b"\n"), 1):
        try:
            lines.append(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            guess = guess or _guess_encoding(data)
            values = {"byte": error.start + 1, "value": f"0x{raw[error.start]:02X}", "guess": guess}
            found.problems.append(problem("encoding", lang, number, command=_iconv(guess, path), **values))
            lines.append(None)
    return _without_marks(lines, found, lang)


def _iconv(encoding: str, path: Path) -> str:
    return f"iconv -f {encoding} -t UTF-8 {shlex.quote(path.name)} > {shlex.quote(path.stem + '.utf8' + path.suffix)}"


def _guess_encoding(data: bytes) -> str:
    """Chinese encodings use their high bytes in pairs; a western one sets single accented letters between ASCII."""
    high = len(re.findall(rb"[\x80-\xff]", data))
    paired = sum(map(len, re.findall(rb"[\x80-\xff]{2,}", data)))
    return "GB18030" if paired > high / 2 else "WINDOWS-1252"


def _without_marks(lines: list[str | None], found: Records, lang: str) -> list[str | None]:
    """Lines without byte order marks and carriage returns, each kind noted."""
    marks = [number for number, line in enumerate(lines, 1) if line and line.startswith("\ufeff")]
    found.notes += [problem("bom", lang, number) for number in marks]
    if returns := sum(bool(line) and line.endswith("\r") for line in lines):
        found.notes.append(problem("crlf", lang, count=returns))
    lines = [line and line.removeprefix("\ufeff").removesuffix("\r") for line in lines]
    return lines[:-1] if lines[-1] == "" else lines  # what follows the last newline is no line


class _Decoder:
    """A JSON decoder that also tells which key of an object stands twice."""

    def __init__(self):
        self.repeated: list[str] = []
        self._json = json.JSONDecoder(object_pairs_hook=self._object)

    def _object(self, pairs):
        value = dict(pairs)
        keys = [key for key, _ in pairs]
        self.repeated += [key for key in value if len(value) < len(keys) and keys.count(key) > 1]
        return value

    def __call__(self, text: str, start: int = 0) -> tuple[object, int]:
        """The value at ``start`` and the position after it; any failure is a ``json.JSONDecodeError``."""
        self.repeated.clear()
        try:
            return self._json.raw_decode(text, _SPACE.match(text, start).end())
        except json.JSONDecodeError:
            raise
        except (
            ValueError,
            RecursionError,
        ) as error:  # an integer of thousands of digits; nesting of thousands of levels
            raise json.JSONDecodeError(str(error), text, start) from None


def _lines(lines: list[str | None], found: Records, lang: str) -> None:
    decode = _Decoder()
    found.n_lines = len(lines)
    for number, line in enumerate(lines, 1):
        if line is not None and not line.strip():
            found.problems.append(problem("blank_line", lang, number))
            continue
        found.n_records += 1
        if line is not None:
            _line(decode, line, Record(number, found.n_records - 1, None), found, lang)


def _line(decode: _Decoder, line: str, place: Record, found: Records, lang: str) -> None:
    try:
        value, end = decode(line)
        if line[end:].strip():
            raise json.JSONDecodeError("Extra data", line, end)
    except json.JSONDecodeError as error:
        code = "single_quotes" if re.match(r"\s*[\[{(]\s*'", line) else "broken_json"
        near = shorten(line[error.pos : error.pos + 20])
        values = {"column": error.colno, "reason": error.msg, "near": near}
        found.problems.append(problem(code, lang, place.line + error.lineno - 1, **values))
        return
    _keep(decode, Record(place.line, place.position, value), line, found, lang)


def _keep(decode: _Decoder, record: Record, text: str, found: Records, lang: str) -> None:
    """Add a record unless a key stands twice or a text cannot be stored; ``text`` is the JSON that it comes from."""
    wrong = [problem("repeated_key", lang, record.line, _storable(key), key=shorten(key)) for key in decode.repeated]
    if _SURROGATE.search(text):
        items = record.value.items() if isinstance(record.value, dict) else [("", record.value)]
        dumped = [(name, json.dumps([name, item], ensure_ascii=False)) for name, item in items]
        wrong += [problem("surrogate", lang, record.line, _storable(name)) for name, t in dumped if t != _storable(t)]
    found.problems += wrong
    found.records += [] if wrong else [record]


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _array(text: str, found: Records, lang: str) -> None:
    """The elements of one JSON array, each with the line that it starts on."""
    decode, position, line, counted = _Decoder(), text.index("[") + 1, 1, 0
    closed = text[_SPACE.match(text, position).end()] == "]"
    try:
        while not closed:
            start = _SPACE.match(text, position).end()
            line, counted = line + text.count("\n", counted, start), start
            value, position = decode(text, start)
            _keep(decode, Record(line, found.n_records, value), text[start:position], found, lang)
            found.n_lines = found.n_records = found.n_records + 1
            position, closed = _separator(text, position)
    except json.JSONDecodeError as error:
        found.problems.append(problem("array_broken", lang, error.lineno, column=error.colno, reason=error.msg))
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
