"""What does the model see at one step? A Batch: histories and candidates as item numbers, with masks.

Training rows are clicks, every click of every impression once per epoch, each beside K news that the same impression showed and the user did not
click, drawn anew each epoch. Where an impression has fewer than K of those, the places are masked out, never filled with another item.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch

from nrms.data.tables import Impressions, Ragged


@dataclass(frozen=True)
class Batch:
    """B rows. Masked places hold item 0 and must not matter."""

    history: torch.Tensor  # (B, L) int64, oldest first
    history_mask: torch.Tensor  # (B, L) bool
    candidates: torch.Tensor  # (B, C) int64
    candidate_mask: torch.Tensor  # (B, C) bool
    clicked: torch.Tensor  # (B, C) bool

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})

    def __len__(self) -> int:
        return len(self.history)


def draw_distinct(count: np.ndarray, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """For each row up to k different numbers below count[row]: (rows, k) and their mask; all of them where there are fewer than k.

    Floyd's algorithm on all rows at once: uniform over subsets, without building any list.
    """
    chosen = np.full((len(count), k), -1)
    for j in range(k):
        top = count - k + j  # the largest number that may be drawn now
        draw = np.floor(rng.random(len(count)) * (top + 1)).astype(np.int64)
        chosen[:, j] = np.where((chosen == draw[:, None]).any(1), top, draw)
    few = count < k
    chosen[few] = np.arange(k)
    return chosen, chosen < count[:, None]


class ClickSampler:
    """Training batches of an epoch, a function of (seed, epoch) alone; so an interrupted epoch continues where it stopped."""

    def __init__(self, impressions: Impressions, *, batch_size: int, negatives: int, history: int, seed: int):
        self.impressions, self.batch_size, self.negatives, self.history, self.seed = impressions, batch_size, negatives, history, seed
        shown = impressions.candidates
        offsets = np.concatenate([[0], np.cumsum(~impressions.clicked)])[shown.offsets]
        self.passed = Ragged(shown.values[~impressions.clicked], offsets)  # shown and not clicked
        self.click = np.flatnonzero(impressions.clicked)
        self.row = shown.rows[self.click]

    def __len__(self) -> int:
        """Batches per epoch; the last one may be smaller."""
        return -(-len(self.click) // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of this epoch from number `start` on; the clicked item stands in column 0."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.click))
        drawn, mask = draw_distinct(self.passed.lengths[self.row], self.negatives, rng)
        for begin in range(start * self.batch_size, len(order), self.batch_size):
            at = order[begin : begin + self.batch_size]
            row = self.row[at]
            place = np.where(mask[at], self.passed.offsets[row][:, None] + drawn[at], 0)
            negatives = np.where(mask[at], self.passed.values[place] if len(self.passed.values) else 0, 0)
            candidates = np.column_stack([self.impressions.candidates.values[self.click[at]], negatives])
            shown = np.column_stack([np.ones(len(at), bool), mask[at]])
            clicked = np.zeros_like(shown)
            clicked[:, 0] = True
            history = self.impressions.history.pad(row, self.history)
            yield Batch(*(torch.from_numpy(x) for x in (history[0].astype(np.int64), history[1], candidates.astype(np.int64), shown, clicked)))
