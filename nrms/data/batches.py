"""What does the model see at one step? A Batch: histories and candidates as item numbers, with masks.

Training rows are clicks, every click of every impression once per epoch, each beside K news that the same impression showed and the user did not
click, drawn anew each epoch. Where an impression has fewer than K of those, the places are masked out, never filled with another item.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch

from nrms.data.tables import Impressions, Ragged


@dataclass(frozen=True)
class Batch:
    """B rows of R readers. Masked places hold item 0 and must not matter. What is None has no part."""

    history: torch.Tensor  # (R, L) int64, oldest first: each history once, whatever the number of its rows
    history_mask: torch.Tensor  # (R, L) bool
    reader: torch.Tensor  # (B,) int64, the history of each row
    candidates: torch.Tensor  # (B, C) int64, or (C,) where all rows have the same
    candidate_mask: torch.Tensor  # (B, C) bool
    clicked: torch.Tensor  # (B, C) bool
    place: torch.Tensor | None = None  # (B,) int64, where in the history the row stands: how many clicks came before it; None: behind all of it
    hidden: torch.Tensor | None = None  # (R, L) bool, places that the user encoder must not see
    prior: torch.Tensor | None = None  # (C,) or (B, C), added to the scores in the loss alone

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Batch(**{name: None if value is None else change(value) for name, value in values.items()})

    def to(self, device: torch.device | str) -> "Batch":
        return self.map(lambda x: x.to(device, non_blocking=True))

    def __len__(self) -> int:
        return len(self.reader)

    def of_readers(self, begin: int, end: int) -> tuple["Batch", torch.Tensor]:
        """The rows of the histories `begin` to `end` as a batch of their own, and which rows these are."""
        rows = ((self.reader >= begin) & (self.reader < end)).nonzero()[:, 0]
        values: dict[str, torch.Tensor | None] = {}
        for name in ("history", "history_mask", "hidden"):
            values[name] = None if getattr(self, name) is None else getattr(self, name)[begin:end]
        for name in ("candidate_mask", "clicked", "place"):
            values[name] = None if getattr(self, name) is None else getattr(self, name)[rows]
        for name in ("candidates", "prior"):  # one line for all rows, or a line for each
            shared = getattr(self, name) is None or getattr(self, name).dim() == 1
            values[name] = getattr(self, name) if shared else getattr(self, name)[rows]
        return Batch(reader=self.reader[rows] - begin, **values), rows

    @property
    def target(self) -> torch.Tensor:
        """(B,) the clicked item of each row."""
        return self.candidates.expand(self.clicked.shape)[self.clicked]


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


def ahead(batches: Iterable[Batch], pin: bool, size: int = 4) -> Iterator[Batch]:
    """The same batches, made by a thread while the last one is worked on; pin: in memory from which a GPU copies without waiting."""
    ready: queue.Queue = queue.Queue(size)
    stop = threading.Event()

    def work() -> None:
        try:
            for batch in batches:
                if stop.is_set():
                    return
                ready.put((batch.map(torch.Tensor.pin_memory) if pin else batch, None))
            ready.put((None, None))
        except BaseException as error:  # handed to whoever waits for the next batch
            ready.put((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) != (None, None):
            batch, error = item
            if error is not None:
                raise error
            yield batch
    finally:
        stop.set()
        while thread.is_alive():  # it may wait for a place in the queue
            try:
                ready.get(timeout=0.05)
            except queue.Empty:
                thread.join(0.05)
