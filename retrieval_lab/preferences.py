"""What a language model would rather be asked after reading a passage: scores for training without a single label.
Taught in lesson 01b; measured in benchmarks/recipes.md.
"""

from collections.abc import Sequence

import numpy as np
import torch

from retrieval_lab import batching, decoders, models
from retrieval_lab.profiles import say
from retrieval_lab.reranker_data import checked_pairs


def load(name: str = "smollm2"):
    """A causal language model and its tokenizer, by alias, hub id or folder, ready for `score`."""
    return decoders.causal_lm(models.resolve(name))


def score(
    model, tokenizer, pairs: Sequence[tuple[str, str]], *, prefix: str = "\nQuestion: ", max_length: int = 160
) -> np.ndarray:
    """Mean log-probability that the model gives to the tokens of the query, after the passage.

    Rows of ``query, document, score`` with these scores train an encoder by KL within each query; the scores lie close together, so
    `Config.teacher_temperature` wants to be small (0.2 in benchmarks/recipes.py).

    Parameters
    ----------
    model, tokenizer : as `load` returns them
    pairs : (query, passage)
    prefix : what stands between passage and query, a part of what is scored
    max_length : tokens of the passage that are read; the query is never cut

    Returns
    -------
    (n_pairs,) float32, each at most 0

    Raises
    ------
    ValueError
        If a pair is not two strings, or prefix and query together have no token that could be scored.

    Source: Sachan et al. 2022 (UPR), section 2; Zhang et al. 2023 (LLM-Embedder), section 3.1; lesson 01b.

    >>> from retrieval_lab import tiny
    >>> bool((score(*tiny.causal_lm(), [("tram", "the tram stops here"), ("tram", "")]) < 0).all())
    True
    """
    rows = [_tokens(tokenizer, prefix + query, document, max_length) for query, document in checked_pairs(pairs)]
    _refuse_nothing(rows)
    lengths, scores = [len(ids) for ids, _ in rows], np.zeros(len(rows), np.float32)
    for batch in batching.token_budget(lengths, budget=512):  # logits are as wide as the vocabulary
        scores[batch] = _means(model, [rows[i] for i in batch])
    return scores


def _tokens(tokenizer, question: str, document: str, max_length: int) -> tuple[list[int], int]:
    """The ids of passage and question, and where the question begins."""
    passage = tokenizer(document, truncation=True, max_length=max_length)["input_ids"]
    passage = passage[:-1] if passage[-1:] == [tokenizer.eos_token_id] else passage  # the text goes on
    passage = passage or [tokenizer.eos_token_id]
    return passage + tokenizer(question, add_special_tokens=False)["input_ids"], len(passage)


def _refuse_nothing(rows: list[tuple[list[int], int]]) -> None:
    if empty := [place for place, (ids, start) in enumerate(rows) if len(ids) == start]:
        raise ValueError(
            say(
                en=f"pair {empty[0]}: prefix and query together have no token to score; give a query or a prefix",
                zh=f"第 {empty[0]} 对：prefix 和查询合起来没有可打分的词元；给出查询或 prefix",
            )
        )


def _means(model, rows: list[tuple[list[int], int]]) -> list[float]:
    """Of each row the mean over its question's tokens."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row, _ in rows], batch_first=True).to(model.device)
    lengths = torch.tensor([len(row) for row, _ in rows], device=model.device)
    mask = torch.arange(ids.shape[1], device=model.device) < lengths[:, None]  # (n, width)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask.long()).logits[:, :-1]  # (n, width - 1, n_words)
    # (n, width - 1): each token after what stands before it
    of_next = logits.log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    return [of_next[i, start - 1 : len(row) - 1].mean().item() for i, (row, start) in enumerate(rows)]
