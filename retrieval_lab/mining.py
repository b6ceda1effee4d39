"""Hard negatives from a corpus, and the filters that keep unlabelled answers out of them.
Taught in lesson 01b; `retrieval-lab mine` does the same for a training file.
"""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval_lab import corpora, embedding, formats, lexical
from retrieval_lab.corpora import Collection
from retrieval_lab.data_collections import jsonl
from retrieval_lab.profiles import say

PROMPT = "prompt_for_query"  # column of rows that bring their own prompt


@dataclass(frozen=True)
class Filters:
    """Which candidates may become negatives; ``None`` switches a filter off.

    A candidate's cosine with the query, by the mining model, must be at most ``percent`` of the positive's and at most the
    positive's less ``margin``. What is left is shown to ``judge``, if there is one, and kept where its score is below ``judge_below``.

    Raises
    ------
    ValueError
        If ``percent`` is not above 0 and at most 2.
    """

    skip: int = 0  # best candidates of each search that are never taken, by neither search; answers are not counted
    depth: int = 50  # candidates of each search
    percent: float | None = 0.95  # Moreira et al. 2024 (NV-Retriever), section 3.2: TopK-PercPos
    margin: float | None = None  # in cosine
    judge: Callable[[list[tuple[str, str]]], list[float]] | None = None  # e.g. a CrossEncoder's predict
    judge_below: float = 0.1  # Qu et al. 2021 (RocketQA), section 4.1.3, for scores from 0 to 1

    def __post_init__(self):
        if self.percent is not None and not 0 < self.percent <= 2:
            raise ValueError(
                say(
                    en=f"percent={self.percent} is a share of the positive's cosine, above 0 and at most 2: write 0.95, not 95; None switches it off",
                    zh=f"percent={self.percent} 是相对正例余弦的比例，要大于 0、不超过 2：写 0.95，不写 95；None 表示不过滤",
                )
            )

    def limit(self, positive: float) -> float:
        """The largest cosine that a negative may have beside a positive's.

        >>> Filters(percent=0.5, margin=0.1).limit(0.8)
        0.4
        """
        share = np.inf if self.percent is None else positive - abs(positive) * (1 - self.percent)
        return min(share, np.inf if self.margin is None else positive - self.margin)


def mine_hard_negatives(model, data, corpus: list[str], n: int = 1, *, filters: Filters | None = None, known=None):
    """Training triplets: to each row of pairs, the ``n`` nearest passages that are not known or likely to be answers.

    Candidates are the best of BM25 and of the model, so that both kinds of mistake are found. Compared with the library's
    ``util.mine_hard_negatives`` this adds BM25's candidates, a judge of any kind, and answers that are known but not in the rows.

    Parameters
    ----------
    model : SentenceTransformer that finds and scores candidates; with strict filters a good one pays off
    data : datasets.Dataset with ``query, positive``; a ``prompt_for_query`` stands in place of the model's query prompt
    corpus : passages to choose from; positives that it lacks are added
    n : negatives a row; a row for which the filters leave fewer is left out, and a warning says how many were
    filters : see `Filters`
    known : query -> further texts that are no negatives for it, e.g. partial answers (`answers` makes it from judgements)

    Returns
    -------
    datasets.Dataset with ``query, positive, negative_1 .. negative_n``, hardest first; the rows keep their ``prompt_for_query``

    Raises
    ------
    ValueError
        If n, depth or skip is out of range, a column is missing, or the filters leave no row.

    Source: Karpukhin et al. 2020, section 3.2 (BM25); Xiong et al. 2021 (the model's own); Moreira et al. 2024 (filters); lesson 01b.
    """
    from datasets import Dataset

    filters = filters or Filters()
    _check(data, n, filters)
    columns = [name for name in ("query", "positive", PROMPT) if name in data.column_names]
    positives = known_answers(data, known)
    texts = list(dict.fromkeys([*corpus, *data["positive"]]))
    asked = list(zip(data["query"], data[PROMPT] if PROMPT in columns else [None] * len(data), strict=True))
    found = _candidates(model, asked, positives, texts, filters)
    kept = []
    for key, values in zip(asked, zip(*(data[name] for name in columns), strict=True), strict=True):
        query, positive = values[:2]
        limit = filters.limit(found[key][positive])
        allowed = [t for t, cosine in found[key].items() if cosine <= limit and t not in positives[query]]
        chosen = _judged(query, allowed, n, filters)
        if len(chosen) == n:
            hard = {f"negative_{i}": text for i, text in enumerate(chosen, 1)}
            kept.append(dict(zip(columns, values, strict=True)) | hard)
    _report(len(kept), len(data), n)
    return Dataset.from_list(kept)


def known_answers(data, known: dict[str, set[str]] | None = None) -> dict[str, set[str]]:
    """Of each query, the positives of all its rows and what else is known to answer it."""
    found: dict[str, set[str]] = {}
    for query, positive in zip(data["query"], data["positive"], strict=True):
        found.setdefault(query, set(known.get(query, ())) if known else set()).add(positive)
    return found


def answers(collection: Collection) -> dict[str, set[str]]:
    """Query -> every document that answers it, from the grade that counts as relevant (`Collection.relevant`) up.

    Queries of the same text share their answers. A judged document that the corpus lacks has no text that could be mined, so it
    is left out; so are the judgements of a query that the collection lacks.
    """
    found: dict[str, set[str]] = {}
    for query_id, judged in collection.qrels.items():
        if query_id in collection.queries:
            relevant = [d for d, grade in judged.items() if grade >= collection.relevant and d in collection.corpus]
            found.setdefault(collection.queries[query_id], set()).update(collection.corpus[d] for d in relevant)
    return found


def _check(data, n: int, filters: Filters) -> None:
    if not {"query", "positive"} <= set(data.column_names) or not len(data):
        raise ValueError(
            say(
                en=f"mining needs rows with columns query, positive; got {len(data)} rows with {data.column_names}",
                zh=f"负例挖掘需要 query、positive 两列；现在是 {len(data)} 行，列为 {data.column_names}",
            )
        )
    if n < 1 or not 0 <= filters.skip <= filters.depth - n:
        raise ValueError(
            say(
                en=f"n={n}, skip={filters.skip}, depth={filters.depth}; use n >= 1, skip >= 0 and a depth of at least skip + n",
                zh=f"n={n}，skip={filters.skip}，depth={filters.depth}；要求 n >= 1、skip >= 0，depth 至少为 skip + n",
            )
        )


def _candidates(
    model, asked: list[tuple[str, str | None]], positives: dict[str, set[str]], texts: list[str], filters: Filters
) -> dict[tuple[str, str | None], dict[str, float]]:
    """(Query, its prompt) -> candidate -> cosine, from the nearest on; the query's own answers are among them."""
    docs = embedding.encode(model, texts)  # (n_texts, dim)
    places = {text: place for place, text in enumerate(texts)}
    words = lexical.BM25(Collection("mining", "", "", "", dict(enumerate(texts)), {}, {}))
    lexical_run = words.search({query: query for query in positives}, filters.depth)
    found = {}
    for (query, prompt), vector in _query_vectors(model, asked).items():
        cosines = docs @ vector  # one query at a time: the matrix of all would not fit for a large corpus
        answers = {places[text] for text in positives[query] if text in places}
        nearest = np.argsort(-cosines, kind="stable")[: filters.depth].tolist()
        window = _window(nearest, list(lexical_run[query]), answers, filters.skip)
        found[query, prompt] = {texts[i]: float(cosines[i]) for i in sorted(window, key=lambda i: (-cosines[i], i))}
    return found


def _query_vectors(model, asked: list[tuple[str, str | None]]) -> dict[tuple[str, str | None], np.ndarray]:
    """The vector of each query after its row's prompt; None is the model's own."""
    groups: dict[str | None, list[str]] = {}
    for query, prompt in dict.fromkeys(asked):
        groups.setdefault(prompt, []).append(query)
    return {
        (query, prompt): vector
        for prompt, queries in groups.items()
        for query, vector in zip(queries, embedding.encode(model, queries, "query", prompt=prompt), strict=True)
    }


def _window(nearest: list[int], lexical_hits: list[int], answers: set[int], skip: int) -> set[int]:
    """The candidates of both searches, less the best ``skip`` of each, with the answers.

    >>> sorted(_window([3, 0, 1, 2], [1, 4, 0], answers={3}, skip=1))  # 0 and 1 are skipped, 0 though BM25 has it lower
    [2, 3, 4]
    """
    searches = [[place for place in found if place not in answers] for found in (nearest, lexical_hits)]
    skipped = {place for found in searches for place in found[:skip]}
    return ({place for found in searches for place in found} - skipped) | answers


def _judged(query: str, texts: list[str], n: int, filters: Filters) -> list[str]:
    """The first ``n`` that the judge lets pass; it is asked about no more than it needs, n at a time."""
    if filters.judge is None:
        return texts[:n]
    kept: list[str] = []
    for start in range(0, len(texts), n):
        asked = texts[start : start + n]
        scores = filters.judge([(query, text) for text in asked])
        kept += [text for text, score in zip(asked, scores, strict=True) if score < filters.judge_below]
        if len(kept) >= n:
            break
    return kept[:n]


def _report(n_kept: int, n_rows: int, n: int) -> None:
    if n_kept == 0:
        raise ValueError(
            say(
                en=f"the filters leave none of {n_rows} rows with {n} negatives; raise `depth` or `percent`, or lower `margin`",
                zh=f"过滤之后，{n_rows} 行里没有一行凑得够 {n} 个负例；调大 depth 或 percent，或调小 margin",
            )
        )
    if n_kept < n_rows:
        warnings.warn(
            say(
                en=f"{n_rows - n_kept} of {n_rows} rows left out: the filters leave them fewer than {n} negatives",
                zh=f"去掉了 {n_rows} 行中的 {n_rows - n_kept} 行：过滤之后凑不够 {n} 个负例",
            ),
            stacklevel=3,
        )


def write(data, path: str | Path) -> None:
    """Rows of `mine_hard_negatives` as a training file of format "triplet", one JSON object a line."""
    negatives = [name for name in data.column_names if name.startswith("negative_")]
    rows = [{"query": r["query"], "pos": [r["positive"]], "neg": [r[name] for name in negatives]} for r in data]
    if PROMPT in data.column_names:
        rows = [row | {PROMPT: text} for row, text in zip(rows, data[PROMPT], strict=True)]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(jsonl(rows), encoding="utf-8")


def judge(name: str | Path) -> Callable[[list[tuple[str, str]]], list[float]]:
    """A reranker as `Filters.judge`: the probability that a passage answers.

    Parameters
    ----------
    name : a saved reranker, or what `models.resolve` takes

    Source: Qu et al. 2021 (RocketQA), denoised hard negatives; lesson 01b.
    """
    from retrieval_lab import distill

    model, score = distill.teacher(name)
    return lambda pairs: (1 / (1 + np.exp(-np.asarray(score(model, pairs), float)))).tolist()


def mine_file(
    file: str | Path, output: str | Path, model: str, n: int, *, corpus=None, filters: Filters | None = None
) -> int:
    """`mine_hard_negatives` from a training file to a training file; what `retrieval-lab mine` runs.

    Parameters
    ----------
    file : lines of query and pos; negatives that it has are not read
    output : lines of query, pos and neg
    model : what `embedding.load` takes
    corpus : a collection's name or folder, see `corpora.load`, or JSON lines with ``text``; None: the file's own positives
    n, filters : see `mine_hard_negatives`

    Returns
    -------
    the number of lines written

    Raises
    ------
    ValueError
        If a line of the corpus has no text, or as `mine_hard_negatives`.
    """
    texts = [] if corpus is None else _texts(corpus)
    mined = mine_hard_negatives(embedding.load(model), formats.read(file, "pair"), texts, n, filters=filters)
    write(mined, output)
    return len(mined)


def _texts(corpus: str | Path) -> list[str]:
    if not Path(corpus).is_file():
        return list(corpora.load(corpus).corpus.values())
    texts = []
    for number, line in enumerate(Path(corpus).read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            try:
                texts.append(json.loads(line)["text"])
            except (ValueError, KeyError, TypeError):
                raise ValueError(
                    say(
                        en=f'{corpus}:{number}: {line[:60]} is no JSON object with "text"; mend the line',
                        zh=f'{corpus}:{number}：{line[:60]} 不是带 "text" 的 JSON 对象；改好这一行',
                    )
                ) from None
    return texts
