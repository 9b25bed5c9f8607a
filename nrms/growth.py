"""How do clusters and graphs grow with the number of items? Seconds and memory of each, for catalogues of random vectors, one process each.

kmeans, dpc    interests of MISSRec: two tokens an item, one cluster for 50 tokens
item graph     ten nearest by cosine, exact
propagation    LightGCN, two layers, forward and backward; as many users as items, ten interactions each
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import torch

from nrms.progress import progress
from nrms.runtime import peak_mb
from nrms.users.clusters import CLUSTERS
from nrms.users.graph import LightGCN, Links, item_graph

WIDTH = 64


def interests(how: str, items: int) -> Callable[[], object]:
    tokens = torch.randn(2 * items, WIDTH)
    return lambda: CLUSTERS[how](tokens, max(items // 25, 1), torch.Generator().manual_seed(0))


def nearest_items(items: int) -> Callable[[], object]:
    content = {"text": torch.randn(items + 1, WIDTH)}
    return lambda: item_graph(content, {"text": 1.0}, 10)


def propagation(items: int) -> Callable[[], object]:
    owner, item = torch.arange(items).repeat_interleave(10), torch.randint(1, items + 1, (10 * items,))
    users = LightGCN(dim=WIDTH, layers=2, links=Links(owner, item, items, items + 1, {}), modalities=["ids"], width=WIDTH)
    vectors = torch.randn(items + 1, WIDTH, requires_grad=True)
    return lambda: users.views(vectors)["final"].sum().backward()


WORK: dict[str, Callable[[int], Callable[[], object]]] = {
    "kmeans": lambda items: interests("kmeans", items),
    "dpc": lambda items: interests("dpc", items),
    "item graph": nearest_items,
    "propagation": propagation,
}


def alone(what: str, items: int) -> dict:
    """In a process of its own, so that its peak memory is its own: seconds, and MB beyond what its inputs take."""
    torch.manual_seed(0)
    work = WORK[what](items)
    before, began = peak_mb(), time.perf_counter()
    work()
    return {"what": what, "items": items, "seconds": time.perf_counter() - began, "more_mb": peak_mb() - before}


def measure_growth(sizes: Sequence[int]) -> list[dict]:
    """One line for each kind of work and number of items: what, items, seconds, more_mb."""
    lines, spawn = [], multiprocessing.get_context("spawn")
    for what, items in progress([(what, items) for what in WORK for items in sizes], "clusters and graphs of growing size"):
        with ProcessPoolExecutor(1, spawn) as process:  # which says so when the process dies
            lines.append(process.submit(alone, what, items).result())
    return lines
