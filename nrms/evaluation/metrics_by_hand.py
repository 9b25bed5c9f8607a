"""What is a metric made of? Those of one test row, calculated line by line, beside what the package computes, for notebooks."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.io.formats.style import Styler

from nrms.evaluation.protocols import PROTOCOLS
from nrms.runtime.notebook_output import readable

Sums = dict[str, tuple[float, float]]  # metric: what its lines add up to, and by what that is divided


def slate(scores: np.ndarray, clicked: np.ndarray) -> tuple[pd.DataFrame, Sums]:
    """The ranking of one impression, line by line: rank, passed-over candidates below a click, 1/rank, gain; and the metrics from the lines.

    scores, clicked (C,): candidates in any order. Equal scores share the mean over their ranks, of everything.
    """
    order = np.argsort(-scores, kind="stable")
    s, hit = scores[order], clicked[order].astype(bool)
    rank, n = np.arange(1, len(s) + 1), int(hit.sum())
    same = s[:, None] == s[None]
    below = ((s[:, None] > s[None]) + 0.5 * same) @ (~hit)  # ties half

    def of_clicks(values: np.ndarray) -> np.ndarray:
        return np.where(hit, same @ values / same.sum(1), 0)

    lines = pd.DataFrame({"rank": same @ rank / same.sum(1), "clicked": hit, "passed over, below": np.where(hit, below, 0)})
    lines["1/rank"] = of_clicks(1 / rank)
    sums = {"auc": (lines["passed over, below"].sum(), n * (len(s) - n)), "mrr": (lines["1/rank"].sum(), n)}
    for k in (5, 10):
        gain = np.where(rank <= k, 1 / np.log2(rank + 1), 0)
        lines[f"gain@{k}"] = of_clicks(gain)
        sums[f"ndcg{k}"] = lines[f"gain@{k}"].sum(), gain[:n].sum()
    return lines, sums


def catalogue(ranks: np.ndarray, tied: np.ndarray, protocol: str) -> tuple[pd.DataFrame, Sums]:
    """The relevant items of one query, line by line, and the metrics that are displayed from the lines.

    ranks (k,): from 1, among the whole catalogue, ties their average. tied (k,): how many other items score the same. Each is then equally likely at
    any of its `tied` + 1 ranks, and everything is the mean over them, as in metrics.py.
    """
    ties = [rank - t / 2 + np.arange(t + 1) for rank, t in zip(ranks, tied, strict=True)]

    def mean_of(value: Callable[[np.ndarray], np.ndarray]) -> list[float]:
        return [float(np.mean(value(ranks))) for ranks in ties]

    lines, n = pd.DataFrame({"rank": ranks, "tied with": tied, "1/rank": mean_of(lambda rank: 1 / rank)}), len(ranks)
    lines = lines if tied.any() else lines.drop(columns="tied with")
    sums = {"mrr": (lines["1/rank"].sum(), n)}
    for name in PROTOCOLS[protocol].displayed:
        k = int("".join(filter(str.isdigit, name)) or 0)
        if name.startswith(("hr", "recall")):
            lines[f"among {k}"] = mean_of(lambda rank, k=k: rank <= k)
            sums[name] = lines[f"among {k}"].sum(), n
        elif name.startswith("ndcg"):
            lines[f"gain@{k}"] = mean_of(lambda rank, k=k: np.where(rank <= k, 1 / np.log2(rank + 1), 0))
            sums[name] = lines[f"gain@{k}"].sum(), (1 / np.log2(np.arange(2, min(n, k) + 2))).sum()
    return lines, sums


def metrics(news, impressions, row: int, rows: pa.Table, protocol: str) -> tuple[Styler, str]:
    """What was right in one test row, line by line, and a sentence that holds the sums of the columns against rows.parquet."""
    items = impressions.candidates[row]
    if protocol == "impressions":
        scores = np.array(rows["scores"][row].as_py())
        lines, sums = slate(scores, impressions.clicked[impressions.candidates.index(np.array([row]))])
        clicked = lines.pop("clicked")
        items, lines = items[np.argsort(-scores, kind="stable")][clicked], lines[clicked]
    else:
        ranks, ties_known = np.array(rows["ranks"][row].as_py()), "tied" in rows.column_names
        lines, sums = catalogue(ranks, np.array(rows["tied"][row].as_py()) if ties_known else np.zeros(len(ranks), int), protocol)
    lines.insert(0, "right", [news.name(i) for i in items])
    lines["rank"] = [f"{rank:g}" for rank in lines["rank"]]
    sentences = []
    for name in PROTOCOLS[protocol].displayed:
        (total, by), package = sums[name], rows[name][row].as_py()
        label = PROTOCOLS[protocol].metrics[name][0]
        sentences.append(f"- {label} = {total:.4g} / {by:.4g} = {total / max(by, 1e-12):.4f}; by the package {package:.4f}")
    if protocol != "impressions" and not ties_known:
        sentences.append("\nThis run was judged by an earlier version, which did not keep how many items are tied: by hand there are none.")
    return readable(lines.set_index("rank").head(30)), "\n".join(sentences)
