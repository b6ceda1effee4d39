"""Requests of many clients in one batch: whatever arrived while the model was busy goes into its next run.
Taught in lesson 06.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np


class OverloadedError(RuntimeError):
    """More tokens are waiting than the service may hold."""


@dataclass(eq=False)
class _Waiting:
    encoding: object  # has .ids
    future: asyncio.Future

    @property
    def length(self) -> int:
        return len(self.encoding.ids)


def choose(lengths: list[int], budget: int) -> list[int]:
    """Places of the texts for the next batch: the one that waited longest, then those nearest to it in length.

    The first always goes, so nobody starves; like lengths keep padding low.

    Parameters
    ----------
    lengths : tokens of each waiting text, in the order of arrival
    budget : tokens of the padded batch; a text longer than that goes alone

    >>> choose([5, 90, 6, 4], budget=20)  # 3 texts padded to 6 tokens: 18
    [0, 2, 3]
    """
    chosen, longest = [0], lengths[0]
    for place in sorted(range(1, len(lengths)), key=lambda i: abs(lengths[i] - lengths[0])):
        if max(longest, lengths[place]) * (len(chosen) + 1) > budget:
            break
        chosen.append(place)
        longest = max(longest, lengths[place])
    return chosen


class Batcher:
    """Runs ``forward`` on batches of waiting texts, one run at a time in one thread; no text waits for company.

    Parameters
    ----------
    forward : n encodings -> n rows
    budget : tokens of a padded batch. 2048 was fastest on two cores
    max_waiting : tokens that may wait; beyond it `submit` refuses
    on_batch : called with (texts, real tokens, padded tokens) of each run
    """

    def __init__(
        self,
        forward: Callable[[list], np.ndarray],
        budget: int = 2048,
        max_waiting: int = 65_536,
        on_batch: Callable[[int, int, int], None] = lambda texts, real, padded: None,
    ):
        self.forward, self.budget, self.max_waiting, self.on_batch = forward, budget, max_waiting, on_batch
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._worker: asyncio.Task | None = None
        self._closing = False

    @property
    def waiting_tokens(self) -> int:
        """Tokens of the texts that no run has taken yet."""
        return sum(item.length for item in self._waiting)

    async def submit(self, encodings: list) -> np.ndarray:
        """The rows of these encodings; when the caller is cancelled, those still waiting are dropped.

        Raises
        ------
        OverloadedError
            If too much is waiting, or the service is closing.
        """
        new = [_Waiting(encoding, asyncio.get_running_loop().create_future()) for encoding in encodings]
        if self._closing or self.waiting_tokens + sum(item.length for item in new) > self.max_waiting:
            raise OverloadedError(f"{self.waiting_tokens} tokens are waiting, at most {self.max_waiting} may")
        self._waiting += new
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        self._arrived.set()
        try:
            return np.stack(await asyncio.gather(*(item.future for item in new)))
        finally:
            for item in new:  # when one failed, nobody reads the others
                item.future.cancel()

    async def _work(self) -> None:
        while True:
            self._waiting = [item for item in self._waiting if not item.future.cancelled()]
            if self._waiting:
                await self._run_one()
            elif self._closing:
                return
            else:
                self._arrived.clear()
                await self._arrived.wait()

    async def _run_one(self) -> None:
        places = set(choose([item.length for item in self._waiting], self.budget))
        batch = [item for i, item in enumerate(self._waiting) if i in places]
        self._waiting = [item for i, item in enumerate(self._waiting) if i not in places]
        await self._run(batch)

    async def _run(self, batch: list[_Waiting]) -> None:
        """One run of the model; when it fails, each text alone, so that only the one at fault gets the error."""
        lengths = [item.length for item in batch]
        self.on_batch(len(batch), sum(lengths), max(lengths) * len(batch))
        call = asyncio.get_running_loop().run_in_executor(self._thread, self.forward, [i.encoding for i in batch])
        try:
            rows = await call
        except Exception as problem:  # whatever the model raises belongs to a request, not to the worker
            await self._failed(batch, problem)
            return
        for item, row in zip(batch, rows, strict=True):
            if not item.future.done():
                item.future.set_result(row)

    async def _failed(self, batch: list[_Waiting], problem: Exception) -> None:
        for item in batch:
            if not item.future.done() and len(batch) > 1:
                await self._run([item])
            elif not item.future.done():
                item.future.set_exception(problem)

    async def close(self) -> None:
        """Take nothing new, finish what is waiting, end the thread."""
        self._closing = True
        self._arrived.set()
        if self._worker is not None:
            await self._worker
        self._thread.shutdown()
