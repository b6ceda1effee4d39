"""Which texts share a run, and what happens to those whose client left."""

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from retrieval_lab.serving_batcher import Batcher, OverloadedError, choose


def text(length: int, value: float = 0.0):
    return SimpleNamespace(ids=[0] * length, value=value)


def row_of_each(encodings):
    return np.array([[e.value] for e in encodings])


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 20))


def test_chosen_batch_keeps_to_the_budget_and_holds_the_oldest():
    rng = np.random.default_rng(0)
    for _ in range(200):
        lengths = rng.integers(1, 60, rng.integers(1, 30)).tolist()
        places = choose(lengths, budget=100)
        taken = [lengths[i] for i in places]
        assert 0 in places and len(set(places)) == len(places)
        assert max(taken) * len(taken) <= 100 or len(taken) == 1
        farthest = max(abs(length - lengths[0]) for length in taken)
        left = [length for i, length in enumerate(lengths) if i not in places]
        assert all(abs(length - lengths[0]) >= farthest for length in left)  # nothing nearer was passed over


def test_text_longer_than_the_budget_goes_alone():
    assert choose([500, 3, 500], budget=100) == [0]


def test_what_arrives_during_a_run_shares_the_next():
    sizes, started, release = [], threading.Event(), threading.Event()

    def forward(encodings):
        sizes.append(len(encodings))
        started.set()
        assert release.wait(10)
        return row_of_each(encodings)

    async def scene():
        batcher = Batcher(forward)
        first = asyncio.create_task(batcher.submit([text(4, 1.0)]))
        await asyncio.to_thread(started.wait, 10)
        others = [asyncio.create_task(batcher.submit([text(4, value)])) for value in (2.0, 3.0, 4.0)]
        await asyncio.sleep(0)
        release.set()
        rows = await asyncio.gather(first, *others)
        await batcher.close()
        return [row.tolist() for row in rows]

    assert run(scene()) == [[[1.0]], [[2.0]], [[3.0]], [[4.0]]]
    assert sizes == [1, 3]


def test_rows_come_back_to_their_own_request_whatever_the_order_of_the_runs():
    async def scene():
        batcher = Batcher(row_of_each, budget=40)
        rng = np.random.default_rng(0)
        asked = [[text(int(rng.integers(1, 30)), float(i * 10 + j)) for j in range(i % 4 + 1)] for i in range(40)]
        found = await asyncio.gather(*(batcher.submit(one) for one in asked))
        await batcher.close()
        return all(rows[:, 0].tolist() == [e.value for e in one] for rows, one in zip(found, asked, strict=True))

    assert run(scene())


def test_texts_of_a_client_that_left_are_not_computed():
    seen, started, release = [], threading.Event(), threading.Event()

    def forward(encodings):
        seen.extend(e.value for e in encodings)
        started.set()
        assert release.wait(10)
        return row_of_each(encodings)

    async def scene():
        batcher = Batcher(forward)
        first = asyncio.create_task(batcher.submit([text(1, 1.0)]))
        await asyncio.to_thread(started.wait, 10)
        leaving = asyncio.create_task(batcher.submit([text(1, 2.0)]))
        staying = asyncio.create_task(batcher.submit([text(1, 3.0)]))
        await asyncio.sleep(0)
        leaving.cancel()
        release.set()
        await asyncio.gather(first, staying)
        await batcher.close()

    run(scene())
    assert seen == [1.0, 3.0]


def test_failure_belongs_to_its_own_run_and_the_next_one_works():
    def forward(encodings):
        if any(e.value < 0 for e in encodings):
            raise MemoryError("too much")
        return row_of_each(encodings)

    async def scene():
        batcher = Batcher(forward)
        with pytest.raises(MemoryError, match="too much"):
            await batcher.submit([text(1, -1.0)])
        rows = await batcher.submit([text(1, 5.0)])
        await batcher.close()
        return rows.tolist()

    assert run(scene()) == [[5.0]]


def test_rest_of_a_request_that_failed_is_not_computed():
    runs = []

    def forward(encodings):
        runs.append([e.value for e in encodings])
        if any(e.value < 0 for e in encodings):
            raise MemoryError("too much")
        return row_of_each(encodings)

    async def scene():
        batcher = Batcher(forward, budget=4)
        asked = [batcher.submit([text(1, -1.0), *(text(1, -2.0) for _ in range(9))]), batcher.submit([text(1, 5.0)])]
        bad, good = await asyncio.gather(*asked, return_exceptions=True)
        waited = batcher.waiting_tokens
        await batcher.close()
        return bad, good, waited

    bad, good, waited = run(scene())
    assert isinstance(bad, MemoryError) and good.tolist() == [[5.0]] and waited == 0
    assert sum(-2.0 in one for one in runs) <= 3  # of 9 texts in runs of up to 4, each tried again alone: 12


def test_text_that_fails_alone_in_a_shared_run_is_the_only_one_refused():
    def forward(encodings):
        if any(e.value == 3 for e in encodings):
            raise MemoryError("too much")
        return row_of_each(encodings)

    async def scene():
        batcher = Batcher(forward)
        asked = (batcher.submit([text(1, float(value))]) for value in range(6))
        found = await asyncio.gather(*asked, return_exceptions=True)
        await batcher.close()
        return found

    found = run(scene())
    assert isinstance(found.pop(3), MemoryError) and [rows.tolist() for rows in found] == [
        [[v]] for v in (0, 1, 2, 4, 5)
    ]


def test_too_much_waiting_is_refused_and_says_how_much():
    async def scene():
        batcher = Batcher(row_of_each, max_waiting=10)
        with pytest.raises(OverloadedError, match="0 tokens are waiting, at most 10 may"):
            await batcher.submit([text(6), text(5)])
        await batcher.submit([text(6), text(4)])
        await batcher.close()

    run(scene())


def test_closing_finishes_what_waits_and_takes_nothing_new():
    async def scene():
        batcher = Batcher(row_of_each, budget=1)
        waiting = [asyncio.create_task(batcher.submit([text(1, float(i))])) for i in range(20)]
        await asyncio.sleep(0)
        await batcher.close()
        with pytest.raises(OverloadedError):
            await batcher.submit([text(1)])
        return [rows[0, 0] for rows in await asyncio.gather(*waiting)]

    assert run(scene()) == list(range(20))


def test_each_run_is_reported_with_its_padding():
    runs = []

    async def scene():
        batcher = Batcher(row_of_each, on_batch=lambda *numbers: runs.append(numbers))
        await batcher.submit([text(4), text(6), text(5)])
        await batcher.close()

    run(scene())
    assert runs == [(3, 15, 18)]


def test_closing_ends_even_when_every_waiting_client_left():
    async def scene():
        batcher = Batcher(row_of_each)
        leaving = asyncio.create_task(batcher.submit([text(1)]))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await batcher.close()

    run(scene())
