"""Two rankings of the same query made one: by their ranks, or by a weighted sum of their scores.
Taught in lesson 00 (ranks) and lesson 03 (scores).
"""

import numpy as np

from retrieval_lab.profiles import say


def reciprocal_rank_fusion(runs: list[dict], k: int = 60) -> dict[str, dict[str, float]]:
    """Add up 1 / (k + rank) over the runs; ranks count from 1, a document that a run lacks adds nothing.

    Parameters
    ----------
    runs : each query_id -> doc_id -> score
    k : 60 flattens the lead of the first ranks; the value of the source

    Source: Cormack, Clarke & Büttcher 2009, section 2; lesson 00.

    >>> fused = reciprocal_rank_fusion([{"q": {"a": 9.0}}, {"q": {"b": 3.0, "c": 2.0, "a": 1.0}}])
    >>> round(fused["q"]["a"], 7)  # ranks 1 and 3: 1/61 + 1/63
    0.0322665
    """
    fused: dict[str, dict[str, float]] = {}
    for run in runs:
        for query_id, scores in run.items():
            totals = fused.setdefault(query_id, {})
            for rank, doc_id in enumerate(sorted(scores, key=lambda d: -scores[d]), 1):
                totals[doc_id] = totals.get(doc_id, 0.0) + 1 / (k + rank)
    return fused


def interpolate(
    first: dict[str, float], second: dict[str, float], weight: float = 1.0, temperature: float | None = None
) -> dict[str, float]:
    """One query's documents, best first: those of ``second`` by a weighted sum of both scores, all others below them.

    A cosine and a logit have no common scale. With the ``temperature`` that the first model was trained with, its cosine
    becomes the logit that its own loss saw, and the two are added as they are: the log of a product of both models'
    probabilities. Without it, each score is standardised over the documents that both have (mean 0, deviation 1), which
    forgets how sure a model was. The other documents keep the order that ``first`` gave them. Equal sums keep that order too.

    Parameters
    ----------
    first : doc_id -> score of every document that the first stage found
    second : doc_id -> score of those that were scored again
    weight : share of ``second``, 0 to 1; choose it on queries that you do not report
    temperature : what the first score is divided by, if ``second`` holds logits of a model trained on the same kind of list

    Raises
    ------
    ValueError
        If weight is outside 0 to 1, the temperature is not positive, or a document of ``second`` is not in ``first``, or has no finite score.

    Source: Hinton 2002 (product of experts); lesson 03.

    >>> interpolate({"a": 0.9, "b": 0.7, "c": 0.1}, {"a": -1.0, "b": 3.0})
    {'b': 1.0, 'a': -1.0, 'c': -2.0}
    >>> interpolate({"a": 0.75, "b": 0.5}, {"a": -1.0, "b": 3.0}, weight=0.5, temperature=0.25)  # (3 - 1) / 2, (2 + 3) / 2
    {'b': 2.5, 'a': 1.0}
    """
    if not 0 <= weight <= 1:
        raise ValueError(say(en=f"weight={weight}; use 0 to 1", zh=f"weight={weight}；应在 0 到 1 之间"))
    if temperature is not None and temperature <= 0:
        raise ValueError(
            say(en=f"temperature={temperature}; use more than 0", zh=f"temperature={temperature}；应大于 0")
        )
    bad = [doc_id for doc_id, score in second.items() if doc_id not in first or not np.isfinite(score)]
    if bad:
        raise ValueError(
            say(
                en=f"document {bad[0]!r} scored {second[bad[0]]}, or the first stage did not find it; a reranker gives one finite score to each candidate",
                zh=f"文档 {bad[0]!r} 的得分是 {second[bad[0]]}，或者它不在第一阶段的结果里；重排器要给每个候选一个有限的得分",
            )
        )
    order = sorted(first, key=lambda doc_id: -first[doc_id])
    chosen = [doc_id for doc_id in order if doc_id in second]
    one, two = (np.array([scores[doc_id] for doc_id in chosen], float) for scores in (first, second))
    one, two = (one / temperature, two) if temperature else (_standardised(one), _standardised(two))
    sums = dict(zip(chosen, (weight * two + (1 - weight) * one).tolist(), strict=True))
    lowest = min(sums.values(), default=0.0)
    rest = {doc_id: lowest - rank for rank, doc_id in enumerate((d for d in order if d not in second), 1)}
    return dict(sorted(sums.items(), key=lambda item: -item[1])) | rest


def _standardised(scores: np.ndarray) -> np.ndarray:
    """Mean 0, deviation 1; zeros where all are equal."""
    spread = scores.std() if len(scores) else 0.0
    return (scores - scores.mean()) / spread if spread > 1e-12 else np.zeros_like(scores)
