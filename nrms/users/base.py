"""What does every user encoder promise? State from history; scores from state.

    forward(history (R, L, D), mask (R, L)) -> states (R, ...)     score(states of rows (B, ...), items (B, C, D)) -> (B, C)

One tensor holds the state of all rows, so that whoever ranks computes it once per impression and then scores in pieces.
"""

import torch
from torch import nn
from torch.nn import functional as F


class UserEncoder(nn.Module):
    """A user encoder whose state is one vector (B, D)."""

    is_vector = True  # False where the state of a history has as many places as the widest of its batch
    by_place = False  # True where the state (B, L + 1, D) says at each place what is known of the item that stands there
    is_causal = True  # False where a place sees what stands behind it, so that what it is to find must be hidden

    def at(self, states: torch.Tensor, reader: torch.Tensor, place: torch.Tensor | None) -> torch.Tensor:
        """The states of rows: of history `reader` (B,) and, where there is one for each place, at `place` (B,)."""
        if not self.by_place:
            return states[reader]
        flat = reader * states.shape[1] + place
        return F.embedding(flat, states.flatten(0, 1))  # unlike states[reader, place], with the same gradient in every run

    def at_end(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The states of whole histories: what is known of the item that comes next."""
        return states[torch.arange(len(mask), device=mask.device), mask.sum(1)] if self.by_place else states

    def score(self, state: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """(B, D) x (B, C, D), or (C, D) for the same items in all rows, -> (B, C).

        The dot product over sqrt(D), so that untrained scores are of order one whatever D.
        """
        state = state * state.shape[-1] ** -0.5
        return state @ items.T if items.dim() == 2 else torch.einsum("bd,bcd->bc", state, items)
