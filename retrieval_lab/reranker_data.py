"""What a cross-encoder reads: checked pairs, slices of long documents, training rows in one shape, lists of candidates.
Taught in lesson 03; `reranker` is built on it.
"""

import random
import warnings

import numpy as np

from retrieval_lab import batching, formats
from retrieval_lab.profiles import say


def checked_pairs(pairs) -> list[tuple[str, str]]:
    """The pairs as tuples.

    Raises
    ------
    ValueError
        If one of them is not two strings.
    """
    for place, pair in enumerate(pairs):
        if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise ValueError(
                say(
                    en=f"pair {place} is {str(pair)[:60]!r}; give (query, document), both strings",
                    zh=f"第 {place} 对是 {str(pair)[:60]!r}；应为 (查询, 文档)，两个都是字符串",
                )
            )
    return [tuple(pair) for pair in pairs]


def token_lengths(model, pairs: list[tuple[str, str]]) -> list[int]:
    """Tokens of each pair after truncation, special tokens included."""
    if not pairs:
        return []
    queries, docs = map(list, zip(*pairs, strict=True))
    ids = model.tokenizer(queries, docs, truncation=True, max_length=model.max_seq_length)["input_ids"]
    return [len(row) for row in ids]


SPARE = 2  # tokens: a word that is cut in two may need more of them than before


def slices(model, query: str, doc: str, overlap: int = 32) -> list[tuple[str, str]]:
    """The document in pieces that fit beside the query, each paired with it; a document that fits is one piece, unchanged.

    A query may take half of the length; what is longer loses its end. The last piece is as long as the others.

    Parameters
    ----------
    model : CrossEncoder
    overlap : tokens that two neighbouring pieces share, so that a sentence on the border is whole in one of them

    >>> from retrieval_lab import tiny  # one token a character, at most 128
    >>> [len(piece) for _, piece in slices(tiny.cross_encoder(), "tram", "a" * 200)]
    [119, 119]
    """
    limit = model.max_seq_length - model.tokenizer.num_special_tokens_to_add(pair=True)
    asked, told = (spans(model.tokenizer, text) for text in (query, doc))
    room = max(limit // 2, limit - len(asked))
    if len(told) <= room:
        return [(query, doc)]  # of an overlong query the tokenizer cuts the end
    query = query[: asked[: limit - room][-1][1]] if len(asked) > limit - room else query
    size = max(1, room - SPARE)
    step = max(1, size - overlap)
    starts = [*range(0, len(told) - size, step), len(told) - size]
    return [(query, doc[told[start][0] : told[start + size - 1][1]]) for start in starts]


def spans(tokenizer, text: str) -> list[tuple[int, int]]:
    """Where each token begins and ends in the text."""
    options = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
    return tokenizer(text, **options)["offset_mapping"]


def candidates(first, collection, n_docs: int = 3, *, depth: int = 20, seed: int = 0):
    """Training lists as the reranker will meet them: what the first stage finds, with the collection's grades.

    A list holds the query's best document, the one that the first stage ranks highest among the others, further ones drawn
    from its ``depth`` best, and from three documents on, as the last, one from the whole collection. That one is easy: a head
    that still knows nothing has something to begin with, and needs a third of the lists that it needs without (lesson 03).
    A near miss keeps its grade, so no answer is ever taught as wrong; a document without a judgement counts as 0. A query whose
    best grade is 0 is left out: of a list without an answer, a listwise loss would learn that all are equally good.

    Parameters
    ----------
    first : a system
    collection : of the training split; its largest grade becomes label 1
    n_docs : documents a list, 2 or more: answer, hardest, n_docs - 3 drawn ones, easy
    depth : how far down the first stage's list is drawn from
    seed : of the draw

    Returns
    -------
    datasets.Dataset with columns ``query, document, label``: a string, n_docs texts, n_docs numbers

    Raises
    ------
    ValueError
        If n_docs is below 2 or above depth, a query has no judgements, no query has an answer, or the first stage finds nothing
        but a query's best document, as BM25 may.

    Warns
    -----
    UserWarning
        If queries are left out.

    Source: Gao et al. 2021, *Rethink Training of BERT Rerankers in Multi-Stage Retrieval Pipeline*; lesson 03.
    """
    from datasets import Dataset

    if not 2 <= n_docs <= depth:
        raise ValueError(
            say(
                en=f"n_docs={n_docs}, depth={depth}; a list needs 2 or more documents, and no more than the depth",
                zh=f"n_docs={n_docs}，depth={depth}；每个列表至少 2 篇，且不超过 depth",
            )
        )
    top = max(grade for judged in collection.qrels.values() for grade in judged.values())
    queries = _answered(collection)
    run = first.search(queries, depth)
    rng, lists, everything = random.Random(seed), [], list(collection.corpus)
    for query_id, query in queries.items():
        grades = collection.qrels[query_id]
        best = max(grades, key=grades.get)
        ranked = sorted(run[query_id], key=lambda doc_id, scores=run[query_id]: -scores[doc_id])
        others = [doc_id for doc_id in ranked if doc_id != best]
        if not others:
            raise ValueError(
                say(
                    en=f"{first.name} finds no document for query {query_id!r} ({query[:40]!r}) but its answer; use a first stage that always finds some, e.g. search.Dense",
                    zh=f"对查询 {query_id!r}（{query[:40]!r}），{first.name} 除答案外没找到别的文档；换一个总能找到文档的第一阶段，例如 search.Dense",
                )
            )
        hardest, *others = others
        doc_ids = [best, hardest, *rng.sample(others, max(0, min(n_docs - 3, len(others))))]
        if n_docs > 2:
            # Of n_docs different ones at most n_docs - 1 are in the list.
            anywhere = rng.sample(everything, min(n_docs, len(everything)))
            doc_ids += [doc_id for doc_id in anywhere if doc_id not in doc_ids][:1]
        labels = [grades.get(doc_id, 0) / top for doc_id in doc_ids]
        lists.append({"query": query, "document": [collection.corpus[d] for d in doc_ids], "label": labels})
    return Dataset.from_list(lists)


def _answered(collection) -> dict[str, str]:
    """The queries that have a document above grade 0."""
    if missing := [query_id for query_id in collection.queries if not collection.qrels.get(query_id)]:
        raise ValueError(
            say(
                en=f"query {missing[0]!r} ({len(missing)} in all) has no judgements, so nothing says which document is right; take a split whose queries are judged",
                zh=f"查询 {missing[0]!r}（共 {len(missing)} 个）没有标注，不知道哪篇文档是对的；换一个查询都有标注的划分",
            )
        )
    kept = {q: text for q, text in collection.queries.items() if max(collection.qrels[q].values()) > 0}
    if not kept:
        raise ValueError(
            say(
                en="no query has a document above grade 0; there is nothing to train on",
                zh="没有一个查询有 0 级以上的文档，无从训练",
            )
        )
    if left_out := len(collection.queries) - len(kept):
        warnings.warn(
            say(
                en=f"{left_out} of {len(collection.queries)} queries left out: none of their documents is above grade 0",
                zh=f"去掉了 {len(collection.queries)} 个查询中的 {left_out} 个：它们没有 0 级以上的文档",
            ),
            stacklevel=3,
        )
    return kept


def rows(data, loss_type: str, label_temperature: float):
    """Training data in the shape that a loss takes: one document a row for the point losses, one list a query for the others.

    Pairs without negatives stay as they are. Labels are checked to lie in 0 .. 1.

    Raises
    ------
    ValueError
        If the columns or labels are others, or the loss compares the documents of a query and no query has two.
    """
    from datasets import Dataset

    if "prompt_for_query" in data.column_names:
        data = formats.apply_prompts(data)
    if set(data.column_names) == {"query", "positive"} and len(data):
        return _pairs_alone(data, loss_type)
    lists = _lists(data)
    if loss_type.startswith("point"):
        triples = [(query, *item) for query, items in lists for item in items]
        return Dataset.from_dict(
            dict(zip(("query", "document", "label"), map(list, zip(*triples, strict=True)), strict=True))
        )
    _comparable(lists, loss_type)
    scale = 1 / label_temperature if loss_type == "listwise" else 1.0
    columns = {
        "query": [query for query, _ in lists],
        "document": [[text for text, _ in items] for _, items in lists],
        "label": [[label * scale for _, label in items] for _, items in lists],
    }
    return Dataset.from_dict(columns)


def _comparable(lists, loss_type: str) -> None:
    if max(len(items) for _, items in lists) < 2:
        raise ValueError(
            say(
                en=f"loss_type={loss_type!r} compares the documents of one query, and each of these {len(lists)} queries has one: nothing would be learned; use loss_type='point_ce', or give each query two documents or more",
                zh=f"loss_type={loss_type!r} 比较同一查询的各篇文档，而这 {len(lists)} 个查询各只有一篇，什么也学不到；改用 loss_type='point_ce'，或给每个查询至少两篇文档",
            )
        )


def _pairs_alone(data, loss_type: str):
    if loss_type != "listwise":
        raise ValueError(
            say(
                en=f"loss_type={loss_type!r} needs documents that do not answer, and these rows have only query and positive; mine negatives (reranker.candidates), or use 'listwise'",
                zh=f"loss_type={loss_type!r} 需要答不了的文档，而这些行只有 query 和 positive；先挖掘负例（reranker.candidates），或改用 'listwise'",
            )
        )
    return data.select_columns(["query", "positive"])


def _lists(data) -> list[tuple[str, list[tuple[str, float]]]]:
    """Each query with its (document, label) pairs, whatever the columns are."""
    names = data.column_names
    label = next((name for name in ("label", "score") if name in names), None)
    negatives = [name for name in names if name.startswith("negative_")]
    known = {"query", "document", label} <= set(names) or ({"query", "positive"} <= set(names) and negatives)
    if not len(data) or not known:
        raise ValueError(
            say(
                en=f"training needs rows with query, positive, negative_1 ... or query, document, label; got {len(data)} rows with {names}",
                zh=f"训练数据要有 query、positive、negative_1…… 或 query、document、label 这些列；现在是 {len(data)} 行，列为 {names}",
            )
        )
    lists: dict = {}
    for place, row in enumerate(data):
        if label is None:
            # Several answers of one query stay apart: each is better than its own negatives, not than the other answers.
            lists[place] = (row["query"], [(row["positive"], 1.0), *[(row[name], 0.0) for name in negatives]])
        elif isinstance(row["document"], str):
            lists.setdefault(row["query"], (row["query"], []))[1].append((row["document"], row[label]))
        else:
            lists[place] = (row["query"], list(zip(row["document"], row[label], strict=True)))
    return _checked_labels(list(lists.values()))


def _checked_labels(lists):
    for query, items in lists:
        for _, label in items:
            if not 0 <= label <= 1:
                raise ValueError(
                    say(
                        en=f"query {query[:40]!r} has the label {label}; labels lie in 0 .. 1: give formats.read the scale (min_label, max_label)",
                        zh=f"查询 {query[:40]!r} 的标签是 {label}；标签应在 0 到 1 之间：给 formats.read 写明范围（min_label、max_label）",
                    )
                )
    return lists


def sampler(model, data):
    """A function that the trainer calls to make its batch sampler: rows of like length together."""
    texts = "document" if "document" in data.column_names else "positive"
    docs = [[value] if isinstance(value, str) else value for value in data[texts]]
    pairs = [(query, doc) for query, group in zip(data["query"], docs, strict=True) for doc in group]
    ends = np.cumsum([len(group) for group in docs])[:-1]
    lengths = [int(part.max()) for part in np.split(np.array(token_lengths(model, pairs)), ends)]
    # Another row's answer may answer this query too: with negatives from the batch, equal texts never meet.
    alone = texts == "positive"
    apart = [{query, group[0]} if alone else set() for query, group in zip(data["query"], docs, strict=True)]
    return batching.buckets(lengths, apart)
