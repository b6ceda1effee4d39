"""Which negatives a query gets in which epoch: drawn anew every epoch, every real one used before one repeats.
Taught in lesson 07; `formats.read(..., redraw=True)` attaches `NegativeDraw` to its dataset.
"""

import random
from collections.abc import Sequence

from retrieval_lab.data_report import sentence


class NegativeSampler:
    """Draws negatives from a seeded walk; the same seed, row and epoch always give the same texts.

    Nothing is remembered between calls, so a run resumed at epoch 5 draws what an unbroken run would have drawn.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed

    def draw(
        self, row_index: int, negatives: Sequence[str], n: int, epoch: int, *, turn: int = 0, turns: int = 1
    ) -> list[str]:
        """``n`` negatives of one query for one epoch.

        Draw after draw walks through a shuffled order of the distinct negatives and shuffles again only when all were used. When
        ``n`` is larger than their number they are reused as evenly as can be: within one draw no text comes more than once more
        often than another.

        Parameters
        ----------
        row_index : the query's place in its file; each has a walk of its own
        negatives : texts, at least one; a text that is listed twice counts once
        n : how many to draw, >= 1
        epoch : from 0
        turn, turns : a query with several positives gives ``turns`` training rows, and row ``turn`` draws in its turn from the one
            walk of the query

        Raises
        ------
        ValueError
            If there is no negative, or n, epoch or turn is out of range.

        Source: lesson 07. RAG-Retrieval draws at random each time, with repeats before all were used.

        >>> draws = [NegativeSampler(7).draw(0, ["a", "b", "c", "d"], 2, epoch) for epoch in (0, 1)]
        >>> sorted(draws[0] + draws[1])
        ['a', 'b', 'c', 'd']
        """
        distinct = list(dict.fromkeys(negatives))
        if not distinct:
            raise ValueError(sentence("no_negative", row=row_index))
        if n < 1 or epoch < 0 or not 0 <= turn < turns:
            raise ValueError(sentence("draw_range", n=n, epoch=epoch, turn=turn, turns=turns))
        start = (epoch * turns + turn) * n
        walk = self._cycles(row_index, len(distinct), n, (start + n - 1) // len(distinct))
        return [distinct[walk[at // len(distinct)][at % len(distinct)]] for at in range(start, start + n)]

    def _cycles(self, row_index: int, size: int, n: int, last: int) -> list[list[int]]:
        """The orders number 0 to ``last`` in which the ``size`` negatives are used up, one after the other.

        A draw may begin at the end of one order and finish in a later one; that one then starts with what the draw has not had.
        """
        rng = random.Random(f"{self.seed}/{row_index}")
        cycles: list[list[int]] = []
        for number in range(last + 1):
            order = rng.sample(range(size), size)
            start = number * size // n * n  # of the draw under way when this order begins
            had = set(cycles[start // size][start % size :]) if start < number * size else set()
            first = ([i for i in order if i not in had] + [i for i in order if i in had])[: start + n - number * size]
            cycles.append(first + [i for i in order if i not in first])
        return cycles


HIDDEN = ("negatives", "row_index", "turn", "turns")


class NegativeDraw:
    """A ``datasets`` transform that turns each row's list of negatives into columns ``negative_1..neg_nums`` for the current epoch.

    The stored columns ``negatives``, ``row_index``, ``turn`` and ``turns`` are replaced; all others pass through.

    >>> draw = NegativeDraw(seed=0, neg_nums=1)
    >>> rows = {"query": ["q"], "negatives": [["n", "n"]], "row_index": [0], "turn": [0], "turns": [1]}
    >>> draw(rows)
    {'query': ['q'], 'negative_1': ['n']}
    """

    def __init__(self, seed: int, neg_nums: int | None = None, epoch: int = 0):
        if neg_nums is not None and neg_nums < 1:
            raise ValueError(sentence("neg_nums", neg_nums=neg_nums))
        self.sampler, self.neg_nums, self.epoch = NegativeSampler(seed), neg_nums or 1, epoch

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        shown = {name: values for name, values in batch.items() if name not in HIDDEN}
        if "negatives" not in batch:  # datasets asks for one column alone
            return shown
        rows = zip(*(batch[name] for name in HIDDEN), strict=True)
        drawn = [
            self.sampler.draw(row_index, negatives, self.neg_nums, self.epoch, turn=turn, turns=turns)
            for negatives, row_index, turn, turns in rows
        ]
        columns = {f"negative_{i + 1}": [texts[i] for texts in drawn] for i in range(self.neg_nums)}
        return {name: shown[name] for name in ("query", "positive") if name in shown} | columns | shown


def set_epoch(dataset, epoch: int) -> None:
    """Make a dataset read with ``redraw=True``, and every selection or shuffle of it, show the negatives of ``epoch`` (from 0).

    Call it when an epoch begins, e.g. in ``TrainerCallback.on_epoch_begin``.

    Raises
    ------
    TypeError
        If the dataset does not redraw.
    """
    draw = dataset.format["format_kwargs"].get("transform") if dataset.format["type"] == "custom" else None
    if not isinstance(draw, NegativeDraw):
        raise TypeError(sentence("not_redrawing"))
    draw.epoch = epoch
