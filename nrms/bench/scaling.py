"""How do clusters and graphs grow with the number of items? Seconds and memory of each, for catalogues of random vectors, one process each.

A process is forked from one that has imported everything and has small memory of its own: memory is a difference, so a warm start changes no number.

kmeans, dpc    interests of MISSRec: two tokens an item, clusters in this ratio to tokens; at 0.5, that of missrec, up to 10,000 items, for there
               clusters grow along, until `max_interests` holds them
item graph     ten nearest by cosine, exact
propagation    LightGCN, two layers, forward and backward; as many users as items, ten interactions each
"""

import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import torch

from nrms.models.users.clustering import CLUSTERS
from nrms.models.users.graphs import Links, item_graph
from nrms.models.users.lightgcn import LightGCN
from nrms.runtime.environment import peak_mb
from nrms.runtime.progress import progress

WIDTH = 64


def interests(how: str, ratio: float, items: int) -> Callable[[], object]:
    tokens = torch.randn(2 * items, WIDTH)
    return lambda: CLUSTERS[how](tokens, math.ceil(ratio * 2 * items), torch.Generator().manual_seed(0))


def nearest_items(items: int) -> Callable[[], object]:
    content = {"text": torch.randn(items + 1, WIDTH)}
    return lambda: item_graph(content, {"text": 1.0}, 10)


def propagation(items: int) -> Callable[[], object]:
    owner, item = torch.arange(items).repeat_interleave(10), torch.randint(1, items + 1, (10 * items,))
    users = LightGCN(dim=WIDTH, layers=2, links=Links(owner, item, items, items + 1, {}), modalities=["ids"], width=WIDTH)
    vectors = torch.randn(items + 1, WIDTH, requires_grad=True)
    return lambda: users.views(vectors)["final"].sum().backward()


WORK: dict[str, Callable[[int], Callable[[], object]]] = {
    "kmeans, ratio 0.02": partial(interests, "kmeans", 0.02),
    "kmeans, ratio 0.5": partial(interests, "kmeans", 0.5),
    "dpc, ratio 0.02": partial(interests, "dpc", 0.02),
    "item graph": nearest_items,
    "propagation": propagation,
}
MAX_ITEMS = {"kmeans, ratio 0.5": 10_000}  # of what would take too long with more


def measure(what: str, items: int) -> dict:
    """Seconds, and MB beyond what its inputs take: in a process that does nothing else, for memory counts from its highest point on."""
    torch.manual_seed(0)
    work = WORK[what](items)
    before, began = peak_mb(), time.perf_counter()
    work()
    return {"what": what, "items": items, "seconds": time.perf_counter() - began, "more_mb": peak_mb() - before}


def measure_alone(what: str, items: int) -> dict:
    """`measure` in a copy of this process, which has imported everything and holds nothing else."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as process:  # which says so when the process dies
        return process.submit(measure, what, items).result()


def measure_growth(sizes: Sequence[int]) -> list[dict]:
    """One line for each kind of work and number of items, up to MAX_ITEMS: what, items, seconds, more_mb."""
    planned = [(what, items) for what in WORK for items in sizes if items <= MAX_ITEMS.get(what, items)]
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as warm:
        return [warm.submit(measure_alone, *line).result() for line in progress(planned, "clusters and graphs of growing size")]
