"""What does the model see at one step, when it is to find the next item of a log? The same Batch as of impressions, with other candidates.

Sequences are cut into windows; every place of a window is a training row, whose history is what stands before it in the window. So that a row has
much of its past in view, windows overlap by half and begin elsewhere in every epoch; every interaction of a sequence is a row once per epoch.

    candidates   C     shape    masked out
    drawn        1+K   (B, C)   nothing: K items that the user has not in the training part, each drawn alike
    batch        U     (C,)     other items that the user has in the training part; other places of the row's own item
    all          N     (C,)     other items that the user has in the training part
"""

from collections.abc import Iterator

import numpy as np
import torch

from nrms.data.batches import Batch
from nrms.data.tables import Impressions, Interactions, Ragged


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
    """Training batches of an epoch, a function of (seed, epoch) alone; so an interrupted epoch continues where it stopped.

    by_reader: all clicks of a reader stand together, and readers change places instead of clicks. A batch then has fewer histories and fewer
    different news, so it is cheaper; and its rows are less independent.
    """

    def __init__(self, impressions: Impressions, *, batch_size: int, negatives: int, history: int, seed: int, by_reader: bool = False):
        self.impressions, self.batch_size, self.negatives, self.history, self.seed = impressions, batch_size, negatives, history, seed
        self.by_reader = by_reader
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
        if self.by_reader:
            reader = self.impressions.reader[self.row]
            order = order[np.argsort(rng.permutation(reader.max(initial=0) + 1)[reader[order]], kind="stable")]
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
            _, first, reader = np.unique(self.impressions.reader[row], return_index=True, return_inverse=True)
            history, read = self.impressions.history.pad(row[first], self.history)
            columns = (history.astype(np.int64), read, reader, candidates.astype(np.int64), shown, clicked)
            yield Batch(*map(torch.from_numpy, columns))


TRIES = 50  # draws of a negative before it is masked out: for a user who has nearly everything


class SequenceSampler:
    """Training batches of an epoch, a function of (seed, epoch) alone.

    batch_size: windows per batch. history: L, places of a window. by_place: the user encoder knows something at every place; else each row is a
    window of its own. needs_history: the first item of a user, which has nothing before it, is then no row. hidden: share of places to hide from an
    encoder that sees both sides; 0 for one that sees the past alone.
    """

    def __init__(
        self,
        log: Interactions,
        *,
        size: int,
        batch_size: int,
        history: int,
        seed: int,
        candidates: str,
        negatives: int = 1,
        by_place: bool = True,
        needs_history: bool = False,
        hidden: float = 0.0,
        mask_history: bool = True,
        mask_same: bool = True,
        popularity: bool = False,
    ):
        self.log, self.batch_size, self.history, self.seed, self.hidden = log, batch_size, history, seed, hidden
        self.needs_history = needs_history and not by_place
        self.candidates, self.negatives, self.by_place, self.mask_history, self.mask_same = candidates, negatives, by_place, mask_history, mask_same
        count = np.bincount(log.items.values, minlength=size)
        self.known = np.flatnonzero(count)  # items of the training part: what a softmax runs over; new ones come in at the test
        self.size = size
        self.log_share = np.log(np.maximum(count, 1) / count.sum()).astype(np.float32) if popularity else None
        self.owned = np.unique(log.items.rows * size + log.items.values)  # who has what, sorted
        self.steps = -(-len(self.windows(np.random.default_rng(0))[0]) // batch_size)

    def __len__(self) -> int:
        """Batches per epoch, the same in each."""
        return self.steps

    def windows(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(user, begin, first row, end) of every window, positions in the user's sequence: rows are `first` to `end`, inputs `begin` to `end`."""
        length = self.log.items.lengths
        if self.by_place:  # whoever fits into one window has one; of others half a window is rows, and all of it inputs
            stride = np.where(length <= self.history + 1, np.maximum(length, 1), max(self.history // 2, 1))
        else:
            stride = np.ones(len(length), int)
        phase = np.where(length > stride, rng.integers(stride), 0)
        count = -(-(length + phase) // stride)
        user = np.repeat(np.arange(len(length)), count)
        first = (np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)) * stride[user] - phase[user]
        end = np.minimum(first + stride[user], length[user])
        first = np.maximum(first, 0)
        windows = user, np.maximum(end - 1 - self.history, 0), first, end
        return tuple(column[first > 0] for column in windows) if self.needs_history else windows

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of this epoch from number `start` on."""
        rng = np.random.default_rng([self.seed, epoch])
        windows = self.windows(rng)
        order = rng.permutation(len(windows[0]))
        for i, part in enumerate(np.array_split(order, self.steps)):
            draws = np.random.default_rng([self.seed, epoch, i])  # of its own, so that an epoch can be entered in the middle
            if i >= start:
                yield self.batch(*(column[part] for column in windows), draws)

    def batch(self, user: np.ndarray, begin: np.ndarray, first: np.ndarray, end: np.ndarray, rng: np.random.Generator) -> Batch:
        """One batch of these windows."""
        span, at = end - begin, self.log.items.offsets[user] + begin
        column = np.arange(max(int(span.max()), 2))
        inside, last = column < span[:, None], column == (span - 1)[:, None]
        window = np.where(inside, self.log.items.values[np.where(inside, at[:, None] + column, 0)], 0).astype(np.int64)  # (R, L + 1)
        before, hidden = inside & ~last, None
        rows = inside & (column >= (first - begin)[:, None])
        if self.hidden:  # the last place of a window stands behind its history, any other is hidden with this chance
            hidden = before & (rng.random(inside.shape) < self.hidden)
            rows = hidden | last
        elif not self.by_place:
            rows = last
        reader, place = np.nonzero(rows)
        target = window[reader, place]
        shown, mask, clicked, prior = self.choose(user, reader, target, rng)
        values = {"history": np.where(before, window, 0)[:, :-1], "history_mask": before[:, :-1], "reader": reader, "place": place}
        values |= {
            "candidates": shown,
            "candidate_mask": mask,
            "clicked": clicked,
            "prior": prior,
            "hidden": hidden if hidden is None else hidden[:, :-1],
        }
        return Batch(**{k: v if v is None else torch.from_numpy(np.ascontiguousarray(v)) for k, v in values.items()})

    def choose(
        self, user: np.ndarray, reader: np.ndarray, target: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """Candidates, their mask, which of them is the row's own item, and what is added to their scores in the loss; shapes as of Batch."""
        if self.candidates == "drawn":
            drawn, found = self.draw(user[reader], rng)
            shown = np.column_stack([target, drawn])
            mask = np.column_stack([np.ones(len(target), bool), found])
            clicked = np.zeros_like(mask)
            clicked[:, 0] = True
            return shown, mask, clicked, None
        shown = np.unique(target) if self.candidates == "batch" else self.known
        at = np.searchsorted(shown, target)
        clicked = np.zeros((len(target), len(shown)), bool)
        clicked[np.arange(len(target)), at] = True
        mask = np.ones_like(clicked)
        if self.mask_history:
            whole = self.log.items.take(user)
            place = np.minimum(np.searchsorted(shown, whole.values), len(shown) - 1)
            there = shown[place] == whole.values
            own = np.zeros((len(user), len(shown)), bool)
            own[whole.rows[there], place[there]] = True
            mask = ~own[reader] | clicked
        prior = None
        if self.candidates == "batch":  # each place of the batch is a negative: an item counts as often as it stands there
            count = np.bincount(at, minlength=len(shown))
            prior = np.log(count).astype(np.float32)
            if self.log_share is not None:
                prior = prior - self.log_share[shown]
            if self.mask_same:  # but once for its own rows
                prior = prior - np.where(clicked, np.log(count).astype(np.float32), 0)
        elif self.log_share is not None:
            prior = -self.log_share[shown]
        return shown, mask, clicked, prior

    def draw(self, user: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """K known items for each of these users that they do not have, (B, K), and whether one was found."""
        drawn = self.known[rng.integers(len(self.known), size=(len(user), self.negatives))]
        for _ in range(TRIES):
            bad = self.has(user[:, None], drawn)
            if not bad.any():
                break
            drawn[bad] = self.known[rng.integers(len(self.known), size=int(bad.sum()))]
        bad = self.has(user[:, None], drawn)
        return np.where(bad, 0, drawn), ~bad

    def has(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """True where the user has the item in the training part."""
        key = user * self.size + item
        return self.owned[np.minimum(np.searchsorted(self.owned, key), len(self.owned) - 1)] == key


class PairSampler(SequenceSampler):
    """Training batches for users who are nodes beside the items: a row is an interaction, its history one place, node N + 1 + the user's row.

    batch_size: interactions per batch.
    """

    def __init__(self, log: Interactions, **options):
        super().__init__(log, by_place=False, **options)

    def batch(self, user: np.ndarray, begin: np.ndarray, first: np.ndarray, end: np.ndarray, rng: np.random.Generator) -> Batch:
        target = self.log.items.values[self.log.items.offsets[user] + first].astype(np.int64)
        reader = np.arange(len(user))
        columns = (self.size + user[:, None], np.ones((len(user), 1), bool), reader, *self.choose(user, reader, target, rng))
        history, mask, reader, shown, allowed, clicked, prior = (c if c is None else torch.from_numpy(np.ascontiguousarray(c)) for c in columns)
        return Batch(history, mask, reader, shown, allowed, clicked, prior=prior)
