"""One vector a token (ColBERT): load, encode, MaxSim, fine-tune. Everything here is a plain MultiVectorEncoder before and after.
Taught in lesson 02.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from retrieval_lab import batching, formats
from retrieval_lab.colbert_models import from_encoder, load
from retrieval_lab.profiles import say
from retrieval_lab.training import Config, fit

__all__ = ["Alignment", "align", "encode", "from_encoder", "load", "maxsim", "one_row_a_query", "score", "train"]
LOSSES = ("in_batch", "distill", "margin_mse")
PROMPT = "prompt_for_query"  # column of rows that bring their own prompt


def maxsim(query: Tensor, doc: Tensor, query_mask: Tensor | None = None, doc_mask: Tensor | None = None) -> Tensor:
    """Sum, over the query's tokens, of the largest dot product with any token of the document.

    Parameters
    ----------
    query : (n_query, dim), rows of unit length
    doc : (n_doc, dim)
    query_mask, doc_mask : (n_query,), (n_doc,) true where a row is a token and not padding; None: all are

    Raises
    ------
    ValueError
        If the widths differ, or a side has no token.

    Source: Khattab & Zaharia 2020 (ColBERT), section 3.3; lesson 02.

    >>> import torch
    >>> round(maxsim(torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])).item(), 4)  # 1 + 0.8
    1.8
    >>> padded = torch.tensor([[-1.0, 0.0], [0.0, 0.0]])  # a row of zeros must not beat -1
    >>> maxsim(torch.tensor([[1.0, 0.0]]), padded, doc_mask=torch.tensor([True, False])).item()
    -1.0
    """
    query = query if query_mask is None else query[query_mask.bool()]
    doc = doc if doc_mask is None else doc[doc_mask.bool()]
    if query.shape[-1] != doc.shape[-1]:
        raise ValueError(
            say(
                en=f"query has {query.shape[-1]} dims but doc has {doc.shape[-1]}; encode both with the same model",
                zh=f"查询是 {query.shape[-1]} 维，文档是 {doc.shape[-1]} 维；两边要用同一个模型编码",
            )
        )
    if not len(query) or not len(doc):
        side = say(en="query", zh="查询") if not len(query) else say(en="doc", zh="文档")
        raise ValueError(
            say(
                en=f"{side} has no token; was the text empty, or every token masked?",
                zh=f"{side}没有词元；文本是空的，还是全被掩码去掉了？",
            )
        )
    similarity = query @ doc.T  # (n_query, n_doc)
    return similarity.max(dim=1).values.sum()


def encode(model, texts: list[str], kind: str = "document", budget: int = 2048, **options) -> list[Tensor]:
    """Token vectors of each text, equal to ``model.encode_query`` / ``encode_document`` but batched by tokens.

    Parameters
    ----------
    model : MultiVectorEncoder
    texts : n texts, in any order and of any length
    kind : "query" or "document"
    budget : tokens of a padded batch
    options : what the model's own encode takes, e.g. ``token_pooling``

    Returns
    -------
    n tensors (n_tokens_i, dim) float32 on the CPU; tokens that the model masks (padding, skipped punctuation) are not in them

    Raises
    ------
    ValueError
        If ``texts`` is one string instead of a list, or ``kind`` is neither of the two.

    >>> from retrieval_lab import tiny
    >>> [tuple(vectors.shape) for vectors in encode(tiny.multi_vector_encoder(), ["tram", "on"])]
    [(6, 128), (4, 128)]
    """
    vectors: list = [None] * len(texts)
    for batch, found in batching.encoded(model, texts, kind, budget, **options):
        for place, tokens in zip(batch, found, strict=True):
            vectors[place] = tokens.float().cpu().clone()
    return vectors


def score(model, pairs: list[tuple[str, str]], **options) -> np.ndarray:
    """The model's score of each (query, document): what `search.Reranked` takes as ``score`` to rerank without an index.

    Every different text is encoded once.

    Returns
    -------
    (n_pairs,) float32: sums of cosines, or means for a model that says "meanmaxsim" (bge-m3)
    """
    if not pairs:
        return np.zeros(0, np.float32)
    sides = []
    for kind, texts in zip(("query", "document"), zip(*pairs, strict=True), strict=True):
        different = list(dict.fromkeys(texts))
        vectors = dict(zip(different, encode(model, different, kind, **options), strict=True))
        sides.append([vectors[text] for text in texts])
    return model.similarity_pairwise(*sides).numpy()


@dataclass(frozen=True)
class Alignment:
    """Which token of a document answers which token of a query."""

    query_tokens: list[str]
    doc_tokens: list[str]
    similarity: np.ndarray  # (n_query, n_doc) cosines

    @property
    def best(self) -> np.ndarray:
        """(n_query,) place of the best document token of each query token."""
        return self.similarity.argmax(axis=1)

    @property
    def shares(self) -> np.ndarray:
        """(n_query,) what each query token adds to the sum."""
        return self.similarity.max(axis=1)


def align(model, query: str, document: str) -> Alignment:
    """The cosines behind one score, with the tokens as text.

    >>> from retrieval_lab import tiny
    >>> alignment = align(tiny.multi_vector_encoder(), "tram", "the tram")
    >>> alignment.query_tokens, alignment.similarity.shape
    (['[CLS]', 't', 'r', 'a', 'm', '[SEP]'], (6, 10))
    """
    asked, text = (_tokens(model, query, "query"), _tokens(model, document, "document"))
    return Alignment(asked[0], text[0], (asked[1] @ text[1].T).numpy())


def _tokens(model, text: str, kind: str) -> tuple[list[str], Tensor]:
    call = {"query": model.encode_query, "document": model.encode_document}[kind]
    raw = call(text, output_value=None)
    mask = raw["attention_mask"].bool().cpu()
    ids = raw["input_ids"].cpu()[mask].tolist()
    names = [model.tokenizer.decode([token]).strip() or "␣" for token in ids]
    return names, raw["token_embeddings"].cpu()[mask].float().clone()


def train(model, data, config: Config | None = None):
    """Fine-tune on MaxSim by sentence-transformers' own trainer.

    The loss divides each score by the number of the query's tokens: the ranking stays the same, and the temperature means
    what it means for one vector a text. Batches hold texts of like length; rows that share a text never meet in one. Where rows
    have a prompt_for_query, that stands in place of the model's query prompt.

    Parameters
    ----------
    model : MultiVectorEncoder; it is changed in place and returned
    data : datasets.Dataset. In-batch: columns ``query, positive[, negative_1, ...]``. With a teacher: ``query``, two or more columns of
        documents (``positive``, ``document_...``, ``negative_...``), ``label`` with a list of as many scores; or the rows of
        `formats.read` with kind "scored"
    config : see `training.Config`; ``loss_type`` is "in_batch" (the default), "distill" (KL divergence between the teacher's softmax and
        the model's; ``teacher_temperature`` is to be about the spread of the teacher's scores) or "margin_mse" (differences between
        scores; no division by the number of tokens, as the teacher's scale counts)

    Raises
    ------
    ValueError
        If the loss is not known, a setting is not read by it or by this family, or the columns do not fit it.

    Source: Khattab & Zaharia 2020, section 3.3 (in-batch); Santhanam et al. 2022 (ColBERTv2), section 3.2, and Hofstätter et al. 2020
    (teachers); lesson 02.
    """
    config = config or Config()
    config.refuse_unread("colbert")
    kind = config.chosen_loss(LOSSES, "in_batch")
    own_prompts = PROMPT in data.column_names  # they take the place of the model's query prompt
    data = formats.apply_prompts(data)
    data = data if kind == "in_batch" else one_row_a_query(data)
    columns = batching.checked_columns(data) if kind == "in_batch" else ["query", *_documents(data)]
    with config.applied_to(model):  # lengths are counted after truncation
        sampler = batching.sampler(model, data, columns)
    data = data.select_columns(columns + ["label"] * (kind != "in_batch"))
    loss = _loss(model, kind, config)
    prompts = batching.prompts(model, [name for name in columns if name != "query" or not own_prompts])
    return fit(model, data, loss, config, prompts=prompts, batch_sampler=sampler)


def _loss(model, kind: str, config: Config):
    from sentence_transformers.multi_vector_encoder import losses, scoring

    if kind == "distill":
        temperatures = {"student_temperature": config.temperature, "teacher_temperature": config.teacher_temperature}
        return losses.MultiVectorDistillKLDivLoss(model, similarity_fct=scoring.mean_colbert_kd_scores, **temperatures)
    if kind == "margin_mse":
        return losses.MultiVectorMarginMSELoss(model)
    options = {"scale": 1 / config.temperature, "similarity_fct": scoring.mean_colbert_scores}
    if config.mini_batch_size:
        size = {"mini_batch_size": config.mini_batch_size}
        return losses.CachedMultiVectorMultipleNegativesRankingLoss(model, **options, **size)
    return losses.MultiVectorMultipleNegativesRankingLoss(model, **options)


def one_row_a_query(data):
    """Rows of ``query, document, score, group`` as one row a group: ``query, document_1, ..., document_n, label``, best first.

    A dataset that already has ``label`` beside its documents comes back as it is. Rows keep their ``prompt_for_query``.

    Raises
    ------
    ValueError
        If the columns are neither of the two, a label has not one score for each document, or the groups differ in size or have
        fewer than two documents.

    >>> from datasets import Dataset
    >>> rows = {"query": ["q", "q"], "document": ["a", "b"], "score": [0.1, 0.9], "group": [0, 0]}
    >>> one_row_a_query(Dataset.from_dict(rows))[0]
    {'query': 'q', 'document_1': 'b', 'document_2': 'a', 'label': [0.9, 0.1]}
    """
    from datasets import Dataset

    if {"query", "label"} <= set(data.column_names) and len(_documents(data)) > 1:
        return _checked_lists(data)
    if not {"query", "document", "score", "group"} <= set(data.column_names):
        raise ValueError(
            say(
                en=f"training with a teacher needs columns query, document, score, group, or query, document_1, document_2, ..., label; got {data.column_names}",
                zh=f"用教师分数训练需要 query、document、score、group 四列，或 query、document_1、document_2……、label；现在是 {data.column_names}",
            )
        )
    groups: dict[int, list[dict]] = {}
    for row in data:
        groups.setdefault(row["group"], []).append(row)
    sizes = sorted({len(rows) for rows in groups.values()})
    if len(sizes) != 1 or sizes[0] < 2:
        raise ValueError(
            say(
                en=f"the queries have {sizes} documents each; training with a teacher needs the same number for every query, at least 2",
                zh=f"各查询的文档数为 {sizes}；用教师分数训练时，每个查询的文档数要相同，至少 2 篇",
            )
        )
    return Dataset.from_list([_one_row(sorted(rows, key=lambda row: -row["score"])) for rows in groups.values()])


def _one_row(rows: list[dict]) -> dict:
    documents = {f"document_{place}": row["document"] for place, row in enumerate(rows, 1)}
    prompt = {PROMPT: rows[0][PROMPT]} if PROMPT in rows[0] else {}
    return {"query": rows[0]["query"], **documents, "label": [row["score"] for row in rows], **prompt}


def _documents(data) -> list[str]:
    """The columns that hold documents, in the order of the label's scores."""
    names = ("positive", "document", "negative")
    return [name for name in data.column_names if name in names or name.startswith(("document_", "negative_"))]


def _checked_lists(data):
    columns = _documents(data)
    batching.refuse_others(data, ["query", *columns, "label", PROMPT], "query, document_1, document_2, ..., label")
    for place, scores in enumerate(data["label"]):
        if np.shape(scores) != (len(columns),):
            raise ValueError(
                say(
                    en=f"row {place}: label is {scores}; give a list of {len(columns)} scores, one for each of {', '.join(columns)}",
                    zh=f"第 {place} 行：label 是 {scores}；要给 {len(columns)} 个得分的列表，依次对应 {'、'.join(columns)}",
                )
            )
    return data
