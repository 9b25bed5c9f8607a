"""What is a loss made of? That of one row, calculated line by line, beside what the package computes, for notebooks."""

import numpy as np
import pandas as pd
import torch
from pandas.io.formats.style import Styler

from nrms.config.resolved import Config
from nrms.data.batches import Batch
from nrms.runtime.notebook_output import readable
from nrms.training.losses import OBJECTIVES, POSITIVE

EQUATIONS = {  # what the docstrings of nrms/training/losses.py say, where s_c is the score of the click and s_j that of another candidate
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
    """The loss of the first row of a batch, candidate by candidate, and a sentence that holds their sum against what the package computes.

    The click stands first; of many others the first ones are shown, and all of them count.
    """
    prior = 0.0 if batch.prior is None else batch.prior
    logits = (scores.detach().float() / config.temperature + prior)[:1]
    mask, clicked = batch.candidate_mask[:1], batch.clicked[:1]
    package = OBJECTIVES[config.objective](logits, mask, clicked).item()
    candidates = batch.candidates if batch.candidates.dim() == 1 else batch.candidates[0]
    order = np.argsort(~clicked[0][mask[0]].cpu().numpy(), kind="stable")
    items, s = candidates[mask[0]].cpu().numpy()[order], logits[0][mask[0]].cpu().double().numpy()[order]
    label, values, total = loss_parts(config.objective, s)
    table = pd.DataFrame({"candidate": [news.name(i) for i in items], "clicked": "", "s": s, label: values})
    table.loc[0, "clicked"] = "yes"
    rest = f" ({len(s) - most:,} more candidates are not shown)" if len(s) > most else ""
    return readable(table.head(most)), f"By hand {total:.4f} nats for this row, by the package {package:.4f}{rest}."


def loss_parts(objective: str, s: np.ndarray) -> tuple[str, np.ndarray, float]:
    """What a loss makes of each score, and the loss (in nats) of one row; s (C,): scores, the click first."""
    if objective == "listwise":
        share = np.exp(s - s.max()) / np.exp(s - s.max()).sum()
        return "exp(s) / Σ exp(s)", share, -np.log(share[0])
    if objective == "bpr":
        pair = np.logaddexp(0, s - s[0])
        return "-log σ(s_c - s)", np.r_[0.0, pair[1:]], pair[1:].mean() if len(s) > 1 else 0.0
    alone = np.r_[np.logaddexp(0, -s[0]), np.logaddexp(0, s[1:])]
    if objective == "bce":
        return "-log of what is right", alone, alone[0] + (alone[1:].mean() if len(s) > 1 else 0.0)
    weight = np.r_[POSITIVE, np.ones(len(s) - 1)]
    return "-log of what is right", alone, 0.0 if objective == "none" else (weight * alone).sum() / weight.sum()
