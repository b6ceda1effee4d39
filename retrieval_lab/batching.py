"""Batches of texts of like length, for encoding and for training: on a CPU, padding is the largest waste.
Taught in lesson 01 (encoding) and lesson 07 (training).
"""

import random
from collections.abc import Iterator

from sentence_transformers.base.sampler import DefaultBatchSampler


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
