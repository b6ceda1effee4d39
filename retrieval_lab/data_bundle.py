"""What every file format of retrieval data is converted through, and the account of what a format cannot hold.
Used by `converters`; taught in lesson 07.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import count

from retrieval_lab.data_report import Problem, problem


@dataclass(frozen=True)
class Passage:
    """A text with what is known of it; ``score`` is its label for one query, None where only pos or neg is known."""

    text: str
    id: str = ""
    title: str = ""
    score: float | None = None

    @property
    def whole(self) -> str:
        """Title and text, joined as `corpora.load` joins them.

        >>> Passage("Open daily.", title="Pool").whole
        'Pool\\nOpen daily.'
        """
        return f"{self.title}\n{self.text}" if self.title else self.text


@dataclass(frozen=True)
class Example:
    """One query with its relevant passages and its negatives."""

    query: str
    pos: tuple[Passage, ...] = ()
    neg: tuple[Passage, ...] = ()
    id: str = ""
    prompt: str = ""


@dataclass
class Bundle:
    """All that a source file holds: examples, documents that no query judges, and the names of fields that we do not know."""

    examples: list[Example] = field(default_factory=list)
    documents: list[Passage] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)
    score_field: str = "pos_scores"  # a file of kind "scored" says "scores"

    @property
    def passages(self) -> list[Passage]:
        """Every passage, judged ones first; one that several queries share comes several times."""
        return [passage for example in self.examples for passage in example.pos + example.neg] + self.documents


_LINES = ("ids", "titles", "documents", "queries", "fields")
_QRELS = ("prompts", "scores", "binary_scores", "contradictions", "repeats", "split", "fields")
# What each format has no place for; the messages are called not_held_NAME.
LOSES: dict[str, tuple[str, ...]] = {
    "lab": _LINES,
    "flagembedding": _LINES,
    "tevatron": ("prompts", "scores", "grades", "documents", "queries", "fields"),
    "sentence-transformers": (*_LINES, "prompts", "repeats", "repeated_queries", "split"),
    "beir": _QRELS,
    "trec": _QRELS,
    "llamaindex": ("prompts", "scores", "grades", "titles", "negatives_kept", "repeats", "fields"),
}


def losses(bundle: Bundle, target: str) -> dict[str, Problem]:
    """What of the bundle the target format cannot hold: name -> the count and what to do.

    >>> losses(Bundle([Example("q", (Passage("p"),), prompt="search: ")]), "beir")["prompts"].cause
    'queries with a prompt, which beir cannot hold: 1'
    """
    counts = _counts(bundle)
    lost = {}
    for name in LOSES[target]:
        if counts[name]:
            values = {"count": counts[name], "format": target, "names": ", ".join(bundle.fields)}
            lost[name] = problem(f"not_held_{name}", **values)
    if target in ("lab", "flagembedding"):
        without = sum(not example.neg for example in bundle.examples if example.pos)
        if without and any(example.neg for example in bundle.examples):
            lost["some_negatives"] = problem("some_negatives", count=without)
    return lost


def _counts(bundle: Bundle) -> Counter:
    """How often each thing occurs that some format cannot hold."""
    counts = Counter(documents=len(bundle.documents), fields=len(bundle.fields))
    counts["titles"] = sum(bool(passage.title) for passage in bundle.passages)
    counts["ids"] = sum(bool(item.id) for item in bundle.examples + bundle.passages)
    for example in bundle.examples:
        counts.update(_example_counts(example))
    counts["repeated_queries"] = len(bundle.examples) - len({example.query for example in bundle.examples})
    return counts


def _example_counts(example: Example) -> dict[str, int]:
    passages = example.pos + example.neg
    scores = [passage.score for passage in passages if passage.score is not None]
    sides = [[passage.whole for passage in side] for side in (example.pos, example.neg)]
    whole_numbers = all(score == int(score) for score in scores)
    # A label that does not tell its side: a positive of 0 or less, a negative above 0.
    astray = [p for p in example.pos if p.score is not None and p.score <= 0] + [
        p for p in example.neg if (p.score or 0) > 0
    ]
    return {
        "prompts": bool(example.prompt),
        "scores": bool(scores) and not whole_numbers,
        "grades": bool(scores) and whole_numbers,
        "binary_scores": bool(scores) and set(scores) <= {0, 1},
        "negatives_kept": len(example.neg),
        "queries": not example.pos,
        "contradictions": len(set(sides[0]) & set(sides[1])),
        "repeats": sum(len(texts) - len(set(texts)) for texts in sides),
        "split": bool(astray),
    }


def prepared(bundle: Bundle, target: str) -> Bundle:
    """The bundle as the target's writer needs it: without what has no place there, with ids where the format wants them."""
    if "titles" in LOSES[target]:
        bundle = _mapped(bundle, lambda passage: replace(passage, text=passage.whole, title=""))
    if "queries" in LOSES[target]:
        bundle = replace(bundle, examples=[example for example in bundle.examples if example.pos])
    return _with_ids(bundle) if target in ("tevatron", "beir", "trec", "llamaindex") else bundle


def _mapped(bundle: Bundle, change) -> Bundle:
    """The bundle with every passage changed."""
    sides = [(tuple(map(change, example.pos)), tuple(map(change, example.neg))) for example in bundle.examples]
    examples = [replace(e, pos=pos, neg=neg) for e, (pos, neg) in zip(bundle.examples, sides, strict=True)]
    return replace(bundle, examples=examples, documents=[change(passage) for passage in bundle.documents])


def _with_ids(bundle: Bundle) -> Bundle:
    """Ids q1.. and d1.. for queries and passages without one, clear of those in use; the same title and text has the same id."""
    taken = {passage.id for passage in bundle.passages} | {example.id for example in bundle.examples}
    queries, documents = (
        filter(lambda name: name not in taken, map(pattern.format, count(1))) for pattern in ("q{}", "d{}")
    )
    known = {(passage.title, passage.text): passage.id for passage in bundle.passages if passage.id}

    def named(passage: Passage) -> Passage:
        key = (passage.title, passage.text)
        if not passage.id and key not in known:
            known[key] = next(documents)
        return replace(passage, id=passage.id or known[key])

    bundle = _mapped(bundle, named)
    return replace(bundle, examples=[replace(e, id=e.id or next(queries)) for e in bundle.examples])
