"""How does one run look? How it learned, whom it serves, whether its scores mean what they say, how its items lie: one function, one figure."""

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import seaborn as sns
from matplotlib.figure import Figure

from nrms.evaluation.protocols import PROTOCOLS
from nrms.evaluation.statistics import interval_of_ratios
from nrms.report.figures import BLUE, GREEN, GREY, ORANGE, canvas, dots
from nrms.runtime.files import read_json
from nrms.runtime.run_record import Run

MARKERS = "osD^vP*X"  # of the categories of a map, beside their colours


def read_training_log(run: Run) -> pd.DataFrame:
    """history.jsonl of a run, one line per logged step, nested values as `groups.encoder.lr` and the like."""
    lines = (run.folder / "history.jsonl").read_text().split("\n")[:-1]
    return pd.json_normalize([json.loads(line) for line in lines])


def learning_curves(run: Run) -> Figure:
    """Over clicks seen: loss with that of equal scores, validation with the kept step, gradient norm with the clip, update-to-weight ratios.

    With the drift of reused vectors, where there is some.
    """
    log, record = read_training_log(run), run.record
    protocol, clicks_seen = PROTOCOLS[record.get("protocol", "impressions")], log["samples"]
    figure, (left, middle, norm, right) = canvas(4, (16, 3.4))
    main_loss = f"loss.{record['config']['objective']}"
    if main_loss != "loss.none":
        left.plot(clicks_seen, log[main_loss], color=BLUE, label="objective")
        left.axhline(record["chance"], color=GREY, ls=":", label="chance: equal scores, first batch")
    auxiliary_losses = [name for name in log if name.startswith("loss.") and name != main_loss]
    for name, color in zip(auxiliary_losses, sns.color_palette("colorblind")[3:], strict=False):
        left.plot(clicks_seen, log[name], color=color, lw=1, label=f"{name.removeprefix('loss.')}, weighted")
    left.set(title="training loss", ylabel="nats")
    valid = (log if "valid" in log else log.assign(valid=np.nan)).dropna(subset=["valid"])
    middle.plot(valid["samples"], valid["valid"], "o-", color=BLUE)
    best = valid[valid["step"] == record.get("best_step")]
    middle.plot(best["samples"], best["valid"], "o", color=ORANGE, ms=11, label="kept")
    if protocol.main == "auc":
        middle.axhline(0.5, color=GREY, ls=":", label="chance")
    middle.set(title=f"validation {protocol.label}")
    norm.plot(clicks_seen, log["gradient_norm"], color=BLUE, label="before clipping")
    norm.axhline(record["config"].get("clip", np.nan), color=GREY, ls=":", label="cut to this length")
    norm.set(title="gradient norm", yscale="log")
    for name, color, style in (("encoder", BLUE, "-"), ("head", ORANGE, "--")):
        if f"groups.{name}.update_ratio" in log:
            right.plot(clicks_seen, log[f"groups.{name}.update_ratio"], color=color, ls=style, label=name)
    if "drift" in log:
        right.plot(clicks_seen, log["drift"], color=GREEN, ls="-.", label="drift of reused vectors")
    right.set(title="update / weight, by group", yscale="log")
    for ax in (left, middle, norm, right):
        ax.set_xlabel("clicks seen")
        ax.legend(fontsize=9)
    return figure


def by_slice(run: Run) -> Figure:
    """The four metrics of one run by slice, with intervals; the number of impressions or queries beside each name."""
    metrics, protocol = read_json(run.folder / "metrics.json"), PROTOCOLS[run.record.get("protocol", "impressions")]
    figure, axes = canvas(len(protocol.displayed), (13, 0.38 * len(metrics) + 1.2), sharey=True)
    for ax, name in zip(axes, protocol.displayed, strict=True):
        slices = pd.DataFrame({f"{part}  (n = {values[name]['n']:,})": values[name] for part, values in metrics.items()}).T
        means = slices[["mean", "low", "high"]].astype(float)  # NaN: no impression of the slice has both clicked and passed-over news
        dots(ax, slices.index, means, [BLUE] * len(slices))
        ax.axvline(means["mean"].iloc[0], color=GREY, ls=":")
        ax.set(title=protocol.metrics[name][0])
    return figure


def reliability(rows: Mapping[str, np.ndarray], temperature: float, bins: int = 10) -> tuple[pd.DataFrame, float]:
    """Predicted against observed shares of clicks, in bins of equally many candidates, and the expected calibration error (ECE).

    rows: offsets (n + 1,), scores and clicked, flat. A candidate's predicted share is softmax(score / temperature) in its impression, the observed
    one 1 / (number of clicks) where it was clicked, else 0: both add up to 1. Either is divided by an equal share, 1 / C, for else the size of slates
    alone would put candidates in order, and a scorer that knows nothing would look good. Impressions without a click are left out.
    Table: predicted, observed, low, high (95 % interval by resampling impressions), n. ECE: mean of |observed - predicted| over bins, by candidates
    (Guo et al., ICML 2017, eq. 3), in equal shares.
    """
    size = np.diff(rows["offsets"])
    owner = np.repeat(np.arange(len(size)), size)
    logit = rows["scores"].astype(float) / temperature
    top = np.full(len(size), -np.inf)
    np.maximum.at(top, owner, logit)
    weight = np.exp(logit - top[owner])
    clicks = np.bincount(owner, rows["clicked"], len(size))
    predicted = (size / np.bincount(owner, weight, len(size)))[owner] * weight
    observed = (size / np.maximum(clicks, 1))[owner] * rows["clicked"]
    has_click = clicks[owner] > 0
    owner, predicted, observed = owner[has_click], predicted[has_click], observed[has_click]
    bin_of = np.empty(len(owner), int)
    bin_of[np.argsort(predicted, kind="stable")] = np.arange(len(owner)) * bins // max(len(owner), 1)

    def by_impression(values: np.ndarray) -> np.ndarray:
        return np.bincount(owner * bins + bin_of, values, len(size) * bins).reshape(-1, bins)

    counts = by_impression(np.ones(len(owner)))
    filled = counts.sum(0) > 0  # fewer candidates than bins leave some empty
    counts, clicked = counts[:, filled], by_impression(observed)[:, filled]
    n, low_high = counts.sum(0), interval_of_ratios(clicked, counts)
    table = pd.DataFrame({"predicted": by_impression(predicted)[:, filled].sum(0) / n, "observed": clicked.sum(0) / n})
    table = table.assign(low=low_high[0], high=low_high[1], n=n.astype(int))
    return table, float((table["n"] * (table["observed"] - table["predicted"]).abs()).sum() / table["n"].sum())


def calibration(run: Run, test) -> Figure:
    """Reliability diagram of a run on impressions: predicted share of clicks within the slate against the observed one, with intervals and ECE.

    test: the impressions that rows.parquet of the run is about.
    """
    scores = pq.read_table(run.folder / "rows.parquet", columns=["scores"])["scores"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    rows = {"offsets": test.candidates.offsets, "scores": scores, "clicked": test.clicked}
    table, ece = reliability(rows, run.record["config"]["temperature"])
    figure, (ax,) = canvas(1, (5.4, 4.6))
    end = 1.1 * max(table["predicted"].max(), table["high"].max())
    ax.plot([0, end], [0, end], color=GREY, ls=":", label="what is predicted is observed")
    ax.axhline(1, color=GREY, lw=0.8, label="an equal share")
    spread = [(table["observed"] - table["low"]).clip(lower=0), (table["high"] - table["observed"]).clip(lower=0)]
    ax.errorbar(table["predicted"], table["observed"], yerr=spread, fmt="o-", color=BLUE, label="a tenth of the candidates each, 95 % interval")
    ax.set(xlabel="predicted share of the clicks, in equal shares 1 / C", ylabel="observed share", title=f"ECE {ece:.3f} equal shares")
    ax.legend(fontsize=9, loc="upper left")
    return figure


def found_by_rank(run: Run, items: int) -> Figure:
    """Of a catalogue: the share of right items that stand at a rank or before it, against random order of what is ranked. items: N.

    Ranked are all items, or those that a user did not have before.
    """
    rows = pq.read_table(run.folder / "rows.parquet", columns=["ranks", "history"])
    ranks = np.sort(rows["ranks"].combine_chunks().flatten().to_numpy(zero_copy_only=False))
    left_out = 0 if run.record["config"]["data"]["rank_seen"] else rows["history"].to_numpy()
    candidates = np.broadcast_to(np.maximum(items - left_out, 1), len(rows))
    figure, (ax,) = canvas(1, (5.4, 4.6))
    ax.step(ranks, np.arange(1, len(ranks) + 1) / len(ranks), where="post", color=BLUE, label="this model")
    rank = np.geomspace(1, items, 200)
    ax.plot(rank, [np.minimum(r / candidates, 1).mean() for r in rank], color=GREY, ls=":", label="random order")
    label = f"rank among {items:,} items" + (", without those of the user's history" if np.ndim(left_out) else "")
    ax.set(xscale="log", xlabel=label, ylabel="right items found so far", ylim=(0, 1.02))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.legend(fontsize=9)
    return figure


def item_map(run: Run, category: np.ndarray) -> Figure:
    """The item vectors of a run in two dimensions: their two directions of largest variance (PCA), by category.

    category (N + 1,): of items. The most frequent ones have a colour and a marker, at most as many as there are of these; the others are grey.
    """
    with np.load(run.folder / "map.npz") as saved:
        items, xy, explained = saved["items"], saved["xy"], saved["explained"]
    categories = np.asarray(category, object)[items]
    names = [str(name) for name in pd.Series(categories[categories != ""]).value_counts().index[: len(MARKERS)]]
    figure, (ax,) = canvas(1, (8.5, 5))
    others = ~np.isin(categories, names)
    if others.any():
        ax.plot(*xy[others].T, ".", color="#bbbbbb", ms=4, label="all others" if names else "items")
    palette = [color for i, color in enumerate(sns.color_palette("colorblind")) if i not in (7, 8)]  # grey, and yellow, which is hard to see
    for name, marker, color in zip(names, MARKERS, palette, strict=False):
        style = {"color": color, "ms": 7, "mew": 0.4, "mec": "white", "ls": "none"}
        ax.plot(*xy[categories == name].T, marker=marker, label=name.replace("$", r"\$")[:40], **style)
    first, second = 100 * explained
    ax.set(xlabel=f"first direction, {first:.0f} % of the variance", ylabel=f"second, {second:.0f} %", title=f"{len(items):,} items")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    return figure
