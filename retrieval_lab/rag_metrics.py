"""What a RAG answer is worth, computed here without a judge model: context, citations, overlap, abstention.
Taught in lesson 05.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from retrieval_lab import lexical, metrics
from retrieval_lab.corpora import Collection
from retrieval_lab.profiles import say
from retrieval_lab.rag_answers import MARKERS, Citation, holds, is_refusal


def context_recall(sources: Sequence[str], relevant: set[str]) -> float:
    """Share of the relevant sources that were retrieved.

    >>> context_recall(["a", "b"], {"a", "c"})
    0.5
    """
    return len(relevant & set(sources)) / len(relevant) if relevant else float("nan")


def context_precision(sources: Sequence[str], relevant: set[str]) -> float:
    """Share of the retrieved sources that are relevant; 0 when nothing was retrieved.

    >>> context_precision(["a", "b", "c", "d"], {"a"})
    0.25
    """
    return sum(source in relevant for source in sources) / len(sources) if sources else 0.0


def citation_correctness(citations: Sequence[Citation], relevant: set[str]) -> float:
    """Share of the citations that hold what is quoted *and* come from a relevant source; 0 without citations.

    >>> citation_correctness([Citation(1, "fee", "a", ""), Citation(2, "fee", "b", "")], {"a"})
    0.5
    """
    return sum(not c.problem and c.source in relevant for c in citations) / len(citations) if citations else 0.0


def overlap(answer: str, gold: str) -> float:
    """F1 of the words that answer and gold answer share, each word as often as it stands there.

    Source: Rajpurkar et al. 2016 (SQuAD), section 6.1; words as BM25 counts them.

    >>> round(overlap("the fee is 12 crowns", "12 crowns"), 3)  # fee, 12, crown against 12, crown: P 2/3, R 1
    0.8
    """
    found, wanted = Counter(lexical.tokenise(answer)), Counter(lexical.tokenise(gold))
    shared = sum((found & wanted).values())
    return 2 * shared / (sum(found.values()) + sum(wanted.values())) if shared else 0.0


def choose_threshold(answerable: Sequence[float], unanswerable: Sequence[float]) -> float:
    """The evidence below which to abstain: the cut with the best balanced accuracy over questions with and without an answer.

    Parameters
    ----------
    answerable, unanswerable : evidence of dev questions, larger is stronger

    Raises
    ------
    ValueError
        If either is empty.

    Source: Youden 1950 (the index that balanced accuracy is a form of); lesson 05.

    >>> choose_threshold([0.9, 0.8, 0.5], [0.6, 0.2])  # 0.5 is lost, 0.6 and 0.2 are refused
    0.7
    """
    if not len(answerable) or not len(unanswerable):
        given = len(answerable), len(unanswerable)
        raise ValueError(
            say(
                en=f"{given[0]} answerable and {given[1]} unanswerable questions; a threshold needs both",
                zh=f"有答案的问题 {given[0]} 个，没有答案的 {given[1]} 个；两种都有才能选阈值",
            )
        )
    yes, no = np.asarray(answerable, float), np.asarray(unanswerable, float)
    values = np.unique(np.concatenate([yes, no]))
    finite = values[np.isfinite(values)]
    cuts = (finite[1:] + finite[:-1]) / 2 if len(finite) > 1 else finite  # half-way: not on top of a measured value
    accuracy = [(np.mean(yes >= cut) + np.mean(no < cut)) / 2 for cut in cuts]
    return float(cuts[int(np.argmax(accuracy))])


def judge(result: dict, relevant: set[str], gold: str = "") -> dict[str, float]:
    """One question's measures from what a chain of `rag.chain` returned; ``relevant`` is empty when no source answers.

    With ``gold``, the words that answer: *answer overlap*, the F1 of their words and the answer's, and *gold quoted*, whether
    they stand in the answer whole; case, width and quotation marks do not count.

    Retrieval is measured on all questions, whether the chain then answered or not. *answered right*: it answered, and the
    first citation is right; *abstained right*: it refused, and there was nothing to find.
    """
    sources = [document.metadata["source"] for document in result["documents"]]
    abstained = is_refusal(result["answer"])
    row = {"abstained": float(abstained)}
    if not relevant:
        return row
    correct = citation_correctness(result["citations"], relevant)
    if gold:
        said = MARKERS.sub(" ", result["answer"])  # the numbers of the citations are no part of the answer
        row |= {"answer overlap": overlap(said, gold), "gold quoted": float(holds(said, gold))}
    return row | {
        "context recall": context_recall(sources, relevant),
        "context precision": context_precision(sources, relevant),
        "citation correctness": float("nan") if abstained else correct,
        "answered right": float(not abstained and citation_correctness(result["citations"][:1], relevant)),
    }


def evaluate(chain, collection: Collection, unanswerable: dict[str, str] | None = None):
    """Every question through the chain: a DataFrame with a row a question, the measures of `judge` as columns.

    Parameters
    ----------
    chain : of `rag.chain`
    collection : questions with judgements; a source is relevant from ``collection.relevant`` up
    unanswerable : questions that no source answers

    Where the collection knows the words that answer (``details[query_id]["quote"]``, as in the handbook), they are the gold answer.

    Source: lesson 05; the measures follow Es et al. 2024 (RAGAS), with judgements in place of a judge model.
    """
    import pandas as pd

    rows = {}
    for query_id, question in collection.queries.items():
        judged = collection.qrels[query_id]
        relevant = {doc_id for doc_id, grade in judged.items() if grade >= collection.relevant}
        gold = collection.details.get(query_id, {}).get("quote", "")
        rows[query_id] = judge(chain.invoke(question), relevant, gold)
    rows |= {query_id: judge(chain.invoke(question), set()) for query_id, question in (unanswerable or {}).items()}
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame["answerable"] = [query_id in collection.queries for query_id in frame.index]
    return frame


def table(frames: dict):
    """Means of several `evaluate` frames as rows, with the change of *answered right* against the row above and its interval.

    Raises
    ------
    ValueError
        If the frames are not about the same questions.
    """
    import pandas as pd

    rows, before = [], None
    for name, frame in frames.items():
        asked = frame[frame["answerable"]]
        row = asked.drop(columns=["abstained", "answerable"]).mean().to_dict()
        row |= {"answered": 1 - asked["abstained"].mean()}
        if len(hopeless := frame[~frame["answerable"]]):
            row |= {"abstained right": hopeless["abstained"].mean()}
        right = asked["answered right"]
        if before is not None:
            if list(before.index) != list(right.index):
                raise ValueError(say(en=f"{name} was asked other questions", zh=f"{name} 问的不是同一批问题"))
            low, high = metrics.paired_bootstrap(before, right)
            row |= {"Δ answered right": f"{right.mean() - before.mean():+.3f}"}
            row |= {"95 % interval": f"{low:+.3f} … {high:+.3f}"}
        rows.append(row)
        before = right
    found = pd.DataFrame(rows, index=pd.Index(frames, name="system"))
    texts = [name for name in ("Δ answered right", "95 % interval") if name in found]  # the first row has none
    return found.assign(**{name: found[name].fillna("") for name in texts})
