"""How do items and users meet? The one contract: an item tower, a user encoder, a scorer.

    items(ids (U,)) -> (U, D)     users(history (R, L, D), mask (R, L)) -> states     users.score(states of rows, candidates (B, C, D)) -> (B, C)

Losses are not here, nor is any file but the pre-trained weights that a role names; `build.py` makes a recommender from a config.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from nrms.data.batches import Batch
from nrms.models.users.base import UserEncoder


def distinct(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The different items (U,) of a batch, padding left out, and for every slot of its histories, then of its candidates, flat, 1 + the index of its
    item among them, or 0 for padding."""
    ids, index = torch.unique(torch.cat([batch.history.flatten(), batch.candidates.flatten()]), return_inverse=True)  # sorted
    padding = int(ids[0] == 0)
    return ids[padding:], index + (1 - padding)


class Scored(NamedTuple):
    """Scores of a batch, and what came about on the way."""

    scores: torch.Tensor  # (B, C), without meaning where candidate_mask is False
    encoded: int  # U, the number of different items that were encoded
    views: dict[str, torch.Tensor]  # what auxiliary losses look at: by node where users are nodes, else by history


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
            scores = self.users.score(states[batch.history_id], F.embedding(batch.candidates, views["final"]))
            return Scored(scores, len(items) - 1, views)
        ids, index = distinct(batch)
        states, scores = self.states_and_scores((encode or self.items)(ids), index, batch)
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

    def states_and_scores(self, vectors: torch.Tensor, index: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """States (R, ...) of the batch's histories, and scores (B, C), from the vectors (U, D) and the index that `distinct` gives."""
        vectors = torch.cat([vectors.new_zeros(1, vectors.shape[1]), vectors])  # padding is not encoded; its vector is zero
        cut = batch.history.numel()
        past, candidates = index[:cut].view(batch.history.shape), index[cut:].view(batch.candidates.shape)
        states = self.users.states(vectors, past, batch.history_mask, batch.history, batch.hidden)
        # unlike vectors[candidates], F.embedding has the same gradient in every run
        scores = self.users.score(self.users.at(states, batch.history_id, batch.position), F.embedding(candidates, vectors))
        if self.repeats is not None:
            before = torch.arange(batch.history.shape[1], device=scores.device) < batch.position[:, None]
            scores = self.with_repeats(scores, torch.where(before, batch.history[batch.history_id], 0), batch.candidates)
        return states, scores

    def with_repeats(self, scores: torch.Tensor, past: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores (B, C) of `items` (C,), in order of their numbers, with `repeats` added where a row's past (B, L) has the item."""
        column = torch.searchsorted(items, past).clamp_max(len(items) - 1)
        row, position = ((items[column] == past) & (past > 0)).nonzero(as_tuple=True)
        repeated = torch.zeros_like(scores, dtype=torch.bool)
        repeated[row, column[row, position]] = True
        return torch.where(repeated, scores + self.repeats, scores)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable weights by learning-rate group: `encoder` came pre-trained, `head` is new."""
        encoder = self.items.pretrained()
        ids = {id(p) for p in encoder}
        return {"encoder": encoder, "head": [p for p in self.parameters() if p.requires_grad and id(p) not in ids]}
