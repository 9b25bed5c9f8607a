"""What does every user encoder promise? State from history; scores from state.

    forward(history (B, L, D), mask (B, L)) -> state (B, ...)     score(state, items (B, C, D)) -> (B, C)

One tensor holds the state of all rows, so that whoever ranks computes it once per impression and then scores in pieces.
"""

import torch
from torch import nn


class UserEncoder(nn.Module):
    """A user encoder whose state is one vector (B, D)."""

    def score(self, state: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """(B, D) x (B, C, D) -> (B, C): the dot product over sqrt(D), so that untrained scores are of order one whatever D."""
        return torch.einsum("bd,bcd->bc", state, items) * state.shape[-1] ** -0.5
