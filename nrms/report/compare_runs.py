"""How do any two runs differ? Every two finished rows, in every slice, and the impressions where they differ most, as the users saw them, with the
ranks that each run gave. Computed here, from files; pages/compare_page.py draws it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from nrms.data.tables import ragged, read_impressions, read_interactions, read_items
from nrms.evaluation.protocols import Protocol
from nrms.evaluation.statistics import FEWEST_SEEDS
from nrms.report.experiments import System, compare_slices
from nrms.runtime.run_record import data_folder

LENGTH = 110  # characters of a title
EXAMPLES = 3  # each way, of every pair
FIRST = 2  # items that each of the two put first, shown beside the right ones
BEFORE = 5  # items of the history


def sizes(system: System) -> pd.DataFrame:
    """How many `candidates` every impression has, and how long its `history` is, as far as rows.parquet says it; else 0."""
    path = system.runs[0].folder / "rows.parquet"
    names = [name for name in pq.read_schema(path).names if name in ("impression", "candidates", "history")]
    table = pq.read_table(path, columns=names).to_pandas().set_index("impression").reindex(system.rows.index)
    return table.reindex(columns=["candidates", "history"], fill_value=0).astype(int)


class Rankings:
    """What the runs of one row of the table put where, impression by impression, read from their rows.parquet; ranks are means over seeds."""

    def __init__(self, system: System, index: pd.Index):
        self.tables = []
        for run in system.runs:
            path = run.folder / "rows.parquet"
            lists = [name for name in pq.read_schema(path).names if name in ("scores", "items", "ranks", "first")]
            table = pq.read_table(path, columns=["impression", *lists])
            impressions = pd.Index(table["impression"].to_pandas())
            positions = np.arange(len(index)) if impressions.equals(index) else impressions.get_indexer(index)
            self.tables.append((positions, {name: ragged(table[name]) for name in lists}))

    def lists(self, row: int, name: str) -> list[np.ndarray]:
        """A list column of one impression, seed by seed; nothing for runs without it."""
        return [lists[name][positions[row]] for positions, lists in self.tables if name in lists and positions[row] >= 0]

    def of_first_seed(self, row: int, name: str) -> list[int]:
        """A list column of one impression as the first seed has it, which for `items` is as all seeds have it; empty for runs without it."""
        seeds = self.lists(row, name)
        return seeds[0].tolist() if seeds else []

    def slate(self, row: int) -> np.ndarray | None:
        """(C,) ranks of the candidates of an impression, from 1, ties their average."""
        ranks = [1 + (s > s[:, None]).sum(1) + ((s == s[:, None]).sum(1) - 1) / 2 for s in self.lists(row, "scores")]
        return np.mean(ranks, axis=0) if ranks else None

    def catalogue(self, row: int) -> dict[int, float]:
        """{item: rank} of the right items of a query, and of those that the first seed put first."""
        first = {item: rank for rank, item in enumerate(self.of_first_seed(row, "first"), 1)}
        ranks = self.lists(row, "ranks")
        if not ranks:
            return first
        return first | dict(zip(self.of_first_seed(row, "items"), np.mean(ranks, axis=0).tolist(), strict=True))


class Examples:
    """What users saw and took, as far as the data set is still there: then examples have titles. index: of the impressions of the comparison."""

    def __init__(self, dataset: str, index: pd.Index, protocol: Protocol):
        def read(table: str, reader: Callable[[Path], Any]) -> Any:
            path = data_folder(dataset) / table
            return reader(path) if path.exists() else None

        self.protocol, self.items = protocol, read("news.parquet", read_items)
        self.dev, self.log = read("dev.parquet", read_impressions), read("interactions.parquet", read_interactions)
        names = self.dev.id if self.dev is not None else self.log.user if self.log is not None else []
        self.positions = pd.Index(names).get_indexer(index)  # in the dev part of every impression, in the log of every query's user; -1: not there

    def slate(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Candidates, which of them were clicked, and the history of an impression; None where it is not there, or nobody knows the clicks."""
        position = self.positions[row]
        if self.dev is None or self.dev.clicked is None or position < 0:
            return None
        begin, end = self.dev.candidates.offsets[position : position + 2]
        return self.dev.candidates.values[begin:end], self.dev.clicked[begin:end], self.dev.history[position]

    def before(self, row: int, count: int) -> np.ndarray:
        """The `count` items that the user of a query took before it: the beginning of the log, where the next item is asked for.

        None where sets are: what is left to read when some are drawn at random has no place in it.
        """
        if self.protocol.name != "catalogue" or self.log is None or self.positions[row] < 0:
            return np.zeros(0, int)
        return self.log.items[self.positions[row]][:count]


def most_apart(a: np.ndarray, b: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The EXAMPLES impressions where a is most above b, most first; among equal differences those with most candidates. Only where it is above."""
    difference = np.nan_to_num(a - b, nan=-1.0) + 1e-9 * candidates
    top = np.argpartition(-difference, min(EXAMPLES, len(difference) - 1))[:EXAMPLES]
    top = top[np.argsort(-difference[top], kind="stable")]
    return top[a[top] > b[top]]


def disagreement(row: int, a: Rankings, b: Rankings, examples: Examples, history: int) -> dict:
    """One impression: `before`, the end of the history; `ranked`, [item, rank of a, rank of b, right or not]; `of`, how many were ranked.

    history: how many items the model read before it.
    """
    if a.lists(row, "ranks"):
        return of_catalogue(row, a, b, examples, history)
    slate, ranks = examples.slate(row), (a.slate(row), b.slate(row))
    if slate is None or any(r is None or len(r) != len(slate[0]) for r in ranks):
        return {"before": [], "ranked": [], "of": 0}  # it is not there any more
    items, clicked, clicks_before = slate
    has_a_line = clicked.copy()
    for r in ranks:
        has_a_line[np.argsort(r, kind="stable")[:FIRST]] = True
    lines = [[int(items[i]), float(ranks[0][i]), float(ranks[1][i]), int(clicked[i])] for i in np.flatnonzero(has_a_line)]
    return {"before": clicks_before[-BEFORE:].tolist(), "ranked": sorted(lines, key=lambda line: line[1]), "of": len(items)}


def of_catalogue(row: int, a: Rankings, b: Rankings, examples: Examples, history: int) -> dict:
    """`disagreement` of a query to the whole catalogue; a rank that no file has is nothing."""
    ranks = a.catalogue(row), b.catalogue(row)
    relevant = set(a.of_first_seed(row, "items"))
    first = {item for by_item in ranks for item in sorted(by_item, key=by_item.get)[:FIRST]}
    lines = [[item, ranks[0].get(item), ranks[1].get(item), int(item in relevant)] for item in relevant | first]
    lines.sort(key=lambda line: (line[1] is None, line[1] or 0, line[2] or 0))
    return {"before": examples.before(row, history)[-BEFORE:].tolist(), "ranked": lines, "of": 0}


def labels(rows: Sequence[System]) -> list[str]:
    """A name for each row; with its seeds where several have the same name."""
    names = [e.exp for e in rows]
    return [e.exp if names.count(e.exp) == 1 else f"{e.exp}, seeds {e.seed_names}" for e in rows]


def rounded(value: float) -> float | int | None:
    """Four significant digits, more than the page shows; nothing for what is not a number."""
    return None if np.isnan(value) else int(value) if float(value).is_integer() else float(f"{value:.4g}")


def short(title: str) -> str:
    return title if len(title) <= LENGTH else title[: LENGTH - 1] + "…"


def facts(rows: Sequence[System]) -> dict:
    """What is known of M rows. pairs: of (0, 1), (0, 2), (1, 2), (0, 3), ... the numbers by slice, examples one way, and the other way."""
    results, index = compare_slices(rows), rows[0].rows.index
    columns, size = np.array([s.main.reindex(index).to_numpy() for s in rows]), sizes(rows[0])
    candidates, history = size["candidates"].to_numpy(), size["history"].tolist()
    examples, rankings = Examples(rows[0].dataset, index, rows[0].protocol), [Rankings(e, index) for e in rows]

    def largest(i: int, j: int, above: int, below: int) -> list[dict]:
        return [
            disagreement(int(r), rankings[i], rankings[j], examples, history[r])
            | {"id": str(index[r]), "a": rounded(columns[i, r]), "b": rounded(columns[j, r])}
            for r in most_apart(columns[above], columns[below], candidates)
        ]

    pairs = []
    for j in range(len(rows)):
        for i in range(j):
            numbers = [[rounded(getattr(of_slice[i, j], key)) for key in ("mean", "low", "high", "p", "n", "seeds")] for of_slice in results.values()]
            pairs.append([numbers, largest(i, j, i, j), largest(i, j, j, i)])
    both_ways = [example for _, *ways in pairs for way in ways for example in way]
    named = {item for example in both_ways for item in (*example["before"], *(line[0] for line in example["ranked"]))}
    return {
        "label": rows[0].protocol.label,
        "unit": rows[0].protocol.unit,
        "units": rows[0].protocol.units,
        "rows": labels(rows),
        "kinds": [e.kind for e in rows],
        "means": [None if np.isnan(column).all() else rounded(float(np.nanmean(column))) for column in columns],
        "slices": list(results),
        "fewest_seeds": FEWEST_SEEDS,
        "pairs": pairs,
        "titles": {} if examples.items is None else {str(i): short(str(examples.items.name(i))) for i in sorted(named) if i < len(examples.items)},
    }


def matrix(known: dict) -> list[tuple[str, list[tuple | None]]]:
    """Every two rows at a glance, best first: by the name of a row its cells (i, j, difference as a text), None in its own column."""
    best = sorted(range(len(known["rows"])), key=lambda i: -(known["means"][i] or 0))

    def cell(i: int, j: int) -> tuple[int, int, str]:
        """The row of the table minus the column; pairs are kept once, for the smaller number minus the larger."""
        mean = known["pairs"][max(i, j) * (max(i, j) - 1) // 2 + min(i, j)][0][0][0]
        return i, j, "" if mean is None else f"{mean if i < j else -mean:+.3f}"

    return [(known["rows"][i], [None if i == j else cell(i, j) for j in best]) for i in best]
