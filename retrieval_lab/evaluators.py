"""A validation file as an evaluator of sentence-transformers that ranks: nDCG@10, for any family.
Taught in lesson 07.
"""

from pathlib import Path

from retrieval_lab import formats
from retrieval_lab.profiles import say


def from_file(model, path: str | Path, *, min_label: float = 0, max_label: float = 1):
    """An evaluator whose first metric is nDCG@10 on the queries of a training file.

    Retrievers search all documents of the file; rerankers order each query's own. A document is relevant when it stands under
    ``pos`` without a score, or its label lies in the upper half of the scale; where scores have no scale, when it is the
    query's best.

    Parameters
    ----------
    model : SentenceTransformer, MultiVectorEncoder or CrossEncoder
    path : any format of `formats` with documents
    min_label, max_label : the scale of graded labels

    Raises
    ------
    DataError
        If a line of the file has a problem.
    ValueError
        If a reranker is to be judged and no query has both relevant and other documents.

    Source: lesson 07.
    """
    from sentence_transformers import CrossEncoder, MultiVectorEncoder

    judged = judgements(path, min_label=min_label, max_label=max_label)
    if isinstance(model, CrossEncoder):
        return _reranking(judged, path)
    own_prompts = any(line.prompt for line in formats.load_lines(path)[0])
    return _search(judged, isinstance(model, MultiVectorEncoder), "" if own_prompts else None)


def judgements(path: str | Path, *, min_label: float = 0, max_label: float = 1) -> dict[str, dict[str, bool]]:
    """query, after its own prompt if it has one -> document -> is it relevant?

    >>> import tempfile; file = Path(tempfile.mkdtemp()) / "graded.jsonl"
    >>> _ = file.write_text('{"query": "a", "pos": ["b", "c"], "pos_scores": [3, 1]}')
    >>> judgements(file, min_label=1, max_label=3)
    {'a': {'b': True, 'c': False}}
    """
    lines, report = formats.load_lines(path, min_label=min_label, max_label=max_label)
    if report.problems:
        raise formats.DataError(report)
    scores: dict[str, dict[str, float]] = {}
    for line in lines:
        documents = scores.setdefault(line.prompt + line.query, {})
        documents |= zip(line.pos, line.scores or [max_label] * len(line.pos), strict=True)
        documents |= zip(line.neg, line.neg_scores or [min_label] * len(line.neg), strict=True)
    bars = {query: (min_label + max_label) / 2 for query in scores}
    if report.kind == "scored":
        bars = {query: max(documents.values()) for query, documents in scores.items()}
    return {query: {doc: score >= bars[query] for doc, score in docs.items()} for query, docs in scores.items()}


def _search(judged: dict, many_vectors: bool, prompt: str | None):
    """``prompt``: "" where the queries bring their own, which stand in place of the model's; None for the model's."""
    from sentence_transformers.multi_vector_encoder import evaluation as late
    from sentence_transformers.sentence_transformer import evaluation as dense

    corpus = {text: f"d{i}" for i, text in enumerate(dict.fromkeys(doc for docs in judged.values() for doc in docs))}
    queries = {f"q{i}": query for i, query in enumerate(judged)}
    relevant = {i: {corpus[doc] for doc, good in judged[query].items() if good} for i, query in queries.items()}
    kind = late.MultiVectorInformationRetrievalEvaluator if many_vectors else dense.InformationRetrievalEvaluator
    documents = {i: text for text, i in corpus.items()}
    return kind(queries, documents, relevant, name="val", write_csv=False, query_prompt=prompt)


def _reranking(judged: dict, path: str | Path):
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

    samples = []
    for query, documents in judged.items():
        good, bad = ([doc for doc, yes in documents.items() if yes is wanted] for wanted in (True, False))
        if good and bad:  # with one kind alone there is no order to judge
            samples.append({"query": query, "positive": good, "negative": bad})
    if not samples:
        raise ValueError(
            say(
                en=f"{path}: no query has both relevant and other documents, so there is no order to judge; give negatives or graded labels",
                zh=f"{path}：没有一个查询同时有相关和不相关的文档，无从评判排序；给出负例或分级标签",
            )
        )
    return CrossEncoderRerankingEvaluator(samples, at_k=10, name="val", write_csv=False)
