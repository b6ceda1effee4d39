"""From a large reranker to a small one: score candidates with the teacher, write a training file, compare the two.
Taught in lesson 04; `retrieval-lab distill` does the same.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from retrieval_lab import decoders, formats, models
from retrieval_lab.corpora import Collection
from retrieval_lab.data_collections import jsonl
from retrieval_lab.profiles import say

Candidates = Sequence[tuple[str, list[str]]]  # a query's text and the texts to be scored for it


def teacher(name: str | Path) -> tuple[object, Callable]:
    """A reranker of any family and the function that scores with it.

    Parameters
    ----------
    name : a saved reranker, or what `models.resolve` takes: a causal model becomes a Yes/No reranker, an encoder a cross-encoder
    """
    from retrieval_lab import llm, llm_lora, reranker

    if decoders.is_decoder(models.resolve(name)):
        return llm_lora.merge(llm.load(name)), llm.score
    return reranker.load(name), reranker.score


def from_run(run: dict, collection: Collection, depth: int = 10) -> Candidates:
    """The ``depth`` best documents of each query of a run, as texts."""
    best = {q: sorted(docs, key=lambda d: -docs[d])[:depth] for q, docs in run.items()}
    return [(collection.queries[q], [collection.corpus[d] for d in doc_ids]) for q, doc_ids in best.items()]


def from_file(path: str | Path) -> Candidates:
    """The queries of a training file with all their texts, positive or negative, each once.

    Raises
    ------
    DataError
        If a line has a problem; `formats.validate` lists them all.

    >>> import tempfile; file = Path(tempfile.mkdtemp()) / "rows.jsonl"
    >>> _ = file.write_text('{"query": "a", "pos": ["b"], "neg": ["c", "b"]}')
    >>> from_file(file)
    [('a', ['b', 'c'])]
    """
    lines, report = formats.load_lines(path)
    if report.problems:
        raise formats.DataError(report)
    found: dict[str, dict] = {}
    for line in lines:
        found.setdefault(line.query, {}).update(dict.fromkeys([*line.pos, *line.neg]))
    return [(query, list(texts)) for query, texts in found.items()]


def label(
    model, candidates: Candidates, score: Callable, temperature: float = 1.0, *, centred: bool = False
) -> list[dict]:
    """Lines {"query", "pos", "pos_scores"} with the teacher's scores as probabilities, best first.

    Parameters
    ----------
    model, score : a reranker, and the function that turns (model, pairs) into one logit a pair
    candidates : of `from_run` or `from_file`
    temperature : logits are divided by it before the sigmoid; above 1 keeps a very sure teacher from saying 0 and 1 only
    centred : subtract from the logits of each query their mean first. For a teacher trained on lists: its loss compared the
        documents of one query and never saw where zero is, and far from zero the sigmoid makes all scores alike. A
        listwise student learns from softmax(10 * score): with temperature 2.5 that is nearly the teacher's own softmax

    Raises
    ------
    ValueError
        If a score is not finite, or the temperature is not above 0.

    Source: Hinton et al. 2015, section 2; lesson 04.

    >>> rows = label(None, [("a", ["b", "c"])], score=lambda model, pairs: np.array([0.0, np.log(3)]))
    >>> rows[0]["pos"], rows[0]["pos_scores"]
    (['c', 'b'], [0.75, 0.5])
    """
    from scipy.special import expit

    if temperature <= 0:
        raise ValueError(
            say(en=f"temperature={temperature}; use a number above 0", zh=f"temperature={temperature}；要大于 0")
        )
    pairs = [(query, text) for query, texts in candidates for text in texts]
    logits = np.asarray(score(model, pairs), float)
    if not np.isfinite(logits).all():
        bad = int(np.argmin(np.isfinite(logits)))
        raise ValueError(
            say(
                en=f"the teacher's score of pair {bad} ({pairs[bad][0][:40]!r}) is {logits[bad]}; a file with it would ruin the student",
                zh=f"教师给第 {bad} 对（{pairs[bad][0][:40]!r}）的得分是 {logits[bad]}；拿它训练会毁掉学生模型",
            )
        )
    values, rows = iter(logits.tolist()), []
    for query, texts in candidates:
        found = np.array([next(values) for _ in texts])
        found = expit((found - found.mean() if centred and texts else found) / temperature).round(6).tolist()
        best_first = sorted(zip(found, texts, strict=True), key=lambda item: -item[0])
        rows.append({"query": query, "pos": [t for _, t in best_first], "pos_scores": [p for p, _ in best_first]})
    return [row for row in rows if row["pos"]]


def write(rows: list[dict], path: str | Path) -> Path:
    """One JSON object a line; ``formats.read(path)`` reads it as graded rows with labels 0 to 1."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(jsonl(rows), encoding="utf-8")
    return path


def agreement(one: dict, other: dict) -> np.ndarray:
    """Rank correlation of two runs, query by query, over the documents that both score.

    Parameters
    ----------
    one, other : runs, query_id -> doc_id -> score

    Returns
    -------
    (n,) Kendall's tau of each query with at least two such documents; nan where a run gives all of them one score

    Source: Kendall 1938; lesson 04.

    >>> agreement({"q": {"a": 3, "b": 2, "c": 1}}, {"q": {"a": 9, "c": 8, "b": 7}}).round(3).tolist()
    [0.333]
    """
    from scipy.stats import kendalltau

    shared = {q: [d for d in one[q] if d in other[q]] for q in one if q in other}
    both = [([one[q][d] for d in ids], [other[q][d] for d in ids]) for q, ids in shared.items() if len(ids) > 1]
    return np.array([kendalltau(x, y).statistic for x, y in both])


def cost(model, score: Callable, pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """What a reranker costs: its weights in millions, and the ms that one of ``pairs`` takes when all are scored together."""
    weights = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    score(model, pairs[:2])  # the first call is slower
    start = time.perf_counter()
    score(model, pairs)
    return {"M weights": round(weights, 1), "ms/pair": 1000 * (time.perf_counter() - start) / len(pairs)}


def student(name: str | Path, path: str | Path, config=None):
    """A cross-encoder trained on the file of `write`: the teacher's scores of a query's documents are their labels.

    Parameters
    ----------
    name : what `reranker.load` takes
    path : lines with pos and pos_scores
    config : see `reranker.train`. Without it: one epoch, eight queries a step, learning rate 2e-4, from which a fresh head
        learns (lesson 04)

    Source: lesson 04.
    """
    from retrieval_lab import reranker
    from retrieval_lab.training import Config

    config = config or Config(num_train_epochs=1, per_device_train_batch_size=8, learning_rate=2e-4)
    return reranker.train(reranker.load(name), formats.read(path, "graded"), config)
