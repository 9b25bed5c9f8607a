"""How do the results look? One function, one figure; all read run folders or plain arrays, in one style that colour-blind readers can tell apart."""

import json
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from nrms.answers import Difference
from nrms.files import read_json
from nrms.metrics import BEYOND, PROTOCOLS
from nrms.report import entries, leaderboard, means_beyond, protocol_of
from nrms.runtime import Run

BLUE, ORANGE, GREY, GREEN = sns.color_palette("colorblind")[0], sns.color_palette("colorblind")[1], "#888888", sns.color_palette("colorblind")[2]
COLORS = {"model": BLUE, "baseline": GREY, "ceiling": ORANGE}


def canvas(columns: int, size: tuple[float, float], **options) -> tuple[Figure, np.ndarray]:
    """A row of axes in the one style, closed for pyplot, which would else show the figure a second time in a notebook."""
    with sns.axes_style("whitegrid"), sns.plotting_context("notebook"):
        figure, axes = plt.subplots(1, columns, figsize=size, layout="constrained", squeeze=False, **options)
    plt.close(figure)
    return figure, axes[0]


def read_log(run: Run) -> pd.DataFrame:
    """history.jsonl of a run, one line per logged step, nested values as `groups.encoder.lr` and the like."""
    return pd.json_normalize([json.loads(line) for line in (run.folder / "history.jsonl").read_text().split("\n")[:-1]])


def learning_curves(run: Run) -> Figure:
    """Loss with that of equal scores, validation with the kept step, and update-to-weight ratios with drift where there is some, over clicks seen."""
    log, record = read_log(run), run.record
    protocol = PROTOCOLS[record.get("protocol", "impressions")]
    figure, (left, middle, right) = canvas(3, (13, 3.4))
    objective, parts = f"loss.{record['config']['objective']}", [c for c in log if c.startswith("loss.")]
    if objective != "loss.none":
        left.plot(log["samples"], log[objective], color=BLUE)
        left.axhline(record["chance"], color=GREY, ls=":", label="chance: equal scores, first batch")
    for part, color in zip([p for p in parts if p != objective], sns.color_palette("colorblind")[3:], strict=False):
        left.plot(log["samples"], log[part], color=color, lw=1, label=f"{part.removeprefix('loss.')}, weighted")
    left.set(title="training loss", xlabel="clicks seen", ylabel="nats")
    valid = log.dropna(subset=["valid"]) if "valid" in log else log.iloc[:0]
    middle.plot(valid["samples"], valid["valid"], "o-", color=BLUE)
    kept = valid[valid["step"] == record.get("best_step")]
    middle.plot(kept["samples"], kept["valid"], "o", color=ORANGE, ms=11, label="kept")
    if protocol.main == "auc":
        middle.axhline(0.5, color=GREY, ls=":", label="chance")
    middle.set(title=f"validation {protocol.label}", xlabel="clicks seen")
    for name, color in (("encoder", BLUE), ("head", ORANGE)):
        if f"groups.{name}.update_ratio" in log:
            right.plot(log["samples"], log[f"groups.{name}.update_ratio"], color=color, label=name)
    if "drift" in log:
        right.plot(log["samples"], log["drift"], color=GREEN, label="drift of reused vectors")
    right.set(title="update / weight, by group", xlabel="clicks seen", yscale="log")
    for ax in (left, middle, right):
        ax.legend()
    return figure


def ranking(dataset: str, only: Run | None = None) -> Figure:
    """Every finished row of a data set by its main metric, with its interval: models (or this run alone), baselines, and ceilings."""
    board, protocol = leaderboard(dataset, only), protocol_of(dataset)
    metric = protocol.main
    board = board[board["status"] == "done"].sort_values(metric)
    figure, (ax,) = canvas(1, (9, 0.4 * len(board) + 1.2))
    for i, (_, row) in enumerate(board.iterrows()):
        color = COLORS[row.kind]
        ax.plot([row[f"{metric}_low"], row[f"{metric}_high"]], [i, i], color=color, lw=3, alpha=0.5)
        ax.plot(row[metric], i, "o", color=color)
    for kind, color in COLORS.items():
        if (board["kind"] == kind).any():
            ax.plot([], [], "o", color=color, label=kind)
    ax.set(yticks=range(len(board)), yticklabels=board["exp"], xlabel=f"{protocol.label} with 95 % interval", title=dataset)
    ax.legend(loc="lower right")
    return figure


def differences(found: Sequence[Difference]) -> Figure:
    """Planned comparisons with their intervals, question by question; filled where interval and corrected p agree that there is a difference."""
    figure, (ax,) = canvas(1, (11, 0.36 * len(found) + 1.4))
    for i, d in enumerate(found):
        color = {"more": BLUE, "less": ORANGE, "unclear": GREY}[d.verdict]
        ax.plot([d.low, d.high], [i, i], color=color, lw=3, alpha=0.5)
        ax.plot(d.mean, i, "o", color=color, mfc="white" if d.verdict == "unclear" else color)
        ax.plot(d.seeds, [i] * len(d.seeds), "|", color="black", ms=7)
    for label, color in (("better", BLUE), ("worse", ORANGE), ("unclear", GREY)):
        ax.plot([], [], "o", color=color, mfc="white" if label == "unclear" else color, label=label)
    ax.plot([], [], "|", color="black", label="one seed", ls="none")
    ax.axvline(0, color="black", lw=0.8)
    names = [f"{d.exp} against {d.other}" for d in found]
    ax.set(yticks=range(len(found)), yticklabels=names, xlabel=f"{found[0].label} difference, paired, with 95 % interval")
    ax.invert_yaxis()
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def by_slice(run: Run) -> Figure:
    """The four metrics of one run by slice, with intervals; the number of impressions or questions beside each name."""
    metrics, protocol = read_json(run.folder / "metrics.json"), PROTOCOLS[run.record.get("protocol", "impressions")]
    figure, axes = canvas(len(protocol.shown), (13, 0.38 * len(metrics) + 1.2), sharey=True)
    for ax, name in zip(axes, protocol.shown, strict=True):
        for i, values in enumerate(m[name] for m in metrics.values()):
            if values["mean"] is None:  # no impression of the slice has both clicked and passed-over news
                continue
            ax.plot([values["low"], values["high"]], [i, i], color=BLUE, lw=3, alpha=0.5)
            ax.plot(values["mean"], i, "o", color=BLUE)
        if metrics["all"][name]["mean"] is not None:
            ax.axvline(metrics["all"][name]["mean"], color=GREY, ls=":")
        names = [f"{s}  (n = {m[name]['n']:,})" for s, m in metrics.items()]
        ax.set(title=protocol.metrics[name][0], yticks=range(len(metrics)), yticklabels=names)
    axes[0].invert_yaxis()
    return figure


def slice_differences(sliced: Mapping[tuple[str, str], pd.DataFrame], label: str) -> Figure:
    """Paired differences of two experiments by slice, with intervals, n beside each name; side by side for several pairs."""
    rows = max(len(table) for table in sliced.values())
    figure, axes = canvas(len(sliced), (8.5 * len(sliced), 0.36 * rows + 1.4))
    for ax, ((exp, other), table) in zip(axes, sliced.items(), strict=True):
        for i, (_, row) in enumerate(table.iterrows()):
            color = BLUE if row["low"] > 0 else ORANGE if row["high"] < 0 else GREY
            ax.plot([row["low"], row["high"]], [i, i], color=color, lw=3, alpha=0.5)
            ax.plot(row["mean"], i, "o", color=color)
        ax.axvline(0, color="black", lw=0.8)
        names = [f"{name}  (n = {n:,})" for name, n in zip(table.index, table["n"], strict=True)]
        ax.set(yticks=range(len(table)), yticklabels=names, xlabel=f"{label}: {exp} minus {other}, with 95 % interval")
        ax.invert_yaxis()
    return figure


def benchmark(results: Mapping) -> Figure:
    """Six panels: steps by batch size, where a step's time goes, metrics, reading, cost against size, and what the machine gives."""
    with sns.axes_style("whitegrid"), sns.plotting_context("notebook"):
        figure, axes = plt.subplots(2, 3, figsize=(15, 8.4), layout="constrained")
    plt.close(figure)
    (steps, parts, metrics), (reading, cost, roof) = axes
    table = pd.DataFrame(results["steps"])
    for label, color, kept in (
        ("plain", GREY, table[table["way"] == "plain"]),
        ("ours", BLUE, table[(table["way"] == "ours") & ~table["by_reader"]]),
        ("ours, clicks by reader", GREEN, table[table["by_reader"]]),
    ):
        rate = kept["batch"] / kept["median"]
        spread = [rate - kept["batch"] / kept["high"], kept["batch"] / kept["low"] - rate]
        steps.errorbar(kept["batch"], rate, yerr=spread, fmt="o-", color=color, label=label)
    steps.set(title="training: clicks per second", xlabel="clicks in a batch", xscale="log", yscale="log")
    steps.set_xticks(sorted(table["batch"].unique()), sorted(table["batch"].unique()))
    steps.minorticks_off()
    where = pd.DataFrame(results["parts"])
    parts.barh(where["part"], where["median"] * 1000, color=BLUE)
    parts.set(title="where a step's time goes", xlabel="milliseconds, batch of 128")
    parts.invert_yaxis()
    for ax, key, per, title in (
        (metrics, "metrics", "impressions", "metrics: impressions per second"),
        (reading, "reading", "rows", "reading behaviors.tsv: rows per second"),
    ):
        lines = pd.DataFrame(results[key])
        best = (lines[per] / lines["median"]).groupby(lines["way"]).max()
        ax.barh(best.index, best, color=[BLUE if way == "ours" else GREY for way in best.index])
        ax.set(title=title, xscale="log")
    for key, label, per, took, color in (
        ("metrics", "metrics", "impressions", "median", ORANGE),
        ("evaluation", "rank and judge", "impressions", "median", BLUE),
        ("items", "encode items", "items", "median", GREEN),
        ("preparation", "read logs", "rows", "seconds", GREY),
    ):
        lines = pd.DataFrame(results[key])
        lines = lines[lines["way"] == "ours"] if "way" in lines else lines
        cost.plot(lines[per], lines[took], "o-", color=color, label=label)
    growth = pd.DataFrame(results["growth"])
    for (what, lines), style in zip(growth.groupby("what"), (":", "--", "-.", (0, (1, 3))), strict=False):
        cost.plot(lines["items"], lines["seconds"], marker=".", ls=style, color="black", label=what)
    cost.set(title="cost against size", xlabel="impressions, rows or items", ylabel="seconds", xscale="log", yscale="log")
    share = 100 * table["flops"] / results["gives"]["flops"]
    names = [f"{w}, {b}" + (", by reader" if r else "") for w, b, r in zip(table["way"], table["batch"], table["by_reader"], strict=True)]
    moved = max(line["bytes"] for line in results["evaluation"])
    names, share = [*names, "rank and judge, bytes"], [*share, 100 * moved / results["gives"]["bytes"]]
    roof.barh(names, share, color=[*(GREY if w == "plain" else BLUE for w in table["way"]), ORANGE])
    roof.set(title="roofline: % of a large matrix product or copy", xlabel="% (the plain way's arithmetic is mostly on padding)")
    for ax in (steps, cost):
        ax.legend()
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
    figure, axes = canvas(len(images), (2.6 * len(images), 3.2))
    for ax, (title, image) in zip(axes, images.items(), strict=True):
        ax.imshow(image)
        words = title.split()
        ax.set_title("\n".join(" ".join(words[i : i + 3]) for i in range(0, min(len(words), 12), 3)), fontsize=8, parse_math=False)
        ax.axis("off")
    return figure


def probe(table: pd.DataFrame) -> Figure:
    """What sets of vectors know before training, as `probe.probe` found it: a panel for the zero-shot metric, one for item-CF with chance dotted."""
    figure, axes = canvas(2, (11, 0.36 * len(table) + 1.2), sharey=True)
    for ax, name in zip(axes, table.columns[:2], strict=True):
        ax.barh(table.index, table[name], color=[GREY if row == "random" else BLUE for row in table.index])
        ax.set(title=name)
    axes[1].axvline(table["by chance"].mean(), color=ORANGE, ls=":", label="by chance")
    axes[1].legend(loc="upper right")  # beside the bar of random vectors, the shortest
    axes[0].invert_yaxis()
    return figure


def beyond(dataset: str) -> Figure:
    """Every finished row of a data set, best first: its main metric, and beside it what its lists are like, dotted where random lists lie.

    Points are means over seeds; lines their 95 % intervals over impressions or lists. A number that no row has gets no
    panel, nor does popularity, whose shift says the same.
    """
    board, protocol = leaderboard(dataset), protocol_of(dataset)
    board = board[board["status"] == "done"].sort_values(protocol.main, ascending=False).reset_index(drop=True) if len(board) else board
    found = {(e.exp, " ".join(map(str, e.seeds))): means_beyond(e) for e in entries(dataset) if e.status == "done"}
    means = [found[exp, seeds] for exp, seeds in zip(board["exp"], board["seeds"], strict=True)]
    names = [name for name in BEYOND if name != "popularity" and any(pd.notna(m.get(name, {}).get("mean")) for m in means)]
    columns = {protocol.label: [{"mean": r[protocol.main], **{k: r[f"{protocol.main}_{k}"] for k in ("low", "high")}} for _, r in board.iterrows()]}
    columns |= {BEYOND[name][0]: [m.get(name, {}) for m in means] for name in names}
    figure, axes = canvas(len(columns), (max(2.2 + 1.45 * len(columns), 6), 0.36 * len(board) + 1.8), sharey=True)
    for ax, (label, values) in zip(axes, columns.items(), strict=True):
        for i, (v, kind, exp) in enumerate(zip(values, board["kind"], board["exp"], strict=True)):
            ax.plot([v.get("low", np.nan), v.get("high", np.nan)], [i, i], color=COLORS[kind], lw=3, alpha=0.5)
            ax.plot(v.get("mean", np.nan), i, "o", color=COLORS[kind])
            if exp == "random" and v:
                ax.axvline(v["mean"], color=GREY, ls=":", lw=1)
        ax.set(title=label.replace(", ", ",\n").replace(" ", "\n", 1), yticks=range(len(board)), yticklabels=board["exp"])
        ax.xaxis.set_major_locator(plt.MaxNLocator(2))
    axes[0].invert_yaxis()
    handles = [plt.Line2D([], [], marker="o", ls="", color=color, label=kind) for kind, color in COLORS.items() if (board["kind"] == kind).any()]
    handles += [plt.Line2D([], [], color=GREY, ls=":", label="random")] if (board["exp"] == "random").any() else []
    if not names:
        axes[0].set_xlabel("No finished row has numbers beyond accuracy.")
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure
