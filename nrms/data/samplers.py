"""Which rows make a training batch? Clicks of impressions, windows of a log, or pairs of user and item; always the same Batch.

Sequences of a log are cut into windows; every position of a window is a training row, whose history is what stands before it in the window. So that a
row has much of its past in view, windows overlap by half and begin elsewhere in every epoch; every interaction of a sequence is a row once per epoch.

    candidates   C     shape    masked out
    drawn        1+K   (B, C)   nothing: K items that the user has not in the training part, each drawn alike
    batch        U     (C,)     other items that the user has in the training part; other positions of the row's own item
    all          N     (C,)     other items that the user has in the training part
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from nrms.data.batches import Batch
from nrms.data.tables import Impressions, Interactions


def draw_distinct(count: np.ndarray, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """For each row up to k different numbers below count[row]: (rows, k) and their mask; all of them where there are fewer than k.

    Floyd's algorithm on all rows at once: uniform over subsets, without building any list.
    """
    numbers = np.full((len(count), k), -1)
    for j in range(k):
        top = count - k + j  # the largest number that may be drawn now
        draw = np.floor(rng.random(len(count)) * (top + 1)).astype(np.int64)
        numbers[:, j] = np.where((numbers == draw[:, None]).any(1), top, draw)
    numbers[count < k] = np.arange(k)
    return numbers, numbers < count[:, None]


def beside_drawn(clicked: np.ndarray, drawn: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Candidates of which column 0 is what was clicked (B,), the others what was drawn (B, K), with its mask; as in Batch."""
    first = np.ones(len(clicked), bool)
    masks = {"candidate_mask": np.column_stack([first, mask]), "clicked": np.column_stack([first, np.zeros_like(mask)])}
    return {"candidates": np.column_stack([clicked, drawn]), **masks}


def batch_of(**columns: np.ndarray | None) -> Batch:
    return Batch(**{name: None if column is None else torch.from_numpy(np.ascontiguousarray(column)) for name, column in columns.items()})


class ClickSampler:
    """Training batches of an epoch, a function of (seed, epoch) alone; so an interrupted epoch continues where it stopped.

    by_reader: all clicks on a history stand together, and histories are shuffled instead of clicks. A batch then has fewer histories and fewer
    different news, so it is cheaper; and its rows are less independent.
    """

    def __init__(self, impressions: Impressions, *, batch_size: int, negatives: int, history: int, seed: int, by_reader: bool = False):
        self.impressions, self.batch_size, self.negatives, self.history, self.seed = impressions, batch_size, negatives, history, seed
        self.by_reader = by_reader
        self.not_clicked = impressions.candidates.where(~impressions.clicked)
        self.clicks = np.flatnonzero(impressions.clicked)  # ragged indices
        self.rows = impressions.candidates.rows[self.clicks]

    def __len__(self) -> int:
        """Batches per epoch; the last one may be smaller."""
        return -(-len(self.clicks) // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of this epoch from number `start` on; the clicked item stands in column 0."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.clicks))
        if self.by_reader:
            history_id = self.impressions.history_id[self.rows]
            order = order[np.argsort(rng.permutation(history_id.max(initial=0) + 1)[history_id[order]], kind="stable")]
        drawn, mask = draw_distinct(self.not_clicked.lengths[self.rows], self.negatives, rng)
        for begin in range(start * self.batch_size, len(order), self.batch_size):
            chosen = order[begin : begin + self.batch_size]
            rows, drawn_mask = self.rows[chosen], mask[chosen]
            negatives = np.zeros(drawn_mask.shape, np.int64)
            negatives[drawn_mask] = self.not_clicked.values[(self.not_clicked.offsets[rows][:, None] + drawn[chosen])[drawn_mask]]
            candidates = beside_drawn(self.impressions.candidates.values[self.clicks[chosen]], negatives, drawn_mask)
            _, first, history_id = np.unique(self.impressions.history_id[rows], return_index=True, return_inverse=True)
            history, history_mask = self.impressions.history.pad(rows[first], self.history)
            yield batch_of(history=history.astype(np.int64), history_mask=history_mask, history_id=history_id, **candidates)


MAX_DRAWS = 51  # draws of a negative before it is masked out: for a user who has nearly everything


@dataclass(kw_only=True)
class SequenceSampler:
    """Training batches of an epoch, a function of (seed, epoch) alone.

    size: N + 1. batch_size: windows per batch. history: L, positions of a window. per_position: the user encoder knows something at every position;
    else each row is a window of its own. needs_history: the first item of a user, which has nothing before it, is then no row. hidden: share of
    positions to hide from an encoder that sees both sides; 0 for one that sees the past alone.
    """

    log: Interactions = field(kw_only=False)
    size: int
    batch_size: int
    history: int
    seed: int
    candidates: str
    negatives: int = 1
    per_position: bool = True
    needs_history: bool = False
    hidden: float = 0.0
    mask_history: bool = True
    mask_same: bool = True
    popularity: bool = False

    def __post_init__(self) -> None:
        count = np.bincount(self.log.items.values, minlength=self.size)
        self.known = np.flatnonzero(count)  # items of the training part: what a softmax runs over; new ones come in at the test
        self.log_share = np.log(np.maximum(count, 1) / count.sum()).astype(np.float32) if self.popularity else None
        self.pairs = np.unique(self.log.items.rows * self.size + self.log.items.values)  # who has what: user and item in one number, sorted
        self.steps = -(-len(self.windows(np.random.default_rng(0))[0]) // self.batch_size)

    def __len__(self) -> int:
        """Batches per epoch, the same in each."""
        return self.steps

    def windows(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(user, begin, first row, end) of every window, positions in the user's sequence: rows are `first` to `end`, inputs `begin` to `end`."""
        length = self.log.items.lengths
        stride = np.ones_like(length)
        if self.per_position:  # whoever fits into one window has one; of others half a window is rows, and all of it inputs
            stride = np.where(length <= self.history + 1, np.maximum(length, 1), max(self.history // 2, 1))
        phase = np.where(length > stride, rng.integers(stride), 0)
        count = -(-(length + phase) // stride)
        user = np.repeat(np.arange(len(length)), count)
        first = (np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)) * stride[user] - phase[user]
        end = np.minimum(first + stride[user], length[user])
        first = np.maximum(first, 0)
        windows = user, np.maximum(end - 1 - self.history, 0), first, end
        return tuple(column[first > 0] for column in windows) if self.needs_history and not self.per_position else windows

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of this epoch from number `start` on."""
        rng = np.random.default_rng([self.seed, epoch])
        windows = self.windows(rng)
        order = rng.permutation(len(windows[0]))
        for i, part in list(enumerate(np.array_split(order, self.steps)))[start:]:
            draws = np.random.default_rng([self.seed, epoch, i])  # of its own, so that an epoch can be entered in the middle
            yield self.batch(*(column[part] for column in windows), draws)

    def batch(self, user: np.ndarray, begin: np.ndarray, first: np.ndarray, end: np.ndarray, rng: np.random.Generator) -> Batch:
        """One batch of these windows."""
        span, ragged_index = end - begin, self.log.items.offsets[user] + begin
        column = np.arange(max(int(span.max()), 2))
        inside, last = column < span[:, None], column == (span - 1)[:, None]
        window = np.where(inside, self.log.items.values[np.where(inside, ragged_index[:, None] + column, 0)], 0).astype(np.int64)  # (R, L + 1)
        before, hidden = inside & ~last, None
        rows = inside & (column >= (first - begin)[:, None])
        if self.hidden:  # the last position of a window stands behind its history, any other is hidden with this chance
            hidden = before & (rng.random(inside.shape) < self.hidden)
            rows = hidden | last
        elif not self.per_position:
            rows = last
        history_id, position = np.nonzero(rows)
        return batch_of(
            history=np.where(before, window, 0)[:, :-1],
            history_mask=before[:, :-1],
            history_id=history_id,
            position=position,
            hidden=None if hidden is None else hidden[:, :-1],
            **self.candidates_of(user, history_id, window[history_id, position], rng),
        )

    def candidates_of(self, user: np.ndarray, history_id: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray | None]:
        """The candidates of rows with these targets, their mask, which is the target, and what is added to scores in the loss; as in Batch."""
        if self.candidates == "drawn":
            return beside_drawn(target, *self.draw(user[history_id], rng))
        candidates = np.unique(target) if self.candidates == "batch" else self.known
        slot = np.searchsorted(candidates, target)
        clicked = np.zeros((len(target), len(candidates)), bool)
        clicked[np.arange(len(target)), slot] = True
        mask = np.ones_like(clicked)
        if self.mask_history:
            items = self.log.items.take(user)
            slots = np.minimum(np.searchsorted(candidates, items.values), len(candidates) - 1)
            is_candidate = candidates[slots] == items.values
            of_user = np.zeros((len(user), len(candidates)), bool)
            of_user[items.rows[is_candidate], slots[is_candidate]] = True
            mask = ~of_user[history_id] | clicked
        prior = None if self.log_share is None else -self.log_share[candidates]
        if self.candidates == "batch":  # each row of the batch is a negative: an item counts as often as it stands there
            log_count = np.log(np.bincount(slot, minlength=len(candidates))).astype(np.float32)
            prior = log_count if prior is None else log_count + prior
            if self.mask_same:  # but once for its own rows
                prior = prior - np.where(clicked, log_count, 0)
        return {"candidates": candidates, "candidate_mask": mask, "clicked": clicked, "prior": prior}

    def draw(self, user: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """K known items for each of these users that they do not have, (B, K), and whether one was found."""
        drawn = np.zeros((len(user), self.negatives), np.int64)
        bad = np.ones(drawn.shape, bool)
        for _ in range(MAX_DRAWS):
            drawn[bad] = self.known[rng.integers(len(self.known), size=int(bad.sum()))]
            bad = self.has(user[:, None], drawn)
            if not bad.any():
                break
        return np.where(bad, 0, drawn), ~bad

    def has(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """True where the user has the item in the training part."""
        pair = user * self.size + item
        return self.pairs[np.minimum(np.searchsorted(self.pairs, pair), len(self.pairs) - 1)] == pair


@dataclass(kw_only=True)
class PairSampler(SequenceSampler):
    """Training batches for users who are nodes beside the items: a row is an interaction, its history one slot, node N + 1 + the user's row.

    batch_size: interactions per batch.
    """

    per_position: bool = False

    def batch(self, user: np.ndarray, begin: np.ndarray, first: np.ndarray, end: np.ndarray, rng: np.random.Generator) -> Batch:
        target = self.log.items.values[self.log.items.offsets[user] + first].astype(np.int64)
        history, history_id = self.size + user[:, None], np.arange(len(user))
        candidates = self.candidates_of(user, history_id, target, rng)
        return batch_of(history=history, history_mask=np.ones(history.shape, bool), history_id=history_id, **candidates)
