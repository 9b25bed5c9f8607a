"""What does the model see at one step? A Batch: histories and candidates as item numbers, with masks.

Training rows are clicks, every click of every impression once per epoch, each beside K news that the same impression showed and the user did not
click, drawn anew each epoch. Where an impression has fewer than K of those, the slots are masked out, never filled with another item.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Batch:
    """B rows on R histories. Masked slots hold item 0 and must not matter. What is None has no part."""

    history: torch.Tensor  # (R, L) int64, oldest first: each history once, whatever the number of its rows
    history_mask: torch.Tensor  # (R, L) bool
    history_id: torch.Tensor  # (B,) int64, the history of each row
    candidates: torch.Tensor  # (B, C) int64, or (C,) where all rows have the same
    candidate_mask: torch.Tensor  # (B, C) bool
    clicked: torch.Tensor  # (B, C) bool
    position: torch.Tensor | None = None  # (B,) int64, where in its history a row stands: how many clicks came before it; None: behind all of it
    hidden: torch.Tensor | None = None  # (R, L) bool, positions that the user encoder must not see
    prior: torch.Tensor | None = None  # (C,) or (B, C), added to the scores in the loss alone

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        return Batch(**{name: None if value is None else change(value) for name, value in vars(self).items()})

    def to(self, device: torch.device | str) -> "Batch":
        return self.map(lambda x: x.to(device, non_blocking=True))

    def __len__(self) -> int:
        return len(self.history_id)

    def of_histories(self, begin: int, end: int) -> tuple["Batch", torch.Tensor]:
        """The rows of the histories `begin` to `end` as a batch of their own, and which rows these are."""
        rows = ((self.history_id >= begin) & (self.history_id < end)).nonzero()[:, 0]
        values = vars(self) | {"history_id": self.history_id - begin}
        for name, value in values.items():
            if name in ("history", "history_mask", "hidden"):
                values[name] = None if value is None else value[begin:end]
            elif value is not None and not (name in ("candidates", "prior") and value.dim() == 1):  # which is one line for all rows
                values[name] = value[rows]
        return Batch(**values), rows

    @property
    def target(self) -> torch.Tensor:
        """(B,) the clicked item of each row."""
        return self.candidates.expand(self.clicked.shape)[self.clicked]


def ahead(batches: Iterable[Batch], pin: bool, size: int = 4) -> Iterator[Batch]:
    """The same batches, made by a thread while the last one is worked on; pin: in memory from which a GPU copies without waiting."""
    source = iter(batches)

    def make() -> Batch | None:
        """The next batch; None behind the last one."""
        batch = next(source, None)
        return batch.map(torch.Tensor.pin_memory) if pin and batch is not None else batch

    thread = ThreadPoolExecutor(1)
    try:
        coming = deque(thread.submit(make) for _ in range(size))
        while (batch := coming.popleft().result()) is not None:  # an error in the thread is raised here
            coming.append(thread.submit(make))
            yield batch
    finally:
        thread.shutdown(cancel_futures=True)
