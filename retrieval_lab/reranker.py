"""Cross-encoders: one score for a query and a document read together. Load, score, rerank, fine-tune a plain CrossEncoder.
Taught in lesson 03.
"""

from collections.abc import Sequence

import numpy as np

from retrieval_lab import batching


def score(model, pairs: Sequence[tuple[str, str]], budget: int = 2048, sigmoid: bool = False) -> np.ndarray:
    """One score a pair, equal to ``model.predict`` but batched by tokens.

    Parameters
    ----------
    model : CrossEncoder with one output
    pairs : n of (query, document), in any order and of any length
    budget : tokens of a padded batch
    sigmoid : squeeze the logits into 0 .. 1; the order stays

    Returns
    -------
    (n,) float32
    """
    import torch
    from tqdm.auto import tqdm

    lengths = _token_lengths(model, pairs)
    activation = torch.nn.Sigmoid() if sigmoid else torch.nn.Identity()
    scores = np.zeros(len(pairs), np.float32)
    with tqdm(total=len(pairs), unit="pair", desc="rerank", leave=False, disable=len(pairs) < 64) as bar:
        for batch in batching.token_budget(lengths, budget):
            chosen = [tuple(pairs[i]) for i in batch]
            scores[batch] = model.predict(
                chosen, batch_size=len(batch), activation_fn=activation, show_progress_bar=False
            )
            bar.update(len(batch))
    return scores


def _token_lengths(model, pairs) -> list[int]:
    """Tokens of each pair after truncation, special tokens included."""
    if not len(pairs):
        return []
    queries, docs = zip(*pairs, strict=True)
    ids = model.tokenizer(list(queries), list(docs), truncation=True, max_length=model.max_seq_length)["input_ids"]
    return [len(row) for row in ids]
