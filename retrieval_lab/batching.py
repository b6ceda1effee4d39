"""Batches of texts of like length, for encoding and for training: on a CPU, padding is the largest waste.
Taught in lesson 01 (encoding) and lesson 07 (training).
"""

import random
from collections.abc import Iterator

from sentence_transformers.base.sampler import DefaultBatchSampler

from retrieval_lab.profiles import say


def token_budget(lengths: list[int], budget: int = 2048) -> list[list[int]]:
    """Indices grouped so that each batch, padded to its longest text, holds at most ``budget`` tokens. Longest first.

    Parameters
    ----------
    lengths : tokens of each text
    budget : tokens of a padded batch. 2048 was fastest on two cores

    A text longer than the budget is a batch of its own; every index appears once.

    >>> token_budget([3, 10, 4], budget=10)
    [[1], [2, 0]]
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or longest * (len(batches[-1]) + 1) > budget:
            batches.append([])
            longest = lengths[index]
        batches[-1].append(index)
    return batches


class BucketBatchSampler(DefaultBatchSampler):
    """Shuffled training batches of like length in which no text occurs twice.

    Equal texts in one batch would make the loss push a query away from its own answer. So would another answer of the
    same query: rows with the same first column never meet either.

    Parameters
    ----------
    lengths : tokens of each row of the dataset, e.g. of its longest text
    texts : the texts of each row that must not meet in a batch
    window : batches that are sorted by length together; 8 keeps neighbours random and padding low

    Source: lesson 07; timed in benchmarks/speed.md.
    """

    def __init__(self, dataset, batch_size, drop_last=False, *, lengths, texts, window=8, **kwargs):
        super().__init__(dataset, batch_size=batch_size, drop_last=drop_last, **kwargs)
        self.lengths, self.texts, self.window = lengths, texts, window

    def __iter__(self) -> Iterator[list[int]]:
        rng = random.Random(f"{self.seed}-{self.epoch}")
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        size = self.window * self.batch_size
        windows = [sorted(order[i : i + size], key=lambda j: self.lengths[j]) for i in range(0, len(order), size)]
        batches = self._without_repeats([index for window in windows for index in window])
        rng.shuffle(batches)
        yield from batches

    def _without_repeats(self, order: list[int]) -> list[list[int]]:
        """Fill each batch in order; a row that clashes waits for the next batch. The last ones may be short."""
        batches = []
        while order:
            batch, seen, waiting = [], set(), []
            for place, index in enumerate(order):
                if len(batch) == self.batch_size:
                    waiting += order[place:]
                    break
                if seen & self.texts[index]:
                    waiting.append(index)
                else:
                    batch.append(index)
                    seen |= self.texts[index]
            batches.append(batch)
            order = waiting
        return [b for b in batches if len(b) == self.batch_size] if self.drop_last else batches

    def __len__(self) -> int:
        return len(list(iter(self)))


def encoded(model, texts: list[str], kind: str, budget: int = 2048, **options) -> Iterator[tuple[list[int], list]]:
    """Encode texts by the token budget: yields (places, what the model returns for them), the longest texts first.

    Parameters
    ----------
    model : SentenceTransformer or MultiVectorEncoder
    texts : n texts, in any order and of any length
    kind : "query" or "document": which of the model's prompts is put before each text, once
    budget : tokens of a padded batch
    options : further arguments of the model's ``encode_query`` and ``encode_document``

    Raises
    ------
    ValueError
        If ``texts`` is one string instead of a list, or ``kind`` is neither of the two.
    """
    from tqdm.auto import tqdm

    if kind not in ("query", "document"):
        raise ValueError(
            say(en=f"kind={kind!r}; use 'query' or 'document'", zh=f"kind={kind!r}；只能是 'query' 或 'document'")
        )
    if isinstance(texts, str):
        raise ValueError(
            say(
                en=f"texts is one string ({texts[:30]!r}), which would be read letter by letter; give a list: [text]",
                zh=f"texts 是一个字符串（{texts[:30]!r}），会被逐字拆开；要给列表：[text]",
            )
        )
    call = {"query": model.encode_query, "document": model.encode_document}[kind]
    before = prompt(model, kind)
    lengths = token_lengths(model, [before + text for text in texts])
    options = {"show_progress_bar": False} | options
    bar = {"unit": "token", "unit_scale": True, "desc": f"encode {kind}", "leave": False, "disable": len(texts) < 64}
    with tqdm(total=sum(lengths), **bar) as progress:
        for batch in token_budget(lengths, budget):
            yield batch, call([texts[i] for i in batch], batch_size=len(batch), **options)
            progress.update(sum(lengths[i] for i in batch))


def token_lengths(model, texts: list[str]) -> list[int]:
    """Tokens of each text after truncation, special tokens included."""
    if not texts:
        return []
    ids = model.tokenizer(list(texts), truncation=True, max_length=model.max_seq_length, padding=False)["input_ids"]
    return [len(row) for row in ids]


def prompt(model, kind: str) -> str:
    """The prompt that encode_query or encode_document uses: of the first name that the model has, even if it is empty."""
    names = ["query"] if kind == "query" else ["document", "passage", "corpus"]
    return next((model.prompts[name] for name in names if name in model.prompts), None) or ""


def prompts(model, columns: list[str]) -> dict[str, str] | None:
    """The prompt of each training column that has one."""
    found = {name: prompt(model, "query" if name == "query" else "document") for name in columns}
    return {name: text for name, text in found.items() if text} or None


def checked_columns(data) -> list[str]:
    """The columns ``query, positive[, negative_1, ...]`` of a training set with in-batch negatives.

    Raises
    ------
    ValueError
        If the columns are not those, or there are no rows.
    """
    columns = [name for name in data.column_names if name in ("query", "positive") or name.startswith("negative")]
    if columns[:2] != ["query", "positive"] or not len(data):
        raise ValueError(
            say(
                en=f"training needs rows with columns query, positive[, negative_1, ...]; got {len(data)} rows with {data.column_names}",
                zh=f"训练数据要有 query、positive[、negative_1……] 这些列；现在是 {len(data)} 行，列为 {data.column_names}",
            )
        )
    return columns


def sampler(model, data, columns: list[str]):
    """A function that the trainer calls to make its `BucketBatchSampler`; ``columns`` are those that hold texts."""
    lengths = [max(row) for row in zip(*(token_lengths(model, data[name]) for name in columns), strict=True)]
    # Negatives too: one row's negative may be another row's answer.
    texts = [set(row) for row in zip(*(data[name] for name in columns), strict=True)]

    def make(dataset, batch_size, drop_last, valid_label_columns=None, generator=None, seed=0):
        kept = {"valid_label_columns": valid_label_columns, "generator": generator, "seed": seed}
        return BucketBatchSampler(dataset, batch_size, drop_last, lengths=lengths, texts=texts, **kept)

    return make
