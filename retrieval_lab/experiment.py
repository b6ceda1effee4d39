"""One table for every comparison: quality, time, and an interval that says whether the difference could be luck.
Taught in lesson 00.
"""

import time

from retrieval_lab import metrics
from retrieval_lab.corpora import Collection
from retrieval_lab.profiles import say


def compare(systems: list, collection: Collection, baseline: int | str = 0, names=metrics.DEFAULT, k: int = 100):
    """Run systems on the same queries and compare each with a baseline row.

    Parameters
    ----------
    systems : objects with ``name`` and ``search(queries, k)``, in the order of the rows
    collection : the queries and judgements
    baseline : place or name of the row that the others are compared with, or "above": each with the row above it
    names : metrics; the interval is about the first
    k : documents that each system returns, at least as many as the metrics look at

    Returns
    -------
    pandas.DataFrame indexed by system: the metrics, ``ms/query`` (median of 20 single queries), and for the first metric the
    difference to the baseline, its 95 % interval (paired bootstrap over the queries) and p (randomisation test). In
    ``table.attrs`` are "per_query" (name -> values of the first metric) and "runs" (name -> run).

    Raises
    ------
    ValueError
        If two systems have the same name, or there is no row such as ``baseline`` says.

    Source: Sakai 2006; Smucker, Allan & Carterette 2007; lesson 00.
    """
    import pandas as pd

    labels = [system.name for system in systems]
    if len(set(labels)) < len(labels):
        raise ValueError(
            say(
                en=f"systems need names of their own, got {labels}; give each a `name`",
                zh=f"每个系统要有自己的名字，现在是 {labels}；分别给出 `name`",
            )
        )
    base = _row(labels, baseline)
    runs = {system.name: system.search(collection.queries, k) for system in systems}
    options = {"per_query": True, "relevant": collection.relevant}
    values = {name: metrics.evaluate(collection.qrels, run, names, **options) for name, run in runs.items()}
    first = {name: columns[names[0]] for name, columns in values.items()}
    rows = [{metric: column.mean() for metric, column in values[name].items()} for name in labels]
    for i, row in enumerate(rows):
        row["ms/query"] = milliseconds(systems[i], collection)
        other = i - 1 if base is None else base
        row |= _difference(names[0], first[labels[other]], first[labels[i]]) if i != other and other >= 0 else {}
    table = pd.DataFrame(rows, index=pd.Index(labels, name="system"))
    table.attrs = {"per_query": first, "runs": runs, "baseline": baseline}
    return table.fillna("")


def _row(labels: list[str], baseline: int | str) -> int | None:
    """The place of the baseline's row; None for "above"."""
    if baseline == "above":
        return None
    place = labels.index(baseline) if baseline in labels else baseline
    if place not in range(len(labels)):
        choices = f"0 … {len(labels) - 1}, {', '.join(map(repr, labels))}"
        raise ValueError(
            say(
                en=f"baseline={baseline!r} is no row; use one of {choices}, or 'above'",
                zh=f"baseline={baseline!r} 不是表里的一行；可用：{choices}，或 'above'",
            )
        )
    return place


def _difference(metric: str, before, after) -> dict:
    low, high = metrics.paired_bootstrap(before, after)
    return {
        f"Δ {metric}": f"{after.mean() - before.mean():+.3f}",
        "95 % interval": f"{low:+.3f} … {high:+.3f}",
        "p": f"{metrics.randomisation_test(before, after):.4f}",
    }


def milliseconds(system, collection: Collection, n: int = 20) -> float:
    """Median time of a single query, in ms, over the first ``n`` queries."""
    times = []
    for query_id, text in list(collection.queries.items())[:n]:
        start = time.perf_counter()
        system.search({query_id: text}, 10)
        times.append((time.perf_counter() - start) * 1000)
    return sorted(times)[len(times) // 2] if times else float("nan")


def show(table, decimals: int = 3):
    """The table as a styled object for a notebook: rounded, best value of each metric in bold, the head in the reader's language.

    The table itself keeps its English names, by which code finds the columns.
    """
    head = {"system": say(en="system", zh="系统"), "95 % interval": say(en="95 % interval", zh="95 % 置信区间")}
    metric_columns = [name for name in table.columns if "@" in name and not name.startswith("Δ")]
    shown = table.rename(columns=head).rename_axis(index=head).style
    shown.format({"ms/query": "{:.1f}"}, precision=decimals)
    return shown.highlight_max(subset=metric_columns, props="font-weight: bold")
