"""Batches of texts of like length, for encoding and for training: on a CPU, padding is the largest waste.
Taught in lesson 01 (encoding) and lesson 07 (training).
"""

import random
from collections.abc import Iterator
from itertools import chain

from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.util.distributed import get_world_size

from retrieval_lab.profiles import say


def token_budget(lengths: list[int], budget: int = 2048) -> list[list[int]]:
    """Indices grouped so that each batch, padded to its longest text, holds at most ``budget`` tokens and is at most half padding.

    Longest first.

    Parameters
    ----------
    lengths : tokens of each text
    budget : tokens of a padded batch. 2048 was fastest on two cores

    A text longer than the budget is a batch of its own; every index appears once. Texts without a token get the shortest other
    one into their batch, for without any token a model can compute nothing.

    >>> token_budget([3, 10, 4], budget=10)
    [[1], [2, 0]]
    >>> token_budget([20, 8, 20])  # 8 is less than half of 20
    [[0, 2], [1]]
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or longest * (len(batches[-1]) + 1) > budget or 2 * lengths[index] < longest:
            batches.append([])
            longest = lengths[index]
        batches[-1].append(index)
    if longest == 0 and len(batches) > 1:
        batches[-1].insert(0, batches[-2].pop())
    return [batch for batch in batches if batch]


def _must_not_meet(data, columns: list[list[str]]) -> list[set[str]]:
    """Of each row: its texts, all negatives that later epochs may draw, and every other answer to its query.

    Negatives too, because one row's negative may be another row's answer; other answers, because in the batch of a row that
    holds one it would count as a negative.
    """
    texts = [set(row) for row in zip(*columns, strict=True)]
    if data.format["type"] == "custom":  # see `negatives.NegativeDraw`
        texts = [row | set(drawn) for row, drawn in zip(texts, data.with_format(None)["negatives"], strict=True)]
    answers: dict[str, set[str]] = {}
    for query, positive in zip(*columns[:2], strict=False):
        answers.setdefault(query, set()).add(positive)
    return [row | answers.get(query, set()) for row, query in zip(texts, columns[0], strict=True)]


class BucketBatchSampler(DefaultBatchSampler):
    """Shuffled training batches of like length in which no text occurs twice.

    Equal texts in one batch would make the loss push a query away from its own answer. So would another answer of the
    same query: rows with the same first column never meet either. Where it can be avoided, no batch has one row, which
    would have no negative. Every epoch has the same number of batches, because the trainer counts them once.

    Under several processes the rule holds for their batches together, since they lend each other negatives. All of them get
    equally many rows, so what does not divide evenly stays out, other rows in each epoch.

    Parameters
    ----------
    lengths : tokens of each row of the dataset, e.g. of its longest text
    texts : the texts of each row that must not meet in a batch
    window : batches that are sorted by length together; 8 keeps neighbours random and padding low
    world_size : processes that train together; None asks torch

    Source: lesson 07; timed in benchmarks/speed.md.
    """

    def __init__(self, dataset, batch_size, drop_last=False, *, lengths, texts, window=8, world_size=None, **kwargs):
        super().__init__(dataset, batch_size=batch_size, drop_last=drop_last, **kwargs)
        self.lengths, self.texts, self.window = lengths, texts, window
        self.world_size = world_size or get_world_size()
        self.rows = batch_size * self.world_size  # of all processes together
        self.n_batches = len(self._drawn(0))
        if self.world_size > 1:
            self.batch_size = None  # accelerate would leave out batches that are not full

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._drawn(self.epoch)
        if not self.drop_last:
            batches = self._as_many_as_promised(batches)
        for batch in batches:
            # A process takes every world_size-th list, so these end up side by side.
            yield from (batch[rank :: self.world_size] for rank in range(self.world_size))

    def __len__(self) -> int:
        return self.n_batches * self.world_size

    def _drawn(self, epoch: int) -> list[list[int]]:
        rng = random.Random(f"{self.seed}-{epoch}")
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        size = self.window * self.rows
        windows = [sorted(order[i : i + size], key=lambda j: self.lengths[j]) for i in range(0, len(order), size)]
        batches = self._without_repeats([index for window in windows for index in window])
        if self.drop_last:
            batches = [batch for batch in batches if len(batch) == self.rows]
        batches = [batch[: len(batch) // self.world_size * self.world_size] for batch in batches]
        batches = [batch for batch in batches if batch]
        rng.shuffle(batches)
        return batches

    def _without_repeats(self, order: list[int]) -> list[list[int]]:
        """Fill each batch in order; a row that clashes waits for the next batch. The last ones may be short."""
        batches: list[list[int]] = []
        waiting, fresh, n_left = [], iter(order), len(order)
        while n_left:  # only rows that wait are looked at twice; one pass over the rest, or 200,000 rows take 14 s
            batch, seen, clashing, again = [], set(), [], iter(waiting)
            for index in chain(again, fresh):
                if seen.isdisjoint(self.texts[index]):
                    batch.append(index)
                    seen |= self.texts[index]
                else:
                    clashing.append(index)
                if len(batch) == self.rows:
                    break
            batches.append(batch)
            waiting, n_left = [*clashing, *again], n_left - len(batch)
        return batches if self.drop_last else self._without_single_rows(batches)

    def _without_single_rows(self, batches: list[list[int]]) -> list[list[int]]:
        """Give a batch of one row a second one, from the nearest batch that has three and one that does not clash."""
        for place, batch in enumerate(batches):
            if len(batch) == 1:
                givers = [other for other in reversed(batches[:place]) if len(other) > 2]
                moves = ((other, row) for other in givers for row in other if self._fits(row, batch))
                if move := next(moves, None):
                    move[0].remove(move[1])
                    batch.append(move[1])
        return batches

    def _fits(self, row: int, batch: list[int]) -> bool:
        return all(self.texts[row].isdisjoint(self.texts[other]) for other in batch)

    def _as_many_as_promised(self, batches: list[list[int]]) -> list[list[int]]:
        """Split the longest batches where there are too few; share the shortest out where there are too many."""
        step = self.world_size
        while len(batches) < self.n_batches:
            longest = max(batches, key=len)
            if len(longest) < 2 * step:
                break
            half = len(longest) // 2 // step * step
            batches.append([longest.pop() for _ in range(half)])
        while len(batches) > self.n_batches:
            rest = min(batches, key=len)
            batches.remove(rest)
            for row in rest:
                self._place(row, batches)
        return batches

    def _place(self, row: int, batches: list[list[int]]) -> None:
        """Into the shortest batch that takes it, or that does once the one row that clashes has found another place.

        A row for which there is none waits for the next epoch.
        """
        for batch in sorted(batches, key=len):
            clashing = [other for other in batch if self.texts[row] & self.texts[other]]
            homes = [home for home in batches if home is not batch and clashing and self._fits(clashing[0], home)]
            if not clashing or (len(clashing) == 1 and homes):
                for other in clashing:
                    batch.remove(other)
                    homes[0].append(other)
                batch.append(row)
                return


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
        If ``texts`` is one string instead of a list, ``kind`` is neither of the two, or no text has a token.
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
    before = prompt(model, kind) if options.get("prompt") is None else options["prompt"]
    lengths = token_lengths(model, [before + text for text in texts])
    first = model[0] if hasattr(model, "__getitem__") else None  # a graph has no modules
    filled_up = kind == "query" and getattr(first, "query_expansion", None)
    if lengths and not any(lengths) and not filled_up:
        raise ValueError(
            say(
                en=f"none of {len(texts)} texts has a token: they are empty, and this tokenizer adds no token of its own; leave empty texts out",
                zh=f"{len(texts)} 个文本都没有词元：文本为空，这个分词器又不添加自己的词元；把空文本去掉",
            )
        )
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
    """The columns ``query, positive[, negative_1, ...]`` of a training set with in-batch negatives, in this order, which losses go by.

    Raises
    ------
    ValueError
        If the columns are not those, there are others that would teach nothing, or there are no rows.
    """
    negatives = [name for name in data.column_names if name == "negative" or name.startswith("negative_")]
    columns = ["query", "positive", *negatives]
    if not set(columns) <= set(data.column_names) or not len(data):
        raise ValueError(
            say(
                en=f"training needs rows with columns query, positive[, negative_1, ...]; got {len(data)} rows with {data.column_names}",
                zh=f"训练数据要有 query、positive[、negative_1……] 这些列；现在是 {len(data)} 行，列为 {data.column_names}",
            )
        )
    refuse_others(data, columns, "query, positive[, negative_1, ...]")
    return columns


def refuse_others(data, columns: list[str], expected: str) -> None:
    """A column that is not among ``columns`` would be dropped, so a misspelt name would go unnoticed: say it."""
    if others := [name for name in data.column_names if name not in columns]:
        raise ValueError(
            say(
                en=f"this training does not read the columns {', '.join(others)}; its columns are {expected}: rename them, or drop them with data.remove_columns({others})",
                zh=f"这种训练不读这些列：{'、'.join(others)}；可用的列是 {expected}：改列名，或用 data.remove_columns({others}) 去掉",
            )
        )


def sampler(model, data, columns: list[str]):
    """A function that the trainer calls to make its `BucketBatchSampler`; ``columns`` are those that hold texts."""
    shown = data[:]  # of a dataset that redraws its negatives: those of the first epoch
    lengths = [max(row) for row in zip(*(token_lengths(model, shown[name]) for name in columns), strict=True)]
    texts = _must_not_meet(data, [shown[name] for name in columns])
    return buckets(lengths, texts)


def buckets(lengths: list[int], texts: list[set[str]]):
    """A function that the trainer calls to make its `BucketBatchSampler` over rows of these lengths and texts."""
    return maker(BucketBatchSampler, lengths=lengths, texts=texts)


def maker(sampler: type, **known):
    """A function that the trainer calls to make its sampler, which gets what is ``known`` of the rows as well."""

    def make(dataset, batch_size, drop_last, valid_label_columns=None, generator=None, seed=0):
        kept = {"valid_label_columns": valid_label_columns, "generator": generator, "seed": seed}
        # Under several processes the trainer asks for drop_last, lest uneven last batches hang; here they are even.
        return sampler(dataset, batch_size, **known, **kept)

    return make
