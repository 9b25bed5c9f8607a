"""How do data and experiments look beside each other? One function, one figure, in one style that colour-blind readers can tell apart.

All read run folders or plain arrays; figures of a single run are in figures_of_a_run.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from textwrap import wrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Transform
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

from nrms.evaluation.protocols import BEYOND, PROBE_METRICS
from nrms.report.experiments import protocol_of, read_systems
from nrms.report.planned_comparisons import Difference
from nrms.report.result_tables import leaderboard, levels, means_beyond
from nrms.runtime.run_record import Run

BLUE, ORANGE, GREEN = sns.color_palette("colorblind")[:3]
GREY = "#888888"
GLYPHS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "Microsoft YaHei", "PingFang SC", "Hiragino Sans GB")
# a glyph that the first font lacks is taken from the next; of absent fonts matplotlib would warn
FAMILY = ["sans-serif", *(name for name in GLYPHS if name in get_font_names())]
plt.rcParams["font.family"] = FAMILY  # of legends and labels, which are written when the style below is over
Color = str | tuple[float, ...]
COLORS = {"model": BLUE, "baseline": GREY, "ceiling": ORANGE}


def canvas(columns: int, size: tuple[float, float], rows: int = 1, **options) -> tuple[Figure, np.ndarray]:
    """Axes in the one style, row by row, closed for pyplot, which would else show the figure a second time in a notebook."""
    with sns.axes_style("whitegrid", {"font.family": FAMILY}), sns.plotting_context("notebook"):
        figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **options)
    plt.close(figure)
    return figure, axes.ravel()


def dots(ax: Axes, names: Iterable[str], means: ArrayLike, colors: Iterable[Color], hollow: Color | None = None) -> None:
    """Means with their intervals, one below the other, each beside its name. means: (n, 3), mean, low, high. hollow: the colour of empty dots."""
    for y, ((mean, low, high), color) in enumerate(zip(np.asarray(means, float), colors, strict=True)):
        ax.plot([low, high], [y, y], color=color, lw=3, alpha=0.5)
        ax.plot(mean, y, "o", color=color, mfc="white" if color == hollow else color)
    ax.set(yticks=range(len(means)), yticklabels=names)
    ax.yaxis.set_inverted(True)


def columns_of(metric: str) -> list[str]:
    """The columns of a table that have a mean and the ends of its interval."""
    return [metric, f"{metric}_low", f"{metric}_high"]


def dots_of_kinds(board: pd.DataFrame) -> list[plt.Line2D]:
    """What a legend has: a dot for every kind of rows that there are."""
    return [plt.Line2D([], [], marker="o", ls="", color=color, label=kind) for kind, color in COLORS.items() if (board["kind"] == kind).any()]


def ranking(dataset: str, only: Run | None = None) -> Figure:
    """Every finished row of a data set by its main metric, with its interval: models (or this run alone), baselines, and ceilings."""
    board, protocol = leaderboard(dataset, only), protocol_of(dataset)
    metric = protocol.main
    board = board[board["status"] == "done"].dropna(subset=[metric]).sort_values(metric, ascending=False)
    figure, (ax,) = canvas(1, (9, 0.4 * len(board) + 1.2))
    dots(ax, board["exp"], board[columns_of(metric)], board["kind"].map(COLORS))
    for _, row in levels(board, metric).iterrows():
        ax.axvline(row[metric], color=COLORS[row.kind], ls=":", zorder=0)
    ax.set(xlabel=f"{protocol.label} with 95 % interval", title=dataset)
    if handles := dots_of_kinds(board):
        ax.legend(handles=handles, loc="lower right")
    return figure


def two_splits(both: pd.DataFrame, datasets: Sequence[str], label: str) -> Figure:
    """What was run on two data sets of one log, in the order of the first: means with intervals. both: of other_split.side_by_side."""
    figure, axes = canvas(2, (12, 0.36 * len(both) + 1.2), sharey=True)
    for ax, dataset, side in zip(axes, datasets, ("here", "there"), strict=True):
        dots(ax, both.index, both[columns_of(side)], both["kind"].map(COLORS))
        ax.axvline(both[both["kind"] == "baseline"][side].max(), color=GREY, ls=":", zorder=0)
        ax.set(title=dataset, xlabel=f"{label} with 95 % interval")
    return figure


def spread_labels(values: np.ndarray, gap: float) -> np.ndarray:
    """Heights near these values (n,), in the same order and at least `gap` apart: where labels stand that must not collide.

    Nearest in least squares: an isotonic regression of what is left of the values when the gaps are taken out.
    """
    heights, gaps = np.empty(len(values)), gap * np.arange(len(values))
    order = np.argsort(values, kind="stable")
    if len(values):
        heights[order] = isotonic_regression(np.asarray(values, float)[order] - gaps).x + gaps
    return heights


def label_at_the_right(ax: Axes, name: str, y: float, point: tuple[float, float], coordinates: Transform, color: Color) -> None:
    """A name beside the axes, at the height y, with a line to the point that it belongs to."""
    arrow = {"arrowstyle": "-", "color": GREY, "lw": 0.5, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)}
    text = {"xytext": (1.02, y), "textcoords": ax.get_yaxis_transform(), "va": "center", "fontsize": 9, "color": color}
    ax.annotate(name, point, xycoords=coordinates, arrowprops=arrow, parse_math=False, annotation_clip=False, **text)


def cost(dataset: str) -> Figure:
    """Main metric of every finished experiment over its minutes of training and over what it trained; ceilings and the best baseline as lines.

    An experiment whose weights came from elsewhere has no minutes, and is left out of that panel. Names stand at the right
    of each panel, at the height of their point as far as they do not collide, and a line leads to it.
    """
    board, protocol = leaderboard(dataset), protocol_of(dataset)
    done = board[board["status"] == "done"].dropna(subset=[protocol.main])
    models, lines = done[done["kind"] == "model"], levels(board, protocol.main)
    height = max(4.0, 0.21 * (len(models) + len(lines)) + 1.2)
    figure, axes = canvas(2, (15, height), sharey=True)
    values = np.r_[models[protocol.main].to_numpy(float), lines[protocol.main].to_numpy(float)]
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    margin = 0.06 * max(high - low, 0.01)
    heights = spread_labels(values, 0.21 / (height - 1.2) * (high - low + 2 * margin))
    low, high = heights.min(initial=low) - margin, heights.max(initial=high) + margin
    for ax, column, label in zip(axes, ("minutes", "trainable"), ("minutes of training", "parameters that are trained"), strict=True):
        x = models[column].to_numpy(float)
        x = np.maximum(x, x[x > 0].min(initial=1.0))  # a logarithmic scale has no zero; what is not known stays so
        numbers = x[~np.isnan(x)]
        ax.scatter(x, models[protocol.main], color=BLUE, zorder=3)
        for name, point, y in zip(models["exp"], zip(x, models[protocol.main], strict=True), heights[: len(models)], strict=True):
            if not np.isnan(point[0]):
                label_at_the_right(ax, name, y, point, ax.transData, "black")
        for (_, row), y in zip(lines.iterrows(), heights[len(models) :], strict=True):
            ax.axhline(row[protocol.main], color=COLORS[row.kind], ls=":", zorder=1)
            label_at_the_right(ax, row.exp, y, (1.0, row[protocol.main]), ax.get_yaxis_transform(), COLORS[row.kind])
        ax.set(xlabel=label, ylim=(low, high))
        if not len(numbers):
            ax.set(xticks=[], xlabel=f"{label}: not known of any experiment")
            continue
        ax.set(xscale="log")
        wide = numbers.max() > 100 * numbers.min()
        ax.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.10g}".replace(",000,000", " million")))
        ax.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set(ylabel=protocol.label, title=dataset)
    return figure


def differences(comparisons: Sequence[Difference]) -> Figure:
    """Planned comparisons with their intervals, question by question; filled where a headline has a verdict, grey what has none."""
    figure, (ax,) = canvas(1, (11, 0.36 * len(comparisons) + 1.4))
    colors = {"more": BLUE, "less": ORANGE}
    names = [f"{d.exp} against {d.other}" for d in comparisons]
    dots(ax, names, [(d.mean, d.low, d.high) for d in comparisons], [colors.get(d.verdict, GREY) for d in comparisons], hollow=GREY)
    for y, d in enumerate(comparisons):
        ax.plot(d.by_seed, [y] * len(d.by_seed), "|", color="black", ms=7)
    for label, color in (("better", BLUE), ("worse", ORANGE), ("no verdict", GREY)):
        ax.plot([], [], "o", color=color, mfc="white" if color == GREY else color, label=label)
    ax.plot([], [], "|", color="black", label="one seed", ls="none")
    ax.axvline(0, color="black", lw=0.8)
    ax.set(xlabel=f"{comparisons[0].label} difference, with 95 % interval")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def slice_differences(sliced: Mapping[tuple[str, str], pd.DataFrame], label: str) -> Figure:
    """Differences of two experiments by slice, with intervals, n beside each name; side by side for several pairs."""
    rows = max(len(table) for table in sliced.values())
    figure, axes = canvas(len(sliced), (8.5 * len(sliced), 0.36 * rows + 1.4))
    for ax, ((exp, other), table) in zip(axes, sliced.items(), strict=True):
        names = [f"{name}  (n = {n:,})" for name, n in zip(table.index, table["n"], strict=True)]
        dots(ax, names, table[["mean", "low", "high"]], [GREY] * len(table))
        ax.axvline(0, color="black", lw=0.8)
        ax.set(xlabel=f"{label}: {exp} minus {other}, with 95 % interval")
    return figure


def distributions(samples: Mapping[str, np.ndarray], reference: Mapping[str, Sequence[float]], quantiles: Sequence[float]) -> Figure:
    """Each sample as the value below which a share of it lies, beside the quantiles of a reference, where it has some."""
    figure, axes = canvas(len(samples), (4.3 * len(samples), 3.4))
    for ax, (name, values) in zip(axes, samples.items(), strict=True):
        share = np.linspace(0, 1, 201)
        ax.plot(share, np.quantile(values, share), color=BLUE, label="this data set")
        if name in reference:
            ax.plot(quantiles, reference[name], "o", color=ORANGE, label="real MIND-small")
        ax.set(title=name, xlabel="share at or below", yscale="symlog")
        ax.legend()
    return figure


def pictures(images: Mapping[str, np.ndarray]) -> Figure:
    """A row of pictures (S, S, 3) under their titles."""
    figure, axes = canvas(len(images), (2.6 * len(images), 3.4))
    for ax, (title, image) in zip(axes, images.items(), strict=True):
        ax.imshow(image)
        ax.set_title("\n".join(wrap(title, 22, max_lines=4, placeholder=" …")), fontsize=8, parse_math=False)
        ax.axis("off")
    return figure


def probe(table: pd.DataFrame) -> Figure:
    """What sets of vectors know, as `probe.probe` found it: a panel for the zero-shot metric, one for item-CF, with intervals; chance is marked."""
    figure, axes = canvas(2, (11, 0.36 * len(table) + 1.6), sharey=True)
    y, names = np.arange(len(table)), [name.replace("$", r"\$") for name in table.index]  # a dollar would begin a formula
    for ax, name in zip(axes, [name for name in PROBE_METRICS if name in table], strict=True):
        ax.barh(y, table[name], color=[GREY if row == "random" else BLUE for row in table.index])
        ax.hlines(y, table[f"{name}_low"], table[f"{name}_high"], color="black", lw=1)
        ax.vlines(table[f"{name}, by chance"], y - 0.4, y + 0.4, color=ORANGE, lw=2)
        ax.set(title=name, yticks=y, yticklabels=names, ylim=(len(table) - 0.4, -0.6))
    marks = [plt.Line2D([], [], color=ORANGE, lw=2, label="by chance"), plt.Line2D([], [], color="black", lw=1, label="95 % interval")]
    figure.legend(handles=marks, loc="outside lower right", ncols=2)
    return figure


def beyond(dataset: str) -> Figure:
    """Every finished row of a data set, best first: its main metric, and beside it what its lists are like, dotted where random lists lie.

    Points are means over seeds; lines are the 95 % interval of that mean for the main metric, and for the others, where there are several seeds,
    the mean over seeds of their 95 % intervals. A number that no row has gets no panel, nor does popularity, whose shift says the same.
    """
    board, protocol = leaderboard(dataset), protocol_of(dataset)
    board = board[board["status"] == "done"].reindex(columns=board.columns.union(columns_of(protocol.main), sort=False))
    board = board.dropna(subset=[protocol.main]).sort_values(protocol.main, ascending=False)
    by_row = {(s.exp, s.seed_names): means_beyond(s) for s in read_systems(dataset) if s.status == "done"}
    means = [by_row[row] for row in zip(board["exp"], board["seeds"], strict=True)]
    names = [name for name in BEYOND if name != "popularity" and any(pd.notna(m.get(name, {}).get("mean")) for m in means)]
    panels = {protocol.label: board[columns_of(protocol.main)].to_numpy()}
    for name in names:
        panels[BEYOND[name][0]] = np.array([[m.get(name, {}).get(key, np.nan) for key in ("mean", "low", "high")] for m in means])
    figure, axes = canvas(len(panels), (max(2.2 + 1.45 * len(panels), 6), 0.36 * len(board) + 1.8), sharey=True)
    for ax, (label, values) in zip(axes, panels.items(), strict=True):
        dots(ax, board["exp"], values, board["kind"].map(COLORS))
        for value in values[board["exp"] == "random", 0]:
            ax.axvline(value, color=GREY, ls=":", lw=1)
        ax.set(title=label.replace(", ", ",\n").replace(" ", "\n", 1))
        ax.xaxis.set_major_locator(plt.MaxNLocator(2))
    handles = dots_of_kinds(board)
    handles += [plt.Line2D([], [], color=GREY, ls=":", label="random")] if (board["exp"] == "random").any() else []
    several = names and any(" " in seeds for seeds in board["seeds"])
    meaning = f"{protocol.label}: 95 % interval;\nthe others: mean over\nseeds of their 95 % intervals" if several else "95 % interval"
    handles += [plt.Line2D([], [], color=GREY, lw=3, alpha=0.5, label=meaning)] if len(board) else []
    if not names:
        axes[0].set_xlabel("No finished row has numbers beyond accuracy.")
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure
