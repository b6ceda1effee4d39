"""Reranking tasks as MTEB has them: each query with a fixed list of candidates. From local folders, or MTEB's own from the hub.
Taught in lesson 03.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from retrieval_lab import metrics, reranker
from retrieval_lab.corpora import Collection
from retrieval_lab.profiles import say

NAMES = ("T2Reranking", "MMarcoReranking", "CMedQAv1-reranking", "CMedQAv2-reranking")
METRICS = ("MAP", "MRR@10", "nDCG@10")


@dataclass(frozen=True)
class Task:
    """A collection and, for each of its queries, the documents that are to be ordered."""

    collection: Collection
    candidates: dict[str, list[str]]  # query_id -> doc_ids


def from_collection(collection: Collection, first, n_candidates: int = 20) -> Task:
    """A task from judgements alone: a query's relevant documents among the wrong ones that ``first`` ranks highest.

    Parameters
    ----------
    first : a system, BM25 for a task that favours no model
    n_candidates : length of a list; a query with more relevant documents keeps them all

    Queries without a relevant document are left out, as in MTEB; so are those whose list would be one document, which is in the
    right order whatever the model says.

    Warns
    -----
    UserWarning
        If there are lists of one document.

    Raises
    ------
    ValueError
        If n_candidates is below 2.
    """
    if n_candidates < 2:
        raise ValueError(
            say(en=f"n_candidates={n_candidates}; use 2 or more", zh=f"n_candidates={n_candidates}；应不小于 2")
        )
    right = {
        q: [d for d, grade in qrel.items() if grade >= collection.relevant] for q, qrel in collection.qrels.items()
    }
    right = {q: docs for q, docs in right.items() if docs}
    most = n_candidates + max(map(len, right.values()), default=0)
    run = first.search({q: collection.queries[q] for q in right}, most)
    lists = {}
    for query_id, docs in right.items():
        found = sorted(run[query_id], key=lambda doc_id, scores=run[query_id]: -scores[doc_id])
        wrong = [doc_id for doc_id in found if doc_id not in docs]
        lists[query_id] = docs + wrong[: max(0, n_candidates - len(docs))]
    return _without_single(lists, collection)


def _without_single(lists: dict[str, list[str]], collection: Collection) -> Task:
    single = [query_id for query_id, docs in lists.items() if len(docs) == 1]
    if single:
        warnings.warn(
            say(
                en=f"{len(single)} of {len(lists)} queries left out, {single[0]!r} for one: the first stage finds only the answer, and a list of one is always in order",
                zh=f"{len(lists)} 个查询去掉了 {len(single)} 个，例如 {single[0]!r}：第一阶段只找到答案本身，只有一篇文档的列表怎么排都对",
            ),
            stacklevel=3,
        )
    lists = {query_id: docs for query_id, docs in lists.items() if len(docs) > 1}
    return Task(collection.only(lists), lists)


def evaluate(task: Task, model, score=reranker.score) -> dict[str, float]:
    """MAP, MRR and nDCG of a model's order of each list; documents below ``collection.relevant`` count as wrong for the first two.

    Parameters
    ----------
    score : ``score(model, pairs) -> (n_pairs,)``: `reranker.score`, or another family's

    Source: Muennighoff et al. 2023 (MTEB), section 3.2: reranking is measured by the mean of MAP over queries; lesson 03.
    """
    keys = [(query_id, doc_id) for query_id, docs in task.candidates.items() for doc_id in docs]
    texts = [(task.collection.queries[q], task.collection.corpus[d]) for q, d in keys]
    run: dict[str, dict[str, float]] = {query_id: {} for query_id in task.candidates}
    for (query_id, doc_id), value in zip(keys, score(model, texts), strict=True):
        run[query_id][doc_id] = float(value)
    return metrics.evaluate(task.collection.qrels, run, list(METRICS), relevant=task.collection.relevant)


def mteb_scores(model, names: Sequence[str] = NAMES) -> dict[str, float]:
    """The main score of MTEB's own tasks, through the ``mteb`` library; their data come from the hub.

    Parameters
    ----------
    model : CrossEncoder or SentenceTransformer

    Raises
    ------
    ImportError
        If ``mteb`` is not installed; it is optional.
    """
    try:
        import mteb
    except ImportError as problem:
        raise ImportError(
            say(
                en="MTEB's own tasks need the mteb library (pip install 'mteb>=2.20') and a reachable hub; from_collection makes a task of a local folder",
                zh="MTEB 自带的任务需要 mteb 库（pip install 'mteb>=2.20'）和能连上的模型仓库；from_collection 可以用本地文件夹做任务",
            )
        ) from problem
    tasks = mteb.get_tasks(tasks=list(names))
    result = mteb.evaluate(model, tasks=tasks, overwrite_strategy="always")  # a model trained anew keeps its name
    return {found.task_name: float(found.get_score()) for found in result.task_results}
