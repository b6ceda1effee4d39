"""What a decoder reranker reads: the tokens of whole prompts, cut where the document is, and padded so that the last one is real.
Taught in lesson 04; `llm` scores what is made here.
"""

from collections.abc import Iterator, Sequence

from retrieval_lab import batching
from retrieval_lab.reranker_data import SPARE, spans


def prompt_ids(model, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
    """The tokens of each pair's whole prompt, cut to the model's length, without padding."""
    if not len(pairs):
        return []
    options = {"text": {"padding": False}, "common": {"return_tensors": None}}
    return model.preprocess(fitted(model, pairs), processing_kwargs=options)["input_ids"]


def fitted(model, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs, cut where the library would cut something else.

    A query may take half of the room for texts, or what the document leaves. A document that comes last is left to the
    library, which cuts its end; one that comes first is cut here, where the library would cut its beginning.
    """
    pairs = [tuple(pair) for pair in pairs]
    options = {"text": {"padding": False}, "common": {"return_tensors": None}}
    room = model.max_seq_length - len(model.preprocess([("", "")], processing_kwargs=options)["input_ids"][0])
    return [_cut(model.tokenizer, query, document, max(room, 0)) for query, document in pairs]


def _cut(tokenizer, query: str, document: str, room: int) -> tuple[str, str]:
    if len(query.encode()) + len(document.encode()) <= room:  # no text has more tokens than bytes
        return query, document
    asked, told = (spans(tokenizer, text) for text in (query, document))
    if len(asked) > room // 2:
        asked = asked[: max(room // 2, room - len(told))]
        query = query[: asked[-1][1]] if asked else ""
    if tokenizer.truncation_side == "left" and len(asked) + len(told) > room:
        document = document[: told[max(0, room - len(asked) - SPARE - 1)][1]]
    return query, document


def fit_data(model, data):
    """A training dataset whose texts are cut as `score` cuts them, see `fitted`; of a row's cut queries the shortest stays."""
    if model.tokenizer.truncation_side == "right":
        return data
    columns = [name for name in data.column_names if name == "document" or name.startswith(("positive", "negative"))]

    def cut(row):
        found = {name: row[name] if isinstance(row[name], list) else [row[name]] for name in columns}
        short = {name: fitted(model, [(row["query"], text) for text in texts]) for name, texts in found.items()}
        query = min((query for pairs in short.values() for query, _ in pairs), key=len)
        docs = {name: [text for _, text in pairs] for name, pairs in short.items()}
        return {"query": query} | {n: texts if isinstance(row[n], list) else texts[0] for n, texts in docs.items()}

    return data.map(cut, desc="cut", load_from_cache_file=False)


SHARED = 4  # prompts of one query, from which on reading their common start once pays


def batches(model, rows: list[list[int]], queries: list[str], budget: int) -> Iterator[list[int]]:
    """Places of rows that go through the model together: those of one query, or else rows of like length.

    Parameters
    ----------
    rows : tokens of each prompt
    queries : the query of each; prompts of one query share their start
    budget : tokens of a padded batch
    """
    groups: dict[str, list[int]] = {}
    for place, query in enumerate(queries):
        groups.setdefault(query, []).append(place)
    shares = _cache_holds_all(model) and model.tokenizer.truncation_side == "right"  # the query first, in other words
    alone = [place for group in groups.values() if len(group) < SHARED or not shares for place in group]
    for group in [alone, *(group for group in groups.values() if len(group) >= SHARED and shares)]:
        for batch in batching.token_budget([len(rows[place]) for place in group], budget):
            yield [group[i] for i in batch]


def _cache_holds_all(model) -> bool:
    """Whether keys and values are all that a decoder remembers; a recurrent layer remembers otherwise."""
    kinds = getattr(model[0].model.config, "layer_types", None) or ["full_attention"]
    return set(kinds) <= {"full_attention", "sliding_attention"}


def with_shared_start(model, rows: list[list[int]]) -> dict:
    """Rows as a batch for the model, the tokens that all of them start with already read into its cache."""
    from transformers import DynamicCache

    same = next((i for i, tokens in enumerate(zip(*rows, strict=False)) if len(set(tokens)) > 1), None)
    start = min(map(len, rows)) - 1 if same is None else same
    if len(rows) < SHARED or start < 1 or not _cache_holds_all(model):
        return padded(model, rows)
    decoder = model[0].model
    cache = DynamicCache(config=decoder.config)
    decoder.base_model(**_tensors(model, [rows[0][:start]]), past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(len(rows))
    return padded(model, [row[start:] for row in rows], start) | {"past_key_values": cache}


def padded(model, rows: list[list[int]], start: int = 0) -> dict:
    """Rows as a batch, padded on the left; positions count from each row's first token, after ``start`` others in the cache."""
    last = {"logits_to_keep": 1} if model[0].transformer_task == "text-generation" else {}
    return _tensors(model, rows, start) | last | {"modality": "message"}


def _tensors(model, rows: list[list[int]], start: int = 0) -> dict:
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[model.tokenizer.pad_token_id] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[1] * start + [0] * (width - len(row)) + [1] * len(row) for row in rows])
    places = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, start:]
    features = {"input_ids": ids, "attention_mask": mask, "position_ids": places}
    return {name: tensor.to(model.device) for name, tensor in features.items()}
