"""The data doctor's examinations: each takes the stock of texts and gives findings; none of them changes anything.
Used by `doctor`; taught in lesson 07.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from retrieval_lab import data_report
from retrieval_lab.data_rows import Line


class Place(NamedTuple):
    """Where something is: the file's name and the line from 1."""

    file: str
    line: int


@dataclass(frozen=True)
class Text:
    """One text of one query (with its prompt). ``key`` and ``query_key`` are normalised; ``role`` is "positive", "negative" or "document" (scored)."""

    place: Place
    query: str
    query_key: str
    text: str
    key: str
    role: str
    score: float | None


@dataclass(frozen=True)
class Source:
    """One examined file: its name, kind and format, and its good lines."""

    file: str
    kind: str
    shape: str
    lines: list[Line]


@dataclass(frozen=True)
class Stock:
    """Everything to be examined together: files, their lines and all their texts."""

    sources: list[Source]

    @cached_property
    def lines(self) -> list[tuple[Place, Line]]:
        """Every line of every file."""
        return [(Place(source.file, line.line), line) for source in self.sources for line in source.lines]

    @cached_property
    def texts(self) -> list[Text]:
        """Every text of every line."""
        return [text for place, line in self.lines for text in _texts(place, line)]

    def files(self, **wanted: str) -> set[str]:
        """Names of the files of this ``kind`` or ``shape``."""
        return {source.file for source in self.sources if wanted.items() <= vars(source).items()}


def _texts(place: Place, line: Line) -> Iterator[Text]:
    """A line that is scored as a whole gives documents, not positives."""
    first = "document" if line.scores is not None and not line.neg else "positive"
    query_key = normal(line.query)
    for role, texts, scores in [(first, line.pos, line.scores), ("negative", line.neg, line.neg_scores)]:
        for text, score in zip(texts, scores or [None] * len(texts), strict=True):
            yield Text(place, line.prompt + line.query, query_key, text, normal(text), role, score)


@dataclass(frozen=True)
class Finding:
    """One thing found: ``id`` is the same in both languages; ``places`` names every place, ``count`` how often it occurs."""

    id: str
    severity: str
    count: int
    places: tuple[Place, ...]
    cause: str
    remedy: str

    @property
    def lines(self) -> list[int]:
        """Line numbers, each once, ascending; of all files together."""
        return sorted({place.line for place in self.places})


def finding(code: str, severity: str, places: Iterable[Place], **values) -> list[Finding]:
    """A list with one finding, or empty when there are no places."""
    places = tuple(places)
    return [Finding(code, severity, len(places), places, *data_report.text(code, **values))] if places else []


def normal(text: str) -> str:
    """The text without differences of character width and blanks (Unicode NFKC).

    >>> normal("Ｂｕｓ　 3\\n")
    'Bus 3'
    """
    return " ".join(unicodedata.normalize("NFKC", text).split())


def contradictions(stock: Stock) -> list[Finding]:
    """Texts on both sides of one query, negatives that answer another, positives shared by several."""
    owners: dict[str, set[str]] = defaultdict(set)
    for text in stock.texts:
        if text.role == "positive":
            owners[text.key].add(text.query_key)
    negatives = [(text, owners.get(text.key, set())) for text in stock.texts if text.role == "negative"]
    both = [text.place for text, queries in negatives if text.query_key in queries]
    others = [text.place for text, queries in negatives if queries - {text.query_key}]
    shared = [text.place for text in stock.texts if text.role == "positive" and len(owners[text.key]) > 1]
    return [
        *finding("pos_and_neg", "error", both),
        *finding("other_positive", "warning", others),
        *finding("shared_positive", "info", shared),
    ]


def duplicates(stock: Stock) -> list[Finding]:
    """Repeated rows, exactly or after normalisation, repeated queries, and rows that differ in their score only."""
    first: dict[tuple, Text] = {}
    written, queries = set(), set()
    exact, near, conflict, again = [], [], [], []
    for text in stock.texts:
        before = first.setdefault((text.query_key, text.key, text.role), text)
        literal = (text.query, text.text, text.role)
        if before is not text:
            kind = conflict if before.score != text.score else exact if literal in written else near
            kind.append(text.place)
        written.add(literal)
    flat = stock.files(shape="flat") | stock.files(shape="list")  # there, a query on several lines is how it is meant
    for place, line in stock.lines:
        if place.file not in flat:
            again += [place] if normal(line.query) in queries else []
            queries.add(normal(line.query))
    return [
        *finding("duplicate_exact", "warning", exact),
        *finding("duplicate_normalised", "warning", near),
        *finding("duplicate_query", "warning", again),
        *finding("score_conflict", "error", conflict),
    ]


def labels(stock: Stock) -> list[Finding]:
    """Labels that teach nothing: all the same, or alone in a query whose documents are compared."""
    scored = [text for text in stock.texts if text.role == "document"]
    values = {text.score for text in scored}
    constant = [text.place for text in scored] if len(values) == 1 and len(scored) > 1 else []
    groups: dict[str, list[Place]] = defaultdict(list)
    for text in scored:
        groups[text.query_key].append(text.place)
    compared = stock.files(kind="scored")
    alone = [places[0] for places in groups.values() if len(places) == 1 and places[0].file in compared]
    label = f"{min(values):g}" if constant else ""
    return [
        *finding("constant_label", "error", constant, label=label),
        *finding("single_document", "warning", alone),
    ]


def prompts(stock: Stock) -> list[Finding]:
    """Lines without a prompt among lines that have one."""
    without = [place for place, line in stock.lines if not line.prompt]
    n_lines = len(stock.lines)
    share = f"{n_lines - len(without)}/{n_lines}"
    return finding("prompt_mixed", "warning", without if len(without) < n_lines else [], share=share)


# The second and third byte of a Chinese character (or the second of an accented one), as Windows-1252 shows them.
_TAIL = "[\u0080-\u00bf" + bytes(set(range(0x80, 0xA0)) - {0x81, 0x8D, 0x8F, 0x90, 0x9D}).decode("cp1252") + "]"
_MOJIBAKE = re.compile(f"[\u00e3-\u00ef]{_TAIL}{{2}}|[\u00c2\u00c3]{_TAIL}")


def damage(stock: Stock) -> list[Finding]:
    """Texts that went through a wrong decoding, and positives that repeat their query."""
    everything = [(place, line.query) for place, line in stock.lines]
    everything += [(text.place, text.text) for text in stock.texts]
    garbled = [(place, _MOJIBAKE.findall(text)) for place, text in everything]
    garbled = [(place, found) for place, found in garbled if len(found) > 1]  # chance gives one, not two
    same = [text.place for text in stock.texts if text.role == "positive" and text.key == text.query_key]
    return [
        *finding("replacement", "warning", [place for place, text in everything if "\ufffd" in text]),
        *finding("mojibake", "warning", [p for p, _ in garbled], sample=garbled[0][1][0] if garbled else ""),
        *finding("query_is_text", "warning", same),
    ]


def leakage(train: Stock, validation: Stock) -> list[Finding]:
    """Validation queries and relevant texts that training has seen; places are those in the validation files."""
    queries = [(place, normal(line.query)) for place, line in validation.lines]
    known = {normal(line.query) for _, line in train.lines}
    relevant = {text.key for text in train.texts if text.role != "negative"}
    tested = [text for text in validation.texts if text.role != "negative"]
    seen = [text.place for text in tested if text.key in relevant]
    distinct = {key for _, key in queries}
    share = f"{len(distinct & known)}/{len(distinct)}"
    return [
        *finding("leak_query", "error", [place for place, key in queries if key in known], share=share),
        *finding("leak_text", "warning", seen, share=f"{len(seen)}/{len(tested)}"),
    ]


_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0002ffff]")
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]+")
_OTHER = re.compile("[^\\W\\d_A-Za-z\u00c0-\u024f\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0002ffff]")


def language(text: str) -> str:
    """ "zh", "en" or "other", by script: Chinese characters against Latin words against letters of other scripts.

    "en" stands for any language in Latin letters; a Chinese sentence may hold some.

    >>> language("用 Python 怎么排序"), language("how to sort"), language("これはペンです"), language("123")
    ('zh', 'en', 'other', 'other')
    """
    counts = {"zh": len(_HAN.findall(text)), "en": len(_LATIN.findall(text)), "other": len(_OTHER.findall(text))}
    return max(counts, key=counts.get) if any(counts.values()) else "other"
