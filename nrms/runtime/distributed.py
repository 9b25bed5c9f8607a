"""How do several processes train one model? As one would: the same batches, the same losses, the same weights.

Each reads its share of a batch's histories and encodes the items of those. Scores and views are then brought together, so that every process has the
loss of the whole batch, whatever the loss is; gradients go back through a process's own rows, and are added up. Started by torchrun, on one machine
or several; a process that stands alone does all of it itself, at no cost.
"""

import contextlib
import datetime
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed

from nrms import NrmsError

T = TypeVar("T")
COLLECTIVE_TIMEOUT = datetime.timedelta(hours=12)  # one may prepare data, or encode a catalogue, while the others wait; a dead one is noticed at once


def join() -> None:
    """Takes part in what torchrun has started; nothing where this process was started alone."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=COLLECTIVE_TIMEOUT)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Makes a sentence of what happens to a process when another one of its group is gone."""
    try:
        yield
    except RuntimeError as error:
        if process_count() == 1 or not any(word in str(error) for word in ("gloo", "NCCL", "Connection")):
            raise
        raise NrmsError(
            "Another process of this run has ended, so this one had to stop, too; what it said stands above. The same command goes on from what was "
            "saved last."
        ) from error


def leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def process_count() -> int:
    """P, how many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def process_index() -> int:
    """The number of this process, 0 to P - 1. Process 0 writes all files."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def share(n: int, of: int | None = None) -> range:
    """Which of n things are those of process `of`, or of this one: as evenly as can be, in order."""
    bounds = np.linspace(0, n, process_count() + 1).round().astype(int)
    index = process_index() if of is None else of
    return range(bounds[index], bounds[index + 1])


def barrier() -> None:
    """Until all are here."""
    if process_count() > 1:
        distributed.barrier()


@contextlib.contextmanager
def main_process_first() -> Iterator[None]:
    """Process 0 goes through the block before the others do, who then find what it made."""
    if process_index():
        barrier()
    yield
    if not process_index():
        barrier()


def broadcast_object(value: T) -> T:
    """What process 0 has."""
    if process_count() == 1:
        return value
    objects = [value]
    distributed.broadcast_object_list(objects)
    return objects[0]


def gather_objects(value: T) -> list[T]:
    """What each process has, in their order."""
    if process_count() == 1:
        return [value]
    objects: list[Any] = [None] * process_count()
    distributed.all_gather_object(objects, value)
    return objects


def any_of(flag: bool) -> bool:
    """Whether any process says so."""
    if process_count() == 1:
        return flag
    largest = torch.tensor(int(flag))
    distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return bool(largest)


def gather(x: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """The rows of all processes, (sum of sizes, ...), given this one's (sizes[index], ...): with gradients for its own rows alone."""
    if process_count() == 1:
        return x
    padded = x.new_zeros(max(sizes), *x.shape[1:])
    padded[: len(x)] = x.detach()
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded)
    parts = [part[:size] for part, size in zip(parts, sizes, strict=True)]
    parts[process_index()] = x
    return torch.cat(parts)


def gather_columns(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by name, put together from all processes' shares, in order."""
    parts = gather_objects(dict(columns))
    return {name: np.concatenate([part[name] for part in parts]) for name in columns}


def all_reduce_sum(x: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, in place."""
    if process_count() > 1:
        distributed.all_reduce(x)
    return x


def all_reduce_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replaces every gradient by the sum over all processes; one that no process has stays absent."""
    if process_count() == 1:
        return
    parameters = list(parameters)
    gradients = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
    distributed.all_reduce(gradients)
    for parameter, count in zip(parameters, gradients.tolist(), strict=True):
        if count and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if count:
            distributed.all_reduce(parameter.grad)


def by_shares(n: int, make: Callable[[np.ndarray], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What `make` says of rows 0 to n - 1, each process having made its share of them; columns are joined in order, no row is there twice."""
    if process_count() == 1 or n < process_count():
        return make(np.arange(n))
    return gather_columns(make(np.asarray(share(n))))
