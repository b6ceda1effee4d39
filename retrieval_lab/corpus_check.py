"""Proves that the shipped corpus is hard in the right way: not trivial, not leaky, not templated, and worth training on.
`retrieval-lab corpus-check`; its table stands in the data card. Lesson 00 shows part of it.
"""

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from retrieval_lab import corpora, lexical, metrics
from retrieval_lab.corpora import Collection

SHINGLE = {"en": 8, "zh": 13}  # words, characters: long enough that sharing one is copying
RUN = {"en": 6, "zh": 12}


def run(quick: bool = False):
    """All checks as a DataFrame with the columns check, lang, value, bound, ok.

    Parameters
    ----------
    quick : leave out the two checks that encode and train (minutes on a CPU)

    Source: data/README.md explains each row.
    """
    import pandas as pd

    rows = _same_in_both_languages()
    for lang in ("en", "zh"):
        splits = {split: corpora.load("city_services", lang, split) for split in ("train", "dev", "test")}
        for check in (_sizes, _bm25, _overlap, _leaks, _templates, _shortcuts, *([] if quick else [_dense])):
            rows += [(name, lang, value, bound, bool(ok)) for name, value, bound, ok in check(splits)]
    return pd.DataFrame(rows, columns=["check", "lang", "value", "bound", "ok"])


def _between(name: str, value: float, low: float, high: float):
    return name, round(float(value), 3), f"{low} … {high}", low <= value <= high


def _same_in_both_languages() -> list[tuple]:
    different = 0
    for split in ("train", "dev", "test"):
        en, zh = (corpora.load("city_services", lang, split) for lang in ("en", "zh"))
        different += (list(en.corpus) != list(zh.corpus)) + (en.qrels != zh.qrels)
    return [("splits whose ids or grades differ between languages", "both", different, "0", different == 0)]


def _sizes(splits: dict[str, Collection]):
    test = splits["test"]
    lengths = [text_length(text.split("\n", 1)[1], test.lang) for text in test.corpus.values()]
    families = {doc_id.split(".")[0] for doc_id in test.corpus}
    low, high = (80, 200) if test.lang == "en" else (120, 350)
    yield "passages", len(test.corpus), ">= 480", len(test.corpus) >= 480
    yield "families", len(families), ">= 48", len(families) >= 48
    yield "shortest passage", min(lengths), f">= {low}", min(lengths) >= low
    yield "longest passage", max(lengths), f"<= {high}", max(lengths) <= high
    for split, least in (("train", 700), ("dev", 130), ("test", 350)):
        yield f"{split} queries", len(splits[split].queries), f">= {least}", len(splits[split].queries) >= least
    texts = Counter(text.lower() for collection in splits.values() for text in collection.queries.values())
    repeated = sum(count - 1 for count in texts.values())
    yield "query texts that occur twice", repeated, "0", repeated == 0


def text_length(text: str, lang: str) -> int:
    """Words in English; Chinese characters (and Latin words or numbers as one each) in Chinese.

    >>> text_length("Line 3 runs", "en"), text_length("3 路电车", "zh")
    (3, 4)
    """
    return len(text.split()) if lang == "en" else len(re.findall(r"[\u4e00-\u9fff]|[A-Za-z0-9]+", text))


def _bm25(splits: dict[str, Collection]):
    test = splits["test"]
    bm25 = lexical.BM25(test)

    def score(collection: Collection, metric: str) -> float:
        return metrics.evaluate(collection.qrels, bm25.search(collection.queries, 100), [metric], relevant=3)[metric]

    yield _between("BM25 nDCG@10", score(test, "nDCG@10"), 0.40, 0.72)
    yield _between("BM25 nDCG@10, paraphrases", score(test.where(type="paraphrase"), "nDCG@10"), 0.0, 0.40)
    words = test.where(type=lambda kind: kind in ("keyword", "plain"))
    yield _between("BM25 Recall@100 of full answers, keyword and plain", score(words, "Recall@100"), 0.90, 1.0)


def _overlap(splits: dict[str, Collection]):
    test = splits["test"]
    shares = {query_id: term_share(test, query_id) for query_id in test.queries}
    yield _between("query terms found in the passage", np.mean(list(shares.values())), 0.0, 0.60)
    chosen = [shares[query_id] for query_id in test.where(type="paraphrase").queries]
    yield _between("query terms found in the passage, paraphrase", np.mean(chosen), 0.0, 0.20)


def term_share(collection: Collection, query_id: str) -> float:
    """Share of a query's content words that its best passage has; function words do not count.

    The best passage is the one with the highest grade that shares most.
    """
    terms = {word for word in lexical.tokenise(collection.queries[query_id]) if word not in FUNCTION_WORDS}
    grades = collection.qrels[query_id]
    best = [doc_id for doc_id, grade in grades.items() if grade == max(grades.values())]
    found = [len(terms & set(lexical.tokenise(collection.corpus[doc_id]))) for doc_id in best]
    return max(found) / max(1, len(terms))


# What a question has and a passage need not: the English list of bm25s is already gone after `lexical.tokenise`.
FUNCTION_WORDS = frozenset(
    "i me my we our you your he she do doe did can could may must would should how what which who where when whi have has had "  # noqa: SIM905
    "get got need want ani some one more much mani from up out down about without onli just still also "
    "的 了 吗 呢 吧 我 你 他 她 我们 这 那 哪 哪个 哪里 哪儿 什么 怎么 多少 几 是 不是 有 没有 没 不 也 都 就 还 能 可以 会 要 想 得 到 在 去 来 上 下 里 "
    "把 被 给 让 跟 和 与 或 从 对 用 个 一 一个 两 如果 只 才 又 再 点 些 时候 自己 为 过 着 地 等 该 做 拿 后 前 中 好 别 一下 怎样".split()
)


def _leaks(splits: dict[str, Collection]):
    test = splits["test"]
    family_split = {details["family"]: details["split"] for c in splits.values() for details in c.details.values()}
    shingles = {doc: grams(text, test.lang, SHINGLE[test.lang]) for doc, text in test.corpus.items()}
    train = [doc for doc in shingles if family_split[doc.split(".")[0]] == "train"]
    owners = defaultdict(set)
    for doc in train:
        for gram in shingles[doc]:
            owners[gram].add(doc)
    worst = 0.0
    for doc in (doc for doc in shingles if family_split[doc.split(".")[0]] == "test"):
        shared = Counter(owner for gram in shingles[doc] for owner in owners.get(gram, ()))
        worst = max([worst, *(count / max(1, len(shingles[doc])) for count in shared.values())])
    yield _between(f"largest {SHINGLE[test.lang]}-gram overlap of a test passage with a train passage", worst, 0.0, 0.3)


def grams(text: str, lang: str, n: int) -> set[tuple]:
    """All runs of n words (English) or n Chinese characters.

    >>> sorted(grams("a b c", "en", 2))
    [('a', 'b'), ('b', 'c')]
    """
    tokens = re.findall(r"\w+", text.lower()) if lang == "en" else re.findall(r"[\u4e00-\u9fff]", text)
    return {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}


def _templates(splits: dict[str, Collection]):
    test = splits["test"]
    names = sorted((row[f"official_{test.lang}"] for row in corpora.glossary()), key=len, reverse=True)
    pattern = re.compile("|".join(re.escape(name) for name in names), re.IGNORECASE)
    counts = Counter()
    for text in test.corpus.values():
        # Official names and addresses are meant to recur: a run ends where one begins.
        counts.update(set().union(*(grams(piece, test.lang, RUN[test.lang]) for piece in pattern.split(text))))
    gram, most = counts.most_common(1)[0]
    shown = (" " if test.lang == "en" else "").join(gram)
    yield f"passages sharing one run of {RUN[test.lang]} ({shown!r})", most, "<= 4", most <= 4
    nicknames = [row for row in corpora.glossary() if _uses(row[f"nickname_{test.lang}"], test)]
    yield "nicknames that a passage explains or uses", len(nicknames), "0", not nicknames


def _uses(nickname: str, collection: Collection) -> bool:
    head = nickname.removeprefix("the ")
    pattern = re.compile(rf"\b{re.escape(head)}\b" if collection.lang == "en" else re.escape(head), re.IGNORECASE)
    return any(pattern.search(text) for text in collection.corpus.values())


def _shortcuts(splits: dict[str, Collection]):
    """Rankers that ignore the query: the best of them must stay near what drawing at random gives."""
    test = splits["test"]
    docs = list(test.corpus)
    lengths = {doc: len(text) for doc, text in test.corpus.items()}
    rankers = {
        "longest first": {doc: lengths[doc] for doc in docs},
        "shortest first": {doc: -lengths[doc] for doc in docs},
        "in the order of ids": {doc: -place for place, doc in enumerate(sorted(docs))},
    }
    for name, scores in rankers.items():
        top = dict(sorted(scores.items(), key=lambda item: -item[1])[:100])
        run = {query_id: top for query_id in test.queries}
        value = metrics.evaluate(test.qrels, run, ["nDCG@10"])["nDCG@10"]
        yield _between(f"nDCG@10 of ranking passages {name}", value, 0.0, 0.05)


N_PAIRS = 320  # of the 840: enough for a clear gain, in a third of the minutes


def _dense(splits: dict[str, Collection]):
    """Zero-shot leaves room; training on a third of the pairs gains more than its interval; on shuffled pairs it does not."""
    from retrieval_lab import demo, embedding, search
    from retrieval_lab.profiles import current

    test, profile = splits["test"], current()
    name, config = profile.encoder(test.lang), demo.config(profile, test.lang, Path("runs/corpus-check"))

    def ndcg(model) -> np.ndarray:
        run = search.Dense(model, test).search(test.queries, 100)
        return metrics.evaluate(test.qrels, run, ["nDCG@10"], per_query=True)["nDCG@10"]

    before = ndcg(embedding.load(name))
    e5 = before if name == "e5-small" else ndcg(embedding.load("e5-small"))
    yield _between("zero-shot e5-small nDCG@10", e5.mean(), 0.0, 0.85)
    data = demo.training_data(test.lang).shuffle(seed=0).select(range(N_PAIRS)).select_columns(["query", "positive"])
    shuffled = data.remove_columns("positive").add_column("positive", _shuffle(data["positive"]))
    for label, pairs, helps in (("pairs", data, True), ("shuffled pairs", shuffled, False)):
        after = ndcg(embedding.train(embedding.load(name), pairs, config))
        low, high = metrics.paired_bootstrap(before, after)
        check = f"gain of {name} from {len(pairs)} {label}, lower end of the 95 % interval (upper {high:+.3f})"
        yield check, round(low, 3), "> 0" if helps else "<= 0", (low > 0) == helps


def _shuffle(values) -> list:
    return [values[i] for i in np.random.default_rng(0).permutation(len(values))]
