"""How do the measurements of a benchmark look? One figure."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from nrms.report.figures import BLUE, GREEN, GREY, ORANGE, canvas


def benchmark(results: Mapping) -> Figure:
    """Six panels: steps by batch size, where a step's time goes, metrics, reading, cost against size, and what the machine gives."""
    figure, (steps, parts, metrics, reading, cost, roof) = canvas(3, (15, 8.4), rows=2)
    table = pd.DataFrame(results["steps"])
    for label, color, rows in (
        ("plain", GREY, table[table["way"] == "plain"]),
        ("ours", BLUE, table[(table["way"] == "ours") & ~table["by_reader"]]),
        ("ours, clicks by reader", GREEN, table[table["by_reader"]]),
    ):
        rate = rows["batch"] / rows["median"]
        spread = [rate - rows["batch"] / rows["high"], rows["batch"] / rows["low"] - rate]
        steps.errorbar(rows["batch"], rate, yerr=spread, fmt="o-", color=color, label=label)
    steps.set(title="training: clicks per second", xlabel="clicks in a batch", xscale="log", yscale="log")
    steps.set_xticks(sorted(table["batch"].unique()), sorted(table["batch"].unique()))
    steps.minorticks_off()
    times = pd.DataFrame(results["parts"])
    parts.barh(times["part"], times["median"] * 1000, color=BLUE)
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
    for key, label, per, seconds, color in (
        ("metrics", "metrics", "impressions", "median", ORANGE),
        ("evaluation", "rank and judge", "impressions", "median", BLUE),
        ("items", "encode items", "items", "median", GREEN),
        ("preparation", "read logs", "rows", "seconds", GREY),
    ):
        lines = pd.DataFrame(results[key])
        lines = lines[lines["way"] == "ours"] if "way" in lines else lines
        cost.plot(lines[per], lines[seconds], "o-", color=color, label=label)
    growth = pd.DataFrame(results["growth"])
    for (what, lines), style in zip(growth.groupby("what"), (":", "--", "-.", (0, (1, 3)), "-"), strict=False):
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
