"""What is a good ranking, as a number to descend? Functions of scores and masks; no model appears here."""

import torch


def listwise(scores: torch.Tensor, mask: torch.Tensor, clicked: torch.Tensor) -> torch.Tensor:
    """Softmax cross entropy of the click among its 1 + K candidates, mean over rows; NRMS, eq. 9-10.

    scores (B, C); mask (B, C) False where there is no candidate, whatever the score there; clicked (B, C) True once per row.
    In nats; log(1 + K) for equal scores. A row whose only candidate is the click adds 0.
    """
    masked = scores.float().masked_fill(~mask, -torch.inf)
    return -(masked.log_softmax(-1)[clicked]).mean()


def listwise_at_chance(mask: torch.Tensor) -> float:
    """The loss `listwise` of equal scores: mean over rows of log(number of candidates)."""
    return mask.sum(-1).float().log().mean().item()
