"""Where do two runs differ most? The impressions with the largest differences, as the users saw them, with the ranks that each run gave."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from nrms import home
from nrms.data.tables import Impressions, Items, Ragged, ragged, read_impressions, read_interactions, read_items
from nrms.evaluation.protocols import Protocol
from nrms.report.experiments import System

EXAMPLES = 3  # each way, of every pair
FIRST = 2  # items that each of the two put first, shown beside the right ones
BEFORE = 5  # items of the history
NOTHING = {"before": [], "ranked": [], "of": 0}  # of what is not there any more


@dataclass(frozen=True)
class Sizes:
    """Of every impression (n,): its candidates and its history, as far as rows.parquet says it."""

    candidates: np.ndarray
    history: np.ndarray


def sizes(entry: System) -> Sizes:
    path = entry.runs[0].folder / "rows.parquet"
    names = [name for name in pq.read_schema(path).names if name in ("history", "candidates")]
    table = pq.read_table(path, columns=["impression", *names]).to_pandas().set_index("impression").reindex(entry.rows.index)
    return Sizes(*(table[name].to_numpy(int) if name in table else np.zeros(len(table), int) for name in ("candidates", "history")))


class Rankings:
    """What the runs of one row of the table put where, impression by impression, read from their rows.parquet; ranks are means over seeds."""

    def __init__(self, entry: System, index: pd.Index):
        self.tables = []
        for run in entry.runs:
            names = pq.read_schema(run.folder / "rows.parquet").names
            lists = [name for name in ("scores", "items", "ranks", "first") if name in names]
            table = pq.read_table(run.folder / "rows.parquet", columns=["impression", *lists])
            own = pd.Index(table["impression"].to_pandas())
            place = np.arange(len(index)) if own.equals(index) else own.get_indexer(index)
            self.tables.append((place, {name: ragged(table[name]) for name in lists}))

    def lists(self, row: int, name: str) -> list[np.ndarray]:
        """A list column of one impression, seed by seed; nothing for runs without it."""
        return [lists[name][place[row]] for place, lists in self.tables if name in lists and place[row] >= 0]

    def slate(self, row: int) -> np.ndarray | None:
        """(C,) ranks of the candidates of an impression, from 1, ties their average."""
        found = [1 + (s > s[:, None]).sum(1) + ((s == s[:, None]).sum(1) - 1) / 2 for s in self.lists(row, "scores")]
        return np.mean(found, axis=0) if found else None

    def catalogue(self, row: int) -> dict[int, float]:
        """{item: rank} of the right items of a question, and of those that the first seed put first."""
        first = {int(item): rank for rank, item in enumerate(next(iter(self.lists(row, "first")), ()), 1)}
        right = next(iter(self.lists(row, "items")), ())
        ranks = self.lists(row, "ranks")
        return first | {int(i): float(r) for i, r in zip(right, np.mean(ranks, axis=0), strict=True)} if ranks else first


@dataclass(frozen=True)
class Shown:
    """What users saw and took, as far as the data set is still there: then examples have titles."""

    dataset: str
    index: pd.Index  # of the impressions of the comparison
    protocol: Protocol

    @cached_property
    def news(self) -> Items | None:
        path = home() / "data" / self.dataset / "news.parquet"
        return read_items(path) if path.exists() else None

    @cached_property
    def slates(self) -> tuple[np.ndarray, Impressions] | None:
        """The dev part, and where in it every impression is."""
        path = home() / "data" / self.dataset / "dev.parquet"
        return (lambda dev: (pd.Index(dev.id).get_indexer(self.index), dev))(read_impressions(path)) if path.exists() else None

    @cached_property
    def log(self) -> tuple[np.ndarray, Ragged] | None:
        """What each user took, and where in it the user of every question is."""
        path = home() / "data" / self.dataset / "interactions.parquet"
        return (lambda log: (pd.Index(log.user).get_indexer(self.index), log.items))(read_interactions(path)) if path.exists() else None

    def count(self, row: int) -> int:
        """How many candidates an impression has; 0 for one that is not there."""
        place, dev = self.slates
        return int(dev.candidates.lengths[place[row]]) if place[row] >= 0 and dev.clicked is not None else 0

    def slate(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Candidates, which of them were clicked, and the history of an impression."""
        place, dev = self.slates
        begin, end = dev.candidates.offsets[place[row]], dev.candidates.offsets[place[row] + 1]
        return dev.candidates.values[begin:end], dev.clicked[begin:end], dev.history[place[row]]

    def before(self, row: int, count: int) -> np.ndarray:
        """The `count` items that the user of a question took before it: the beginning of the log, where the next item is asked for.

        None where sets are: what is left to read when some are drawn at random has no place in it.
        """
        known = self.protocol.name == "catalogue" and self.log is not None and self.log[0][row] >= 0
        return self.log[1][self.log[0][row]][:count] if known else np.zeros(0, int)


def most_apart(a: np.ndarray, b: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The EXAMPLES impressions where a is most above b, most first; among equal differences those with most candidates. Only where it is above."""
    difference = np.nan_to_num(a - b, nan=-1.0) + 1e-9 * candidates
    top = np.argpartition(-difference, min(EXAMPLES, len(difference) - 1))[:EXAMPLES]
    top = top[np.argsort(-difference[top], kind="stable")]
    return top[a[top] > b[top]]


def example(row: int, a: Rankings, b: Rankings, shown: Shown, size: Sizes) -> dict:
    """One impression: `before`, the end of the history; `ranked`, [item, rank of a, rank of b, right or not]; `of`, how many were ranked."""
    if a.lists(row, "ranks"):
        return question(row, a, b, shown, int(size.history[row]))
    ranks = a.slate(row), b.slate(row)
    if shown.slates is None or any(r is None or len(r) != shown.count(row) for r in ranks):
        return NOTHING
    items, right, before = shown.slate(row)
    kept = right.copy()
    for r in ranks:
        kept[np.argsort(r, kind="stable")[:FIRST]] = True
    lines = [[int(items[i]), float(ranks[0][i]), float(ranks[1][i]), int(right[i])] for i in np.flatnonzero(kept)]
    return {"before": before[-BEFORE:].tolist(), "ranked": sorted(lines, key=lambda line: line[1]), "of": len(items)}


def question(row: int, a: Rankings, b: Rankings, shown: Shown, history: int) -> dict:
    """`example` of a question to the whole catalogue; a rank that no file has is nothing."""
    ranks = a.catalogue(row), b.catalogue(row)
    right = {int(i) for i in next(iter(a.lists(row, "items")), ())}
    first = {i for r in ranks for i in sorted(r, key=r.get)[:FIRST]}
    lines = [[i, ranks[0].get(i), ranks[1].get(i), int(i in right)] for i in right | first]
    lines.sort(key=lambda line: (line[1] is None, line[1] or 0, line[2] or 0))
    return {"before": shown.before(row, history)[-BEFORE:].tolist(), "ranked": lines, "of": 0}
