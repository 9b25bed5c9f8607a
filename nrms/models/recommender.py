"""How do items and users meet? The one contract: an item tower, a user encoder, a scorer.

    items(ids (U,)) -> (U, D)     users(history (R, L, D), mask (R, L)) -> states     users.score(states of rows, candidates (B, C, D)) -> (B, C)

Losses are not here, nor is any file but the pre-trained weights that a role names.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from nrms.data.batches import Batch
from nrms.models.users.base import UserEncoder


def distinct(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The different items (U,) of a batch, padding left out, and for every place of its history, then of its candidates, flat, 1 + the number of its
    item, or 0 for padding."""
    ids, place = torch.unique(torch.cat([batch.history.flatten(), batch.candidates.flatten()]), return_inverse=True)  # sorted
    padding = int(ids[0] == 0)
    return ids[padding:], place + (1 - padding)


class Scored(NamedTuple):
    """What a recommender says of a batch."""

    scores: torch.Tensor  # (B, C), without meaning where candidate_mask is False
    encoded: int  # U, the number of different items that were encoded
    views: dict[str, torch.Tensor]  # what terms of the loss look at: by node where users are nodes, else by reader


class Recommender(nn.Module):
    """Scores candidates for users. Each distinct item of a batch is encoded once; all items, where the user encoder reads whole tables."""

    def __init__(self, items: nn.Module, users: nn.Module, repeats: bool = False):
        super().__init__()
        self.items, self.users = items, users
        self.repeats = nn.Parameter(torch.zeros(())) if repeats else None  # added to the scores of items that the history has

    def forward(self, batch: Batch, encode: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Scored:
        """encode: in place of the item tower, (U,) -> (U, D)."""
        if self.users.is_graph:
            items = self.table(encode)
            views = self.users.views(items)
            states = self.users(F.embedding(batch.history, views["final"]), batch.history_mask)
            scores = self.users.score(states[batch.reader], F.embedding(batch.candidates, views["final"]))
            return Scored(scores, len(items) - 1, views)
        ids, place = distinct(batch)
        states, scores = self.states_and_scores((encode or self.items)(ids), place, batch)
        return Scored(scores, len(ids), self.users.views(states))

    def table(self, encode: Callable[[torch.Tensor], torch.Tensor] | None = None) -> torch.Tensor:
        """Vectors of all items at once (N + 1, W), row 0 zero: where they cost a look-up and a product."""
        lengths = self.items.lengths
        vectors = (encode or self.items)(torch.arange(1, len(lengths), device=lengths.device))
        return torch.cat([vectors.new_zeros(1, vectors.shape[1]), vectors])

    def on_epoch_start(self, seed: Sequence[int], resumed: bool) -> None:
        """Lets the user encoder make anew what it makes once an epoch, from item vectors as they are now, without dropout."""
        if type(self.users).on_epoch_start is UserEncoder.on_epoch_start:
            return
        training = self.training
        with torch.no_grad():
            self.users.on_epoch_start(self.eval().table(), seed, resumed)
        self.train(training)

    def rank(self, vectors: torch.Tensor, place: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Scores (B, C) from the vectors (U, D) of the batch's items, of which `place` says which stands where; see `distinct`."""
        return self.states_and_scores(vectors, place, batch)[1]

    def states_and_scores(self, vectors: torch.Tensor, place: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """States (R, ...) of the batch's histories, and scores as of `rank`."""
        vectors = torch.cat([vectors.new_zeros(1, vectors.shape[1]), vectors])  # padding is not encoded; its vector is zero
        cut = batch.history.numel()
        past, shown = place[:cut].view(batch.history.shape), place[cut:].view(batch.candidates.shape)
        states = self.users.states(vectors, past, batch.history_mask, batch.history, batch.hidden)
        # unlike vectors[shown], F.embedding has the same gradient in every run
        scores = self.users.score(self.users.at(states, batch.reader, batch.place), F.embedding(shown, vectors))
        if self.repeats is not None:
            before = torch.arange(batch.history.shape[1], device=scores.device) < batch.place[:, None]
            scores = self.with_repeats(scores, torch.where(before, batch.history[batch.reader], 0), batch.candidates)
        return states, scores

    def with_repeats(self, scores: torch.Tensor, past: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        """Scores (B, C) of the items `shown` (C,), in order of their numbers, with `repeats` added where a row's past (B, L) has the item."""
        at = torch.searchsorted(shown, past).clamp_max(len(shown) - 1)
        row, place = ((shown[at] == past) & (past > 0)).nonzero(as_tuple=True)
        seen = torch.zeros_like(scores, dtype=torch.bool)
        seen[row, at[row, place]] = True
        return torch.where(seen, scores + self.repeats, scores)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable weights by learning-rate group: `encoder` came pre-trained, `head` is new."""
        encoder = self.items.groups()
        known = {id(p) for p in encoder}
        return {"encoder": encoder, "head": [p for p in self.parameters() if p.requires_grad and id(p) not in known]}
