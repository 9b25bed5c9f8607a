"""What are a loss and a metric made of? Those of one row, calculated line by line, beside what the package computes, for notebooks."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from pandas.io.formats.style import Styler

from nrms.config import Config
from nrms.data.batches import Batch
from nrms.metrics import PROTOCOLS
from nrms.objectives import OBJECTIVES, POSITIVE
from nrms.show import readable

EQUATIONS = {  # what the docstrings of nrms/objectives.py say, where s_c is the score of the click and s_j that of another candidate
    "listwise": "-log( exp(s_c) / Σ_j exp(s_j) ), j over all candidates, the click included",
    "pointwise": "-Σ_j w_j ( y_j log σ(s_j) + (1 - y_j) log(1 - σ(s_j)) ) / Σ_j w_j, y_j = 1 and w_j larger for the click",
    "bce": "-log σ(s_c) - mean_j log(1 - σ(s_j)), j over the others",
    "bpr": "-mean_j log σ(s_c - s_j), j over the others",
    "none": "0: this system learns by its further terms alone",
}


def equation(config: Config) -> str:
    """The loss of an experiment in one line of Markdown."""
    terms = "".join(f" + {weight:g} · {name}" for name, weight in config.terms.items())
    scale = f"; scores are divided by {config.temperature:g} first" if config.temperature != 1 else ""
    return f"`{config.objective}`: loss = `{EQUATIONS[config.objective]}`{terms}{scale}; averaged over the batch."


def loss(config: Config, news, batch: Batch, scores: torch.Tensor, most: int = 6) -> tuple[Styler, str]:
    """The objective of the first row of a batch, candidate by candidate, and a sentence that holds their sum against what the package says.

    The click stands first; of many others the first ones are shown, and all of them count.
    """
    prior = 0.0 if batch.prior is None else batch.prior
    logits = (scores.detach().float() / config.temperature + prior)[:1]
    mask, clicked = batch.candidate_mask[:1], batch.clicked[:1]
    package = OBJECTIVES[config.objective](logits, mask, clicked).item()
    shown = batch.candidates if batch.candidates.dim() == 1 else batch.candidates[0]
    s, own = logits[0][mask[0]].cpu().double().numpy(), clicked[0][mask[0]].cpu().numpy()
    order = np.argsort(~own, kind="stable")
    items, s = shown[mask[0]].cpu().numpy()[order], s[order]
    label, values, total = loss_parts(config.objective, s)
    table = pd.DataFrame({"candidate": [news.name(i) for i in items], "clicked": ["yes"] + [""] * (len(s) - 1), "s": s, label: values})
    rest = f" ({len(s) - most:,} more candidates are not shown)" if len(s) > most else ""
    return readable(table.head(most)), f"By hand {total:.4f} nats for this row, by the package {package:.4f}{rest}."


def loss_parts(objective: str, s: np.ndarray) -> tuple[str, np.ndarray, float]:
    """What a loss makes of each score, and the loss (in nats) of one row; s (C,): scores, the click first."""
    other = slice(1, None)
    if objective == "listwise":
        share = np.exp(s - s.max()) / np.exp(s - s.max()).sum()
        return "exp(s) / Σ exp(s)", share, -np.log(share[0])
    if objective == "bpr":
        pair = np.logaddexp(0, s - s[0])
        return "-log σ(s_c - s)", np.r_[0.0, pair[other]], pair[other].mean() if len(s) > 1 else 0.0
    alone = np.r_[np.logaddexp(0, -s[0]), np.logaddexp(0, s[other])]
    if objective == "bce":
        return "-log of what is right", alone, alone[0] + (alone[other].mean() if len(s) > 1 else 0.0)
    weight = np.r_[POSITIVE, np.ones(len(s) - 1)]
    return "-log of what is right", alone, 0.0 if objective == "none" else (weight * alone).sum() / weight.sum()


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

    def of_clicks(f: np.ndarray) -> np.ndarray:
        return np.where(hit, same @ f / same.sum(1), 0)

    lines = pd.DataFrame({"rank": same @ rank / same.sum(1), "clicked": hit, "passed over, below": np.where(hit, below, 0)})
    lines["1/rank"] = of_clicks(1 / rank)
    sums = {"auc": (lines["passed over, below"].sum(), n * (len(s) - n)), "mrr": (lines["1/rank"].sum(), n)}
    for k in (5, 10):
        gain = np.where(rank <= k, 1 / np.log2(rank + 1), 0)
        lines[f"gain@{k}"] = of_clicks(gain)
        sums[f"ndcg{k}"] = lines[f"gain@{k}"].sum(), gain[:n].sum()
    return lines, sums


def catalogue(ranks: np.ndarray, tied: np.ndarray, protocol: str) -> tuple[pd.DataFrame, Sums]:
    """The right items of one question, line by line, and the metrics that are shown from the lines.

    ranks (k,): from 1, among the whole catalogue, ties their average. tied (k,): how many other items score the same. Each is then equally likely at
    any of its `tied` + 1 ranks, and everything is the mean over them, as in metrics.py.
    """
    ties = [rank - t / 2 + np.arange(t + 1) for rank, t in zip(ranks, tied, strict=True)]

    def mean_over(f: Callable[[np.ndarray], np.ndarray]) -> list[float]:
        return [float(np.mean(f(rank))) for rank in ties]

    lines, n = pd.DataFrame({"rank": ranks, "tied with": tied, "1/rank": mean_over(lambda rank: 1 / rank)}), len(ranks)
    lines = lines if tied.any() else lines.drop(columns="tied with")
    sums = {"mrr": (lines["1/rank"].sum(), n)}
    for name in PROTOCOLS[protocol].shown:
        k = int("".join(filter(str.isdigit, name)) or 0)
        if name.startswith(("hr", "recall")):
            lines[f"among {k}"] = mean_over(lambda rank, k=k: rank <= k)
            sums[name] = lines[f"among {k}"].sum(), n
        elif name.startswith("ndcg"):
            lines[f"gain@{k}"] = mean_over(lambda rank, k=k: np.where(rank <= k, 1 / np.log2(rank + 1), 0))
            sums[name] = lines[f"gain@{k}"].sum(), (1 / np.log2(np.arange(2, min(n, k) + 2))).sum()
    return lines, sums


def metrics(news, impressions, row: int, rows: pa.Table, protocol: str) -> tuple[Styler, str]:
    """What was right in one test row, line by line, and a sentence that holds the sums of the columns against rows.parquet."""
    items, at = impressions.candidates[row], slice(*impressions.candidates.offsets[row : row + 2])
    if protocol == "impressions":
        scores = np.array(rows["scores"][row].as_py())
        lines, sums = slate(scores, impressions.clicked[at])
        items, kept = items[np.argsort(-scores, kind="stable")], lines.pop("clicked")
        items, lines = items[kept], lines[kept]
    else:
        ranks, known = np.array(rows["ranks"][row].as_py()), "tied" in rows.column_names
        lines, sums = catalogue(ranks, np.array(rows["tied"][row].as_py()) if known else np.zeros(len(ranks), int), protocol)
    lines.insert(0, "right", [news.name(i) for i in items])
    lines["rank"] = [f"{rank:g}" for rank in lines["rank"]]
    labels: Mapping = PROTOCOLS[protocol].metrics
    says = []
    for name in PROTOCOLS[protocol].shown:
        (total, by), package = sums[name], rows[name][row].as_py()
        says.append(f"- {labels[name][0]} = {total:.4g} / {by:.4g} = {total / max(by, 1e-12):.4f}; by the package {package:.4f}")
    if protocol != "impressions" and not known:
        says.append("\nThis run was judged by an earlier version, which did not keep how many items are tied: by hand there are none.")
    return readable(lines.set_index("rank").head(30)), "\n".join(says)
