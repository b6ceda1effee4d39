"""What the data doctor counts: lengths, labels, languages, and how much a model's maximum length cuts off.
Used by `doctor`; taught in lesson 07. Histograms are plain dictionaries: part -> bin -> count.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from retrieval_lab.data_messages import word
from retrieval_lab.doctor_checks import Finding, Place, Source, Text, finding, language, normal

Parts = dict[str, list[tuple[Place, str]]]
Histogram = dict[str, dict[str, int]]


def parts_of(texts: list[Text], sources: list[Source]) -> Parts:
    """Texts by what they are: "query" (with its prompt, one a line; one a query in flat files), "positive", "negative", "document"."""
    parts: Parts = defaultdict(list)
    for source in sources:
        queries = {(line.prompt, normal(line.query)): line for line in reversed(source.lines)}
        lines = reversed(queries.values()) if source.shape in ("flat", "list") else source.lines
        parts["query"] += [(Place(source.file, line.line), line.prompt + line.query) for line in lines]
    for text in texts:
        parts[text.role].append((text.place, text.text))
    return dict(parts)


def bins(numbers: Iterable[int]) -> dict[str, int]:
    """Counts in bins that double: 0, 1, 2-3, 4-7, 8-15 ...; empty bins in between are kept.

    >>> bins([1, 4, 5, 9])
    {'1': 1, '2-3': 0, '4-7': 2, '8-15': 1}
    """
    counts = Counter(number.bit_length() for number in numbers)
    if not counts:
        return {}
    names = {0: "0", 1: "1"} | {bits: f"{2 ** (bits - 1)}-{2**bits - 1}" for bits in range(2, max(counts) + 1)}
    return {names[bits]: counts[bits] for bits in range(min(counts), max(counts) + 1)}


def label_bins(scores: list[float]) -> dict[str, int]:
    """Counts of each label when there are at most ten, else of ten equal steps between the lowest and the highest.

    >>> label_bins([0, 1, 1])
    {'0': 1, '1': 2}
    """
    if not scores:
        return {}
    if len(set(scores)) <= 10:
        return {f"{score:g}": count for score, count in sorted(Counter(scores).items())}
    low, width = min(scores), (max(scores) - min(scores)) / 10
    steps = Counter(min(int((score - low) / width), 9) for score in scores)
    return {f"{low + width * step:.3g}..{low + width * (step + 1):.3g}": steps[step] for step in range(10)}


def histograms(texts: list[Text], sources: list[Source]) -> dict[str, Histogram]:
    """Length in characters, labels, texts a query, and languages."""
    parts = parts_of(texts, sources)
    a_query: dict[str, Counter] = defaultdict(Counter)
    for text in texts:
        a_query[text.role][text.query_key] += 1
    return {
        "length_chars": {part: bins(len(text) for _, text in found) for part, found in parts.items()},
        "labels": {"labels": _labels(texts)},
        "documents_per_query": {role: bins(counts.values()) for role, counts in a_query.items()},
        "languages": {part: dict(Counter(language(text) for _, text in found)) for part, found in parts.items()},
    }


def _labels(texts: list[Text]) -> dict[str, int]:
    """Scores where texts have them, else how many are positive and negative."""
    scores = [text.score for text in texts if text.score is not None]
    return label_bins(scores) if scores else dict(Counter(text.role for text in texts))


def languages(texts: list[Text], sources: list[Source], lang: str) -> list[Finding]:
    """One finding a part whose texts are in several languages; its places are those of the rarer ones."""
    found = []
    for part, items in parts_of(texts, sources).items():
        spoken = [(place, language(text)) for place, text in items]
        counts = Counter(name for _, name in spoken).most_common()
        shares = {"en": ", ", "zh": "、"}[lang].join(f"{word(name, lang)} {count}" for name, count in counts)
        rarer = [place for place, name in spoken if name != counts[0][0]]
        found += finding("languages", "info", rarer, lang, field=word(part, lang), shares=shares)
    return found


def token_counts(texts: list[str], tokenizer: Callable) -> list[int]:
    """Tokens of each text, special tokens included when the tokenizer is a transformers one.

    >>> token_counts(["a b", "c"], str.split)
    [2, 1]
    """
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        return [len(ids) for ids in tokenizer(texts, truncation=False, verbose=False)["input_ids"]] if texts else []
    return [len(tokenizer(text)) for text in texts]


def truncation(
    texts: list[Text], sources: list[Source], tokenizer: Callable, max_length: int, lang: str
) -> tuple[list[Finding], dict[str, Histogram]]:
    """A finding for each part with texts longer than ``max_length`` tokens, and the histograms of tokens and of what is cut.

    Where a kind is graded, query and document are one input of the reranker: "pair" counts both, the shared special tokens once.
    """
    parts = parts_of(texts, sources)
    lengths = {part: token_counts([text for _, text in found], tokenizer) for part, found in parts.items()}
    places = {part: [place for place, _ in found] for part, found in parts.items()}
    if graded := {source.file for source in sources if source.kind == "graded"}:
        places["pair"], lengths["pair"] = _pair_lengths(
            [text for text in texts if text.place.file in graded], tokenizer
        )
    findings, cut = [], {}
    for part, counts in lengths.items():
        long = [place for place, count in zip(places[part], counts, strict=True) if count > max_length]
        cut[part] = {"texts": len(counts), "truncated": len(long), "longest": max(counts, default=0)}
        values = {"share": f"{len(long)}/{len(counts)}", "percent": f"{len(long) / max(len(counts), 1):.1%}"}
        values |= {"field": word(part, lang), "max_length": max_length, "longest": cut[part]["longest"]}
        findings += finding("truncation", "warning", long, lang, **values)
    return findings, {"length_tokens": {part: bins(counts) for part, counts in lengths.items()}, "truncation": cut}


def _pair_lengths(texts: list[Text], tokenizer: Callable) -> tuple[list[Place], list[int]]:
    queries, documents = [text.query for text in texts], [text.text for text in texts]
    places = [text.place for text in texts]
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        return places, [len(ids) for ids in tokenizer(queries, documents, truncation=False, verbose=False)["input_ids"]]
    counts = zip(token_counts(queries, tokenizer), token_counts(documents, tokenizer), strict=True)
    return places, [query + document for query, document in counts]
