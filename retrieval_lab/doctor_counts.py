"""What the data doctor counts: lengths, labels, languages, and how much a model's maximum length cuts off.
Used by `doctor`; taught in lesson 07. Histograms are plain dictionaries: part -> bin -> count.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from retrieval_lab.data_report import word
from retrieval_lab.doctor_checks import Finding, Place, Stock, Text, finding, language, normal

Parts = dict[str, list[tuple[Place, str]]]
Histogram = dict[str, dict[str, int]]


def parts_of(stock: Stock) -> Parts:
    """Texts by what they are: "query" (with its prompt, one a line; one a query in flat files), "positive", "negative", "document"."""
    parts, seen = defaultdict(list), set()
    flat = stock.files(shape="flat") | stock.files(shape="list")
    for place, line in stock.lines:
        key = (place.file, line.prompt, normal(line.query))
        if place.file not in flat or key not in seen:
            parts["query"].append((place, line.prompt + line.query))
        seen.add(key)
    for text in stock.texts:
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
    if len(set(scores)) <= 10:
        return {f"{score:g}": count for score, count in sorted(Counter(scores).items())}
    low, width = min(scores), (max(scores) - min(scores)) / 10
    steps = Counter(min(int((score - low) / width), 9) for score in scores)
    return {f"{low + width * step:.3g}..{low + width * (step + 1):.3g}": steps[step] for step in range(10)}


def histograms(stock: Stock) -> dict[str, Histogram]:
    """Length in characters, labels (or how many texts are positive and negative), texts a query, and languages."""
    parts = parts_of(stock)
    a_query: dict[str, Counter] = defaultdict(Counter)
    for text in stock.texts:
        a_query[text.role][text.query_key] += 1
    scores = [text.score for text in stock.texts if text.score is not None]
    return {
        "length_chars": {part: bins(len(text) for _, text in found) for part, found in parts.items()},
        "labels": {"labels": label_bins(scores) if scores else dict(Counter(text.role for text in stock.texts))},
        "documents_per_query": {role: bins(counts.values()) for role, counts in a_query.items()},
        "languages": {part: dict(Counter(language(text) for _, text in found)) for part, found in parts.items()},
    }


def languages(stock: Stock) -> list[Finding]:
    """One finding a part whose texts are in several languages; its places are those of the rarer ones."""
    found = []
    for part, items in parts_of(stock).items():
        spoken = [(place, language(text)) for place, text in items]
        counts = Counter(name for _, name in spoken).most_common()
        shares = word("comma").join(f"{word(name)} {count}" for name, count in counts)
        rarer = [place for place, name in spoken if name != counts[0][0]]
        found += finding("languages", "info", rarer, field=word(part), shares=shares)
    return found


def token_counts(texts: list[str], tokenizer: Callable, seconds: list[str] | None = None) -> list[int]:
    """Tokens of each text, or of each with a second one; special tokens included when the tokenizer is a transformers one.

    >>> token_counts(["a b", "c"], str.split)
    [2, 1]
    """
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        return (
            [len(ids) for ids in tokenizer(texts, seconds, truncation=False, verbose=False)["input_ids"]]
            if texts
            else []
        )
    both = zip(texts, seconds or [""] * len(texts), strict=True)
    return [len(tokenizer(text)) + (len(tokenizer(second)) if seconds else 0) for text, second in both]


def truncation(stock: Stock, tokenizer: Callable, max_length: int) -> tuple[list[Finding], dict[str, Histogram]]:
    """A finding for each part with texts longer than ``max_length`` tokens, and the histograms of tokens and of what is cut.

    Where a kind is graded, query and document are one input of the reranker: "pair" counts both, the shared special tokens once.
    """
    graded = stock.files(kind="graded")
    pairs: list[Text] = [text for text in stock.texts if text.place.file in graded]
    parts = {part: tuple(zip(*found, strict=True)) for part, found in parts_of(stock).items()}
    lengths = {part: (places, token_counts(list(texts), tokenizer)) for part, (places, texts) in parts.items()}
    if pairs:
        counts = token_counts([text.query for text in pairs], tokenizer, [text.text for text in pairs])
        lengths["pair"] = ([text.place for text in pairs], counts)
    findings, cut = [], {}
    for part, (places, counts) in lengths.items():
        long = [place for place, count in zip(places, counts, strict=True) if count > max_length]
        cut[part] = {"texts": len(counts), "truncated": len(long), "longest": max(counts)}
        values = {"share": f"{len(long)}/{len(counts)}", "percent": f"{len(long) / len(counts):.1%}"}
        values |= {"field": word(part), "max_length": max_length, "longest": max(counts)}
        findings += finding("truncation", "warning", long, **values)
    tokens = {part: bins(counts) for part, (_, counts) in lengths.items()}
    return findings, {"length_tokens": tokens, "truncation": cut}
