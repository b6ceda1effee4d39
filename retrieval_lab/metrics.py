"""Ranking metrics through ir_measures, and the two tests that tell a difference from luck.
Taught in lesson 00.
"""

import numpy as np

from retrieval_lab.profiles import say

DEFAULT = ("nDCG@10", "MRR@10", "Recall@10", "Recall@100")
PICKS = 1_000_000  # numbers that `paired_bootstrap` holds at a time


def evaluate(qrels: dict, run: dict, metrics=DEFAULT, per_query: bool = False, relevant: int = 1) -> dict:
    """Score a run against judgements.

    Parameters
    ----------
    qrels : query_id -> doc_id -> grade
    run : query_id -> doc_id -> score; a judged query that the run lacks counts as zero
    metrics : names such as "nDCG@10", "MRR@10", "MAP", "Recall@100", "Hit@5"
    per_query : return arrays with one value a query, in the order of ``qrels``, instead of means
    relevant : lowest grade that the binary metrics (all but nDCG) count as relevant; `Collection.relevant` knows it

    Raises
    ------
    ValueError
        If a metric is not known to ir_measures, a query of the run has no judgements, there is no query, or a score is NaN.

    Source: Järvelin & Kekäläinen 2002 (nDCG, here with linear gains, as trec_eval); lesson 00.

    >>> evaluate({"q": {"a": 1, "b": 1}}, {"q": {"x": 2.0, "a": 1.0}}, ["MRR@10", "Recall@10"])
    {'MRR@10': 0.5, 'Recall@10': 0.5}
    """
    import ir_measures

    if unknown := [query_id for query_id in run if query_id not in qrels]:
        raise ValueError(
            say(
                en=f"the run has query {unknown[0]!r} ({len(unknown)} in all) without judgements; search only judged queries",
                zh=f"检索结果里的查询 {unknown[0]!r}（共 {len(unknown)} 个）没有标注；只检索有标注的查询",
            )
        )
    if not qrels:
        raise ValueError(
            say(
                en="there is no judged query, so there is nothing to average; was the collection filtered to nothing?",
                zh="没有一个带标注的查询，无从求平均；是不是把测试集筛空了？",
            )
        )
    measures = {name: _measure(name, relevant) for name in metrics}
    place = {query_id: i for i, query_id in enumerate(qrels)}
    values = {name: np.zeros(len(qrels)) for name in metrics}
    for value in ir_measures.iter_calc(set(measures.values()), qrels, _plain(run)):
        for name in (name for name, measure in measures.items() if measure == value.measure):  # "MRR@10" is "RR@10"
            values[name][place[value.query_id]] = value.value
    return values if per_query else {name: float(column.mean()) for name, column in values.items()}


def _plain(run: dict) -> dict:
    """The run with ranks for scores, and without queries that found nothing.

    Equal scores: the larger document id first, as trec_eval. The metrics' own providers differ in this; ranks leave no ties.
    """
    plain = {}
    for query_id, docs in run.items():
        if bad := [doc_id for doc_id, score in docs.items() if score != score]:
            raise ValueError(
                say(
                    en=f"the score of document {bad[0]!r} for query {query_id!r} is NaN; such a run has no order: mend the system",
                    zh=f"查询 {query_id!r} 下文档 {bad[0]!r} 的得分是 NaN，排不出次序；先修好这个系统",
                )
            )
        best_first = sorted(zip(docs.values(), docs, strict=True), reverse=True)
        if docs:
            plain[query_id] = {doc_id: -float(rank) for rank, (_, doc_id) in enumerate(best_first)}
    return plain


def _measure(name: str, relevant: int):
    import ir_measures

    plain = name.replace("MRR", "RR").replace("Recall", "R").replace("MAP", "AP").replace("Hit", "Success")
    try:
        measure = ir_measures.parse_measure(plain)
        measure.validate_params()
        if measure.params.get("cutoff", 1) < 1:  # trec_eval would end the process
            raise ValueError(say(en="the number after @ must be 1 or more", zh="@ 后面的数至少为 1"))
    except (NameError, ValueError, SyntaxError, AssertionError) as problem:
        raise ValueError(
            say(
                en=f"metric {name!r} is not known ({problem}); try one of {', '.join(DEFAULT)}, MAP, Hit@5",
                zh=f"不认识指标 {name!r}（{problem}）；可用的有 {'、'.join(DEFAULT)}、MAP、Hit@5",
            )
        ) from None
    return measure(rel=relevant) if "rel" in measure.SUPPORTED_PARAMS else measure


def paired_bootstrap(a, b, n_resamples: int = 10_000, confidence: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Interval for the mean of ``b - a`` when the queries are drawn again and again with replacement.

    Parameters
    ----------
    a, b : (n_queries,) values of the same metric for the same queries

    Returns
    -------
    (low, high) of the percentile interval

    Source: Sakai 2006; lesson 00.

    >>> paired_bootstrap([0.0, 0.0], [1.0, 1.0])
    (1.0, 1.0)
    """
    difference = _difference(a, b)
    n, rng = len(difference), np.random.default_rng(seed)
    # A part at a time, from one stream: all at once would need gigabytes for ten thousand queries.
    rows = max(1, PICKS // n)
    parts = [min(rows, n_resamples - start) for start in range(0, n_resamples, rows)]
    means = np.concatenate(
        [difference[rng.integers(n, size=(part, n))].mean(axis=1) for part in parts]
    )  # (n_resamples,)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def randomisation_test(a, b, n_resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p: how often swapping a with b at random gives a mean difference at least as large. Identical runs: 1.

    Source: Smucker, Allan & Carterette 2007; lesson 00. With at most 13 queries scipy tries every swap instead.

    >>> randomisation_test([0.1, 0.5], [0.1, 0.5])
    1.0
    """
    from scipy.stats import permutation_test

    difference = _difference(a, b)
    if len(difference) == 1:
        return 1.0  # one query: either sign gives the same size, and scipy takes two or more
    test = permutation_test(
        (difference,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_resamples,
        rng=np.random.default_rng(seed),
    )
    return min(1.0, float(test.pvalue))


def _difference(a, b) -> np.ndarray:
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(
            say(
                en=f"a has shape {a.shape}, b {b.shape}; both need one value for each of the same queries",
                zh=f"a 的形状是 {a.shape}，b 是 {b.shape}；两者要对同一批查询各有一个值",
            )
        )
    return b - a
