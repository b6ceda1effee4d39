"""What every file format of retrieval data is converted through, and the account of what a format cannot hold.
Used by `converters`; taught in lesson 07.
"""

from collections import Counter
from dataclasses import dataclass, field, replace

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
_WANTS_IDS = ("tevatron", "beir", "trec", "llamaindex")


def losses(bundle: Bundle, target: str, lang: str) -> dict[str, Problem]:
    """What of the bundle the target format cannot hold: name -> the count and what to do.

    >>> losses(Bundle([Example("q", (Passage("p"),), prompt="search: ")]), "beir", "en")["prompts"].cause
    'queries with a prompt, which beir cannot hold: 1'
    """
    counts = _counts(bundle)
    lost = {}
    for name in LOSES[target]:
        if counts[name]:
            values = {"count": counts[name], "format": target, "names": ", ".join(bundle.fields)}
            lost[name] = problem(f"not_held_{name}", lang, **values)
    if target in ("lab", "flagembedding"):
        without = sum(not example.neg for example in bundle.examples if example.pos)
        if without and any(example.neg for example in bundle.examples):
            lost["some_negatives"] = problem("some_negatives", lang, count=without)
    return lost


def sentence(found: Problem, lang: str) -> str:
    """Cause and remedy in one sentence."""
    return {"en": "; ", "zh": "；"}[lang].join([found.cause, found.remedy])


def _counts(bundle: Bundle) -> Counter:
    """How often each thing occurs that some format cannot hold."""
    counts = Counter(documents=len(bundle.documents), fields=len(bundle.fields))
    for passage in bundle.documents:
        counts.update(titles=bool(passage.title), ids=bool(passage.id))
    for example in bundle.examples:
        counts.update(_example_counts(example))
    counts["repeated_queries"] = len(bundle.examples) - len({example.query for example in bundle.examples})
    return counts


def _example_counts(example: Example) -> dict[str, int]:
    passages = example.pos + example.neg
    scores = [passage.score for passage in passages if passage.score is not None]
    sides = [[passage.whole for passage in side] for side in (example.pos, example.neg)]
    whole_numbers = all(score == int(score) for score in scores)
    return {
        "prompts": bool(example.prompt),
        "scores": bool(scores) and not whole_numbers,
        "grades": bool(scores) and whole_numbers,
        "binary_scores": bool(scores) and set(scores) <= {0, 1},
        "ids": bool(example.id) + sum(bool(passage.id) for passage in passages),
        "titles": sum(bool(passage.title) for passage in passages),
        "negatives_kept": len(example.neg),
        "queries": not example.pos,
        "contradictions": len(set(sides[0]) & set(sides[1])),
        "repeats": sum(len(texts) - len(set(texts)) for texts in sides),
        "split": bool(scores) and _split_is_lost(example),
    }


def _split_is_lost(example: Example) -> bool:
    """True when a label does not tell the side: a positive of 0 or less, a negative above 0."""
    pos = any(passage.score is not None and passage.score <= 0 for passage in example.pos)
    return pos or any(passage.score is not None and passage.score > 0 for passage in example.neg)


def prepared(bundle: Bundle, target: str) -> Bundle:
    """The bundle as the target's writer needs it: without what has no place there, with ids where the format wants them."""
    if "titles" in LOSES[target]:
        bundle = _mapped(bundle, lambda passage: replace(passage, text=passage.whole, title=""))
    if "queries" in LOSES[target]:
        bundle = replace(bundle, examples=[example for example in bundle.examples if example.pos])
    if target not in _WANTS_IDS:
        return bundle
    bundle = _mapped(bundle, _Ids(bundle))
    taken = {example.id for example in bundle.examples}
    numbers = (
        name for name in (f"q{number}" for number in range(1, 2 * len(bundle.examples) + 2)) if name not in taken
    )
    return replace(bundle, examples=[replace(e, id=e.id or next(numbers)) for e in bundle.examples])


def _mapped(bundle: Bundle, change) -> Bundle:
    """The bundle with every passage changed."""
    examples = [
        replace(example, pos=tuple(map(change, example.pos)), neg=tuple(map(change, example.neg)))
        for example in bundle.examples
    ]
    return replace(bundle, examples=examples, documents=[change(passage) for passage in bundle.documents])


class _Ids:
    """Gives each passage without an id one of its own, the same for the same title and text."""

    def __init__(self, bundle: Bundle):
        passages = [p for example in bundle.examples for p in example.pos + example.neg] + bundle.documents
        self.taken = {passage.id for passage in passages}
        self.known = {(passage.title, passage.text): passage.id for passage in passages if passage.id}
        self.number = 0

    def __call__(self, passage: Passage) -> Passage:
        if passage.id:
            return passage
        key = (passage.title, passage.text)
        while key not in self.known:
            self.number += 1
            if (name := f"d{self.number}") not in self.taken:
                self.known[key] = name
        return replace(passage, id=self.known[key])
