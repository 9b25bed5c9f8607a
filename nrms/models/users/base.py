"""What does every user encoder promise? State from history; scores from state.

    forward(history (R, L, D), mask (R, L)) -> states (R, ...)     score(states of rows (B, ...), items (B, C, D)) -> (B, C)

One tensor holds the state of all rows, so that whoever ranks computes it once per impression and then scores in pieces.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HISTORIES = 32  # of like length, whose states are computed together


def generator_of(seed: Sequence[int]) -> torch.Generator:
    """Random numbers that are a function of these numbers alone, as of a run's seed and its epoch."""
    return torch.Generator().manual_seed(sum(s * 1_000_003**i for i, s in enumerate(seed)) % (1 << 62))


def products(states: Tensor, items: Tensor) -> Tensor:
    """Dot products: (B, D) x (B, C, D), or (C, D) for the same items in all rows, -> (B, C)."""
    return states @ items.T if items.dim() == 2 else torch.einsum("bd,bcd->bc", states, items)


class UserEncoder(nn.Module):
    """A user encoder whose state is one vector (B, D); a class that is another kind says so by answering one of six questions otherwise."""

    is_graph = False  # users are nodes beside the items: whole tables are read, and a history is one position, the user's own node
    per_position = False  # the state (B, L + 1, D) holds, for each position, what is known of the item that stands there
    reads_item_ids = False  # the numbers of a history's items (R, L) are read beside their vectors
    is_causal = True  # a position sees only what stands before it; where it sees more, what it is to find must be hidden
    can_rank_catalogue = True  # one state is scored against all items at once; else each candidate is read with the history
    scores_are_cosines = False  # their scale is given: untrained, what was clicked before is near, so the first loss may be above that of chance

    ITEM_DEVIATION: float | None = None  # that the item vectors' own weights begin with on a log; None: that of vectors of length about one
    MIN_HISTORY = 0  # clicks that a row of a log must have before it to be trained on

    def states(self, vectors: Tensor, past: Tensor, mask: Tensor, items: Tensor, hidden: Tensor | None = None) -> Tensor:
        """User states (R, ...) of histories `past` (R, L), rows of `vectors`, `items` (R, L) by their numbers.

        In parts of like length, so that padding costs little. hidden: see `states_at_once`.
        """
        if len(past) <= HISTORIES:
            return self.states_at_once(vectors, past, mask, items, hidden)
        length = mask.sum(1)
        order, parts = length.argsort(stable=True), []
        for rows in order.split(HISTORIES):
            width = max(int(length[rows[-1]]), 1)
            parts.append(self.states_at_once(vectors, past[rows, :width], mask[rows, :width], items[rows, :width]))
        return torch.cat(parts).index_select(0, order.argsort())

    def states_at_once(self, vectors: Tensor, past: Tensor, mask: Tensor, items: Tensor, hidden: Tensor | None = None) -> Tensor:
        """`states` of histories that are padded to the longest. hidden (R, L): positions that an encoder which is not causal must not see."""
        history = F.embedding(past, vectors)  # (R, L, D)
        return self(history, mask, items) if self.reads_item_ids else self(history, mask)

    def at(self, states: Tensor, history_id: Tensor, position: Tensor | None) -> Tensor:
        """The states of rows: of history number `history_id` (B,) and, where there is one for each position, at `position` (B,)."""
        if not self.per_position:
            return states[history_id]
        flat = history_id * states.shape[1] + position
        return F.embedding(flat, states.flatten(0, 1))  # unlike states[history_id, position], with the same gradient in every run

    def at_end(self, states: Tensor, mask: Tensor) -> Tensor:
        """The states behind all of a history: what is known of the item that comes next."""
        return states[torch.arange(len(mask), device=mask.device), mask.sum(1)] if self.per_position else states

    def comparable(self, states: Tensor, items: Tensor) -> tuple[Tensor, Tensor] | None:
        """Users (B, D) and items (C, D) whose products the scores are, given states of rows and item vectors; None where scores are none."""
        return (states, items) if self.can_rank_catalogue else None

    def attention(self, history: Tensor, mask: Tensor) -> Tensor | None:
        """The weight of each click's position in the last pooling, (R, L) with a sum of 1 in each row; None where no such weights are.

        What was looked at, not what it did: a position may have seen other clicks before it is weighed.
        """
        return None

    def views(self, states: Tensor) -> dict[str, Tensor]:
        """What auxiliary losses look at, by name, (R, ·); of an encoder that `is_graph`, given items (N + 1, W), views of all nodes."""
        return {}

    def on_epoch_start(self, items: Tensor, seed: Sequence[int], resumed: bool) -> None:
        """Makes anew what is made once an epoch, given the vectors of all items (N + 1, W); a function of these and `seed` alone.

        resumed: the epoch is gone on with in the middle, so that what is saved with the weights must stay.
        """

    def score(self, state: Tensor, items: Tensor) -> Tensor:
        """(B, D) x (B, C, D), or (C, D) for the same items in all rows, -> (B, C).

        The dot product over sqrt(D), so that untrained scores are of order one whatever D.
        """
        return products(state * state.shape[-1] ** -0.5, items)
