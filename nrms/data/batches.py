"""What does the model see at one step? A Batch: histories and candidates as item numbers, with masks.

Training rows are clicks, every click of every impression once per epoch, each beside K news that the same impression showed and the user did not
click, drawn anew each epoch. Where an impression has fewer than K of those, the places are masked out, never filled with another item.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields

import torch


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
