"""What did a ranker say of the test queries? Scores of slates, or ranks in a catalogue: from them come metrics, columns of rows.parquet and lists.

Both have the same methods, so that nobody who writes, slices or validates asks which of them there is.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from nrms.data.tables import Impressions
from nrms.evaluation.metrics import catalogue_metrics, rank_metrics, set_metrics
from nrms.evaluation.protocols import PROTOCOLS, Protocol

SLATE = 5  # items of a list that is taken from a slate

Columns = dict[str, np.ndarray | pa.Array]


@dataclass(frozen=True)
class SlateScores:
    """The scores of all candidates of impressions, flat like queries.candidates.values."""

    queries: Impressions
    scores: np.ndarray
    protocol: Protocol = PROTOCOLS["impressions"]

    def metrics(self, only: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The metrics of the protocol, (n,) each. only: flags of the candidates that are ranked, among themselves; NaN where none is."""
        clicked, candidates = self.queries.clicked, self.queries.candidates
        if only is None:
            return rank_metrics(self.scores, clicked, candidates.offsets)
        return rank_metrics(self.scores[only], clicked[only], candidates.where(only).offsets)

    def is_flat(self) -> bool:
        """Whether all candidates of every impression have the same score."""
        begins = self.queries.candidates.offsets[:-1]
        return bool((np.maximum.reduceat(self.scores, begins) == np.minimum.reduceat(self.scores, begins)).all())

    def columns(self) -> tuple[Columns, Columns]:
        """Columns of rows.parquet that stand before the metrics, and those behind: sizes and scores."""
        candidates = self.queries.candidates
        clicks = np.bincount(candidates.rows[self.queries.clicked], minlength=len(self.queries))
        scores = pa.ListArray.from_arrays(pa.array(candidates.offsets, pa.int32()), pa.array(self.scores.astype(np.float32)))
        return {"candidates": candidates.lengths.astype(np.int32), "clicks": clicks.astype(np.int32)}, {"scores": scores}

    def lists(self) -> np.ndarray:
        """(n, SLATE) the first items of slates that have more, best first; 0 for a slate that has not: it leaves nothing to choose.

        Among equal scores one order is drawn, the same for all rankers.
        """
        candidates = self.queries.candidates
        rows = np.flatnonzero(candidates.lengths > SLATE)
        index, slates = candidates.index(rows), candidates.take(rows)
        draw = np.random.default_rng(0).random(len(self.scores))[index]
        order = np.lexsort((draw, -self.scores[index], slates.rows))
        lists = np.zeros((len(self.queries), SLATE), np.int32)
        lists[rows] = slates.values[order[slates.offsets[:-1, None] + np.arange(SLATE)]]
        return lists

    def listable(self, where: np.ndarray, size: int) -> np.ndarray:
        """(size,) flags of the items that could be in a list of the queries `where` (n,): candidates of slates that have one."""
        flags = np.zeros(size, bool)
        flags[self.queries.candidates.take(np.flatnonzero(where & (self.queries.candidates.lengths > SLATE))).values] = True
        return flags


@dataclass(frozen=True)
class CatalogueRanks:
    """Where the relevant items of queries, their candidates, stand in the catalogue, and the first items of each ranking."""

    queries: Impressions
    better: np.ndarray  # how many other items score higher than each relevant item, flat like queries.candidates.values
    tied: np.ndarray  # how many other items score the same as each relevant item
    first: np.ndarray  # (n, K) first items of each ranking, best first, 0 where there are no more
    protocol: Protocol

    def metrics(self, only: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The metrics of the protocol, (n,) each. only: flags of the relevant items that count, their ranks as they are; NaN where none does."""
        relevant = self.queries.candidates
        if only is not None:
            return set_metrics(self.better[only], self.tied[only], relevant.where(only).offsets)
        if self.protocol.name == "catalogue":
            return catalogue_metrics(self.better, self.tied)
        return set_metrics(self.better, self.tied, relevant.offsets)

    def is_flat(self) -> bool:
        """Whether every relevant item is tied with others, and none is below any."""
        return bool((self.better == 0).all() and (self.tied > 0).all())

    def columns(self) -> tuple[Columns, Columns]:
        """Columns of rows.parquet that stand before the metrics, and those behind: ranks, ties their average, and first items."""
        ranks = {"items": self.queries.candidates.values, "ranks": self.better + 1 + self.tied / 2, "tied": self.tied.astype(np.int32)}
        offsets = pa.array(self.queries.candidates.offsets, pa.int32())
        first = pa.array([row[row > 0] for row in self.first], pa.list_(pa.int32()))
        return {name: pa.ListArray.from_arrays(offsets, values) for name, values in ranks.items()}, {"first": first}

    def lists(self) -> np.ndarray:
        """(n, K) the first items of each ranking, best first, 0 where there are no more."""
        return self.first

    def listable(self, where: np.ndarray, size: int) -> np.ndarray:
        """(size,) flags of the items that could be in a list of the queries `where` (n,): all but padding."""
        return np.arange(size) > 0
