"""The figures of the lessons. Each takes numbers and returns a matplotlib Axes.
Used by every lesson; the Chinese font is looked for once, and without one the labels are English, never squares.
"""

from functools import cache

import numpy as np

from retrieval_lab import metrics
from retrieval_lab.profiles import language, say

# Okabe & Ito 2008: told apart by colour-blind readers too.
COLOURS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "red": "#D55E00",
    "grey": "#8a8a8a",
    "pink": "#CC79A7",
}
CJK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "PingFang SC",
    "Microsoft YaHei",
    "SimHei",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Arial Unicode MS",
)


@cache
def chinese_font() -> str | None:
    """Name of an installed font with Chinese characters, or None."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return next((name for name in CJK_FONTS if name in installed), None)


def style() -> None:
    """House style for all figures of this process; says so once when Chinese labels cannot be drawn."""
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {"figure.figsize": (7, 3.6), "figure.dpi": 100, "axes.spines.top": False, "axes.spines.right": False}
    )
    plt.rcParams.update({"axes.titlelocation": "left", "axes.titlesize": 11, "axes.unicode_minus": False})
    if chinese_font():
        plt.rcParams["font.sans-serif"] = [chinese_font(), "DejaVu Sans"]
    elif language() == "zh":
        print("没有找到中文字体，图中文字用英文；Ubuntu / Colab 可装：apt-get install fonts-noto-cjk，装好后重启内核")


def label(*, en: str, zh: str) -> str:
    """The label in the reader's language; English where no installed font can draw Chinese.

    >>> label(en="query", zh="查询")
    'query'
    """
    return zh if language() == "zh" and chinese_font() else en


def comparison(table, ax=None):
    """One dot a system with the 95 % interval of its mean: the first metric of `experiment.compare`'s table.

    Parameters
    ----------
    table : DataFrame of `experiment.compare`; its ``attrs["per_query"]`` holds the values of each query
    """
    ax = ax or _axes(height=0.55 * len(table) + 1.2)
    metric = table.columns[0]
    means = table[metric].astype(float)
    for row, (name, mean) in enumerate(means.items()):
        values = table.attrs["per_query"][name]
        low, high = metrics.paired_bootstrap(np.zeros(len(values)), values)
        colour = COLOURS["blue"] if mean == means.max() else COLOURS["grey"]
        ax.plot([low, high], [row, row], color=colour, lw=2)
        ax.plot(mean, row, "o", color=colour)
        ax.annotate(f"{mean:.3f}", (mean, row), textcoords="offset points", xytext=(0, 7), ha="center", fontsize=9)
    ax.axvline(means.iloc[0], color=COLOURS["grey"], lw=0.8, ls=":")
    ax.set_yticks(range(len(table)), table.index)
    ax.set_ylim(len(table) - 0.5, -0.7)
    ax.set_xlabel(
        label(en=f"{metric}, mean and 95 % interval over queries", zh=f"{metric}：均值与 95 % 置信区间（按查询）")
    )
    gain = means.max() - means.iloc[0]
    ax.set_title(
        label(
            en=f"{means.idxmax()}: {gain:+.3f} over {means.index[0]}",
            zh=f"{means.idxmax()} 比 {means.index[0]} 高 {gain:.3f}",
        )
    )
    return ax


def heatmap(values, rows: list[str], columns: list[str], title: str, ax=None, numbers: bool = True):
    """A matrix of cosines as colours, with the numbers written in. One scale for all figures: 0 is white, 1 the darkest.

    Parameters
    ----------
    values : (n_rows, n_columns); values beyond 0 and 1 stretch the scale
    """
    values = np.asarray(values)
    ax = ax or _axes(height=0.5 * len(rows) + 1.5)
    top = max(1.0, values.max())
    ax.imshow(values, cmap="Blues", vmin=min(0.0, values.min()), vmax=top, aspect="auto")
    ax.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    ax.set_yticks(range(len(rows)), rows)
    ax.spines[:].set_visible(False)
    for (i, j), value in np.ndenumerate(values if numbers else np.empty((0, 0))):
        shade = "white" if value > 0.65 * top else "black"
        ax.text(j, i, f"{value:.2f}", ha="center", va="center", color=shade, fontsize=8)
    ax.set_title(title)
    return ax


def alignment(found, title: str, ax=None, columns: int = 30):
    """Cosines of a query's tokens (rows) with a document's first tokens (columns); each row's best is framed, its value at the right.

    Parameters
    ----------
    found : `colbert.Alignment`
    columns : tokens of the document that are drawn; a best match beyond them is named at the right
    """
    import matplotlib.pyplot as plt

    queries, docs = (
        [_drawable(token, f"#{i}") for i, token in enumerate(side)] for side in (found.query_tokens, found.doc_tokens)
    )
    shown = np.asarray(found.similarity)[:, :columns]
    width = max(7.0, 0.32 * shown.shape[1] + 2)
    ax = ax or plt.subplots(figsize=(width, 0.3 * len(shown) + 1.5), layout="constrained")[1]
    ax.imshow(shown, cmap="Blues", vmax=1.0, aspect="auto")
    ax.set_xticks(range(shown.shape[1]), docs[:columns], rotation=60, ha="right", fontsize=8)
    ax.set_yticks(range(len(shown)), queries, fontsize=9)
    for row, (best, share) in enumerate(zip(found.best, found.shares, strict=True)):
        frame = {"fill": False, "edgecolor": COLOURS["orange"], "lw": 2}
        beyond = "" if best < shown.shape[1] else f" → {docs[best]}"
        if not beyond:
            ax.add_patch(plt.Rectangle((best - 0.5, row - 0.5), 1, 1, **frame))
        ax.text(shown.shape[1] - 0.3, row, f"{share:.2f}{beyond}", va="center", fontsize=8)
    ax.spines[:].set_visible(False)
    ax.set_title(_drawable(title, ""))
    return ax


def map_2d(points, groups: list[str], is_query: list[bool], title: str, ax=None):
    """Texts as dots on a plane, one colour a group, its name amid the dots; queries are crosses.

    Parameters
    ----------
    points : (n, 2)
    groups, is_query : n each; at most six groups, so that colours stay apart

    Raises
    ------
    ValueError
        If there are more groups than colours.
    """
    if len(set(groups)) > len(COLOURS):
        raise ValueError(
            say(
                en=f"{len(set(groups))} groups, but only {len(COLOURS)} colours that stay apart; show fewer groups",
                zh=f"有 {len(set(groups))} 组，而分得清的颜色只有 {len(COLOURS)} 种；少画几组",
            )
        )
    ax = ax or _axes(height=4.2)
    points, groups, is_query = np.asarray(points), np.asarray(groups), np.asarray(is_query)
    for colour, group in zip(COLOURS.values(), dict.fromkeys(groups.tolist()), strict=False):
        passages, queries = points[(groups == group) & ~is_query], points[(groups == group) & is_query]
        for marker, dots in (("o", passages), ("x", queries)):
            ax.scatter(*dots.T, marker=marker, s=22, color=colour, alpha=0.8)
        middle = (passages if len(passages) else queries).mean(axis=0)
        ax.annotate(group, middle, color=colour, fontsize=9, weight="bold", ha="center")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(title)
    return ax


def differences(before, after, ax=None):
    """Each query's gain, sorted: how many a change helped, and how many it hurt.

    Parameters
    ----------
    before, after : (n_queries,) values of one metric
    """
    ax = ax or _axes()
    gains = np.sort(np.asarray(after) - np.asarray(before))[::-1]
    colours = np.where(gains > 0, COLOURS["blue"], COLOURS["red"])
    ax.bar(range(len(gains)), gains, color=colours, width=1.0)
    ax.axhline(0, color="black", lw=0.8)
    better, worse = int((gains > 1e-9).sum()), int((gains < -1e-9).sum())
    ax.set_title(label(en=f"{better} queries got better, {worse} got worse", zh=f"{better} 个查询变好，{worse} 个变差"))
    ax.set_xlabel(label(en="queries, sorted by gain", zh="查询（按变化排序）"))
    ax.set_ylabel(label(en="change in nDCG@10", zh="nDCG@10 的变化"))
    return ax


def reliability(probabilities, labels, bins: int = 8, name: str | None = None, ax=None):
    """How often the model is right when it says so: share of answers among pairs of like probability; on the diagonal it means what it says.

    Parameters
    ----------
    probabilities : (n,) between 0 and 1
    labels : (n,) true or false
    bins : groups of equally many pairs
    name : written at the end of the line, to draw several into one figure
    """
    from sklearn.calibration import calibration_curve

    ax = ax or _axes(height=4.2)
    shares, means = calibration_curve(np.asarray(labels, bool), probabilities, n_bins=bins, strategy="quantile")
    colour = list(COLOURS.values())[len(ax.lines) // 2 % len(COLOURS)]
    ax.plot([0, 1], [0, 1], color=COLOURS["grey"], lw=0.8, ls=":")
    ax.plot(means, shares, "o-", color=colour)
    ax.annotate(name or "", (means[-1], shares[-1]), textcoords="offset points", xytext=(6, 0), color=colour)
    ax.set_xlabel(label(en="probability that the model gives", zh="模型给出的概率"))
    ax.set_ylabel(label(en="share of true answers", zh="其中真是答案的比例"))
    error = float(np.abs(shares - means).mean())
    ax.set_title(label(en=f"off the diagonal by {error:.2f} on average", zh=f"平均偏离对角线 {error:.2f}"))
    return ax


def curve(points: dict, metric: str, what: str, baseline: float | None = None, ax=None):
    """One quantity against another as a line with its numbers, e.g. nDCG@10 against the depth of reranking.

    Parameters
    ----------
    points : x -> y
    metric, what : names of y and of x
    baseline : a level drawn across, e.g. without reranking
    """
    ax = ax or _axes()
    ax.plot(list(points), list(points.values()), "o-", color=COLOURS["blue"])
    for x, y in points.items():
        ax.annotate(f"{y:.3f}", (x, y), textcoords="offset points", xytext=(0, 7), ha="center", fontsize=9)
    if baseline is not None:
        ax.axhline(baseline, color=COLOURS["grey"], lw=0.8, ls=":")
    best = max(points, key=points.get)
    ax.set_title(label(en=f"best: {what} {best}", zh=f"最好：{what} {best}"))
    ax.set_xlabel(what)
    ax.set_ylabel(metric)
    return ax


def _drawable(text: str, otherwise: str) -> str:
    """The text, or something else where it holds Chinese and no installed font can draw that."""
    return otherwise if not chinese_font() and any(char > "\u2e7f" for char in text) else text


def _axes(height: float = 3.6):
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(7, height), layout="constrained")[1]
