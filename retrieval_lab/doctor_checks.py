"""The data doctor's examinations: each takes the stock of texts and gives findings; none of them changes anything.
Used by `doctor`; taught in lesson 07.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from retrieval_lab import data_messages
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


def finding(code: str, severity: str, places: Iterable[Place], lang: str, **values) -> list[Finding]:
    """A list with one finding, or empty when there are no places."""
    places = tuple(places)
    cause, remedy = data_messages.text(code, lang, **values) if places else ("", "")
    return [Finding(code, severity, len(places), places, cause, remedy)] if places else []


def normal(text: str) -> str:
    """The text without differences of character width and blanks (Unicode NFKC).

    >>> normal("Ｂｕｓ　 3\\n")
    'Bus 3'
    """
    return " ".join(unicodedata.normalize("NFKC", text).split())


def texts_of(source: Source) -> Iterator[Text]:
    """Every text of a file with its query; a line that is scored as a whole gives documents, not positives."""
    for line in source.lines:
        role = "document" if line.scores is not None and not line.neg else "positive"
        sides = [(role, line.pos, line.scores), ("negative", line.neg, line.neg_scores)]
        query_key, place = normal(line.query), Place(source.file, line.line)
        for role, texts, scores in sides:
            for index, text in enumerate(texts):
                yield Text(
                    place,
                    line.prompt + line.query,
                    query_key,
                    text,
                    normal(text),
                    role,
                    scores[index] if scores else None,
                )


def contradictions(texts: list[Text], lang: str) -> list[Finding]:
    """Texts on both sides of one query, negatives that answer another, positives shared by several."""
    owners: dict[str, set[str]] = defaultdict(set)
    for text in texts:
        if text.role == "positive":
            owners[text.key].add(text.query_key)
    negatives = [text for text in texts if text.role == "negative"]
    both = [text.place for text in negatives if text.query_key in owners.get(text.key, ())]
    others = [text.place for text in negatives if owners.get(text.key, set()) - {text.query_key}]
    shared = [text.place for text in texts if text.role == "positive" and len(owners[text.key]) > 1]
    return [
        *finding("pos_and_neg", "error", both, lang),
        *finding("other_positive", "warning", others, lang),
        *finding("shared_positive", "info", shared, lang),
    ]


def duplicates(texts: list[Text], sources: list[Source], lang: str) -> list[Finding]:
    """Repeated rows, exactly or after normalisation, repeated queries, and rows that differ in their score only."""
    seen: dict[tuple, Text] = {}
    exact_seen = set()
    exact, near, conflict = [], [], []
    for text in texts:
        before = seen.setdefault((text.query_key, text.key, text.role), text)
        written = (text.query, text.text, text.role)
        if before is not text and before.score != text.score:
            conflict.append(text.place)
        elif before is not text:
            (exact if written in exact_seen else near).append(text.place)
        exact_seen.add(written)
    return [
        *finding("duplicate_exact", "warning", exact, lang),
        *finding("duplicate_normalised", "warning", near, lang),
        *finding("duplicate_query", "warning", _repeated_queries(sources), lang),
        *finding("score_conflict", "error", conflict, lang),
    ]


def _repeated_queries(sources: list[Source]) -> list[Place]:
    """Lines whose query came before; in flat files that is how they are meant."""
    seen, places = set(), []
    for source in sources:
        for line in source.lines if source.shape not in ("flat", "list") else ():
            key = normal(line.query)
            places += [Place(source.file, line.line)] if key in seen else []
            seen.add(key)
    return places


def labels(texts: list[Text], sources: list[Source], lang: str) -> list[Finding]:
    """Labels that teach nothing: all the same, or alone in a query whose documents are compared."""
    scored = [text for text in texts if text.role == "document"]
    values = {text.score for text in scored}
    constant = [text.place for text in scored] if len(values) == 1 and len(scored) > 1 else []
    compared = {source.file for source in sources if source.kind == "scored"}
    groups: dict[str, list[Place]] = defaultdict(list)
    for text in scored:
        groups[text.query_key].append(text.place)
    alone = [places[0] for places in groups.values() if len(places) == 1 and places[0].file in compared]
    label = f"{min(values):g}" if constant else ""
    return [
        *finding("constant_label", "error", constant, lang, label=label),
        *finding("single_document", "warning", alone, lang),
    ]


def prompts(sources: list[Source], lang: str) -> list[Finding]:
    """Lines without a prompt among lines that have one."""
    lines = [(Place(source.file, line.line), line.prompt) for source in sources for line in source.lines]
    without = [place for place, prompt in lines if not prompt]
    mixed = without if len(without) < len(lines) else []
    return finding("prompt_mixed", "warning", mixed, lang, share=f"{len(lines) - len(without)}/{len(lines)}")


# The second and third byte of a Chinese character (or the second of an accented one), as Windows-1252 shows them.
_TAIL = "[\u0080-\u00bf" + bytes(set(range(0x80, 0xA0)) - {0x81, 0x8D, 0x8F, 0x90, 0x9D}).decode("cp1252") + "]"
_MOJIBAKE = re.compile(f"[\u00e3-\u00ef]{_TAIL}{{2}}|[\u00c2\u00c3]{_TAIL}")


def damage(texts: list[Text], sources: list[Source], lang: str) -> list[Finding]:
    """Texts that went through a wrong decoding, and positives that repeat their query."""
    everything = [(Place(source.file, line.line), line.query) for source in sources for line in source.lines]
    everything += [(text.place, text.text) for text in texts]
    broken = [(place, match.group()) for place, text in everything if (match := _garbled(text))]
    same = [text.place for text in texts if text.role == "positive" and text.key == text.query_key]
    lost = [place for place, text in everything if "\ufffd" in text]
    sample = broken[0][1] if broken else ""
    return [
        *finding("replacement", "warning", lost, lang),
        *finding("mojibake", "warning", [place for place, _ in broken], lang, sample=sample),
        *finding("query_is_text", "warning", same, lang),
    ]


def _garbled(text: str) -> re.Match | None:
    """The first garbled character when there are at least two, which chance does not give."""
    matches = list(_MOJIBAKE.finditer(text))
    return matches[0] if len(matches) > 1 else None


def leakage(
    train: list[Text], validation: list[Text], train_queries: set[str], queries: list, lang: str
) -> list[Finding]:
    """Validation queries and relevant texts that training has seen; places are those in the validation files.

    ``queries`` holds a (place, key) for every line of the validation files.
    """
    relevant = {text.key for text in train if text.role != "negative"}
    tested = [text for text in validation if text.role != "negative"]
    known = [place for place, key in queries if key in train_queries]
    seen = [text.place for text in tested if text.key in relevant]
    distinct = {key for _, key in queries}
    query_share = f"{len(distinct & train_queries)}/{len(distinct)}"
    return [
        *finding("leak_query", "error", known, lang, share=query_share),
        *finding("leak_text", "warning", seen, lang, share=f"{len(seen)}/{len(tested)}"),
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
