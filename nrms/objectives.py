"""What is a good ranking, as a number to descend? Functions of scores and masks; no model appears here."""

import torch
from torch.nn import functional as F

POSITIVE = 25.0  # about 1 over the share of clicked news in MIND


def listwise(scores: torch.Tensor, mask: torch.Tensor, clicked: torch.Tensor) -> torch.Tensor:
    """Softmax cross entropy of the click among its 1 + K candidates, mean over rows; NRMS, eq. 9-10.

    scores (B, C); mask (B, C) False where there is no candidate, whatever the score there; clicked (B, C) True once per row.
    In nats; log(1 + K) for equal scores. A row whose only candidate is the click adds 0.
    """
    masked = scores.float().masked_fill(~mask, -torch.inf)
    return -(masked.log_softmax(-1)[clicked]).mean()


def pointwise(scores: torch.Tensor, mask: torch.Tensor, clicked: torch.Tensor) -> torch.Tensor:
    """Cross entropy of click or no click, each candidate alone, with the score as log-odds; clicks weigh POSITIVE times as much.

    Shapes as for `listwise`. In nats, divided by the sum of weights, so log 2 for scores of 0. A constant weight multiplies the prior odds and hardly
    changes a ranking (Elkan 2001): it is here because the original's ranker was trained so.
    """
    weight = torch.where(clicked, POSITIVE, 1.0) * mask
    loss = F.binary_cross_entropy_with_logits(scores.float(), clicked.float(), reduction="none")
    return (loss.masked_fill(~mask, 0) * weight).sum() / weight.sum()


def bce(scores: torch.Tensor, mask: torch.Tensor, clicked: torch.Tensor) -> torch.Tensor:
    """Cross entropy of click or no click: the mean over clicks plus the mean over the others; SASRec, eq. 6, and IDvs.MoRec.

    Shapes as for `listwise`. In nats, 2 log 2 for scores of 0, where there is any candidate that was not clicked.
    """
    loss = F.binary_cross_entropy_with_logits(scores.float(), clicked.float(), reduction="none")
    others = mask & ~clicked
    return loss[clicked].mean() + loss[others].sum() / others.sum().clamp_min(1)


def bpr(scores: torch.Tensor, mask: torch.Tensor, clicked: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(score of the click - score of another), mean over all pairs of a row's click and another; Rendle et al., UAI 2009, eq. 4.

    Shapes as for `listwise`. In nats, log 2 for equal scores.
    """
    scores, others = scores.float(), mask & ~clicked
    loss = F.softplus(scores - scores[clicked][:, None])
    return loss.masked_fill(~others, 0).sum() / others.sum().clamp_min(1)


def none(scores: torch.Tensor, mask: torch.Tensor, clicked: torch.Tensor) -> torch.Tensor:
    """0, whatever the scores: for systems that learn by other terms alone."""
    return scores.new_zeros(())


OBJECTIVES = {"listwise": listwise, "pointwise": pointwise, "bce": bce, "bpr": bpr, "none": none}
