"""What does every user encoder promise? State from history; scores from state.

    forward(history (R, L, D), mask (R, L)) -> states (R, ...)     score(states of rows (B, ...), items (B, C, D)) -> (B, C)

One tensor holds the state of all rows, so that whoever ranks computes it once per impression and then scores in pieces.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


def generator_of(seed: Sequence[int]) -> torch.Generator:
    """Random numbers that are a function of these numbers alone, as of a run's seed and its epoch."""
    return torch.Generator().manual_seed(sum(s * 1_000_003**i for i, s in enumerate(seed)) % (1 << 62))


def products(states: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """Dot products: (B, D) x (B, C, D), or (C, D) for the same items in all rows, -> (B, C)."""
    return states @ items.T if items.dim() == 2 else torch.einsum("bd,bcd->bc", states, items)


class UserEncoder(nn.Module):
    """A user encoder whose state is one vector (B, D)."""

    is_vector = True  # False where the state of a history has as many places as the widest of its batch
    by_place = False  # True where the state (B, L + 1, D) says at each place what is known of the item that stands there
    whole = False  # True where users are nodes beside the items, so that whole tables are read and a history is one place, the user's own
    reads_items = False  # True where the numbers of a history's items are read too, (R, L)
    deviation: float | None = None  # that the item vectors' own weights begin with on a log; None: that of vectors of length about one
    needs_history = False  # True where a row of a log without anything before it is left out of training: there is nobody to read
    scores_cosines = False  # True where scores are cosines, whose scale training cannot choose
    ranks_catalogues = True  # False where candidates are read one by one
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

    def comparable(self, states: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Users (B, D) and items (C, D) whose products the scores are, given states of rows and item vectors; None where scores are none."""
        return states, items

    def attention(self, history: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
        """The weight of each click's place in the last pooling, (R, L) with a sum of 1 in each row; None where no such weights are.

        What was looked at, not what it did: a place may have seen other clicks before it is weighed.
        """
        return None

    def views(self, states: torch.Tensor) -> dict[str, torch.Tensor]:
        """What terms of the loss look at, by name, (R, ·); of an encoder that is `whole`, given items (N + 1, W), views of all nodes."""
        return {}

    def on_epoch_start(self, items: torch.Tensor, seed: Sequence[int], resumed: bool) -> None:
        """Makes anew what is made once an epoch, given the vectors of all items (N + 1, W); a function of these and `seed` alone.

        resumed: the epoch is gone on with in the middle, so that what is saved with the weights must stay.
        """

    def score(self, state: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """(B, D) x (B, C, D), or (C, D) for the same items in all rows, -> (B, C).

        The dot product over sqrt(D), so that untrained scores are of order one whatever D.
        """
        return products(state * state.shape[-1] ** -0.5, items)
