"""What are the lists like that a ranking puts before people, whoever clicks what? BEYOND of protocols.py: one value per list, and two of all lists.

A list is the first SLATE items of a slate that has more, or the first items of a catalogue's ranking (`lists` in scores_and_ranks.py). A slate of
SLATE candidates or fewer leaves nothing to choose: every ranker has the same list there, so it has none here. Of 5,000 impressions of MIND 26 % have
10 candidates or fewer and 15 % have 5 or fewer, hence 5. Nothing is discounted by rank: a value belongs to the set of items. Among equal scores of a
slate one order is drawn, the same for all rankers, so that means over impressions are right; a catalogue's are in the order in which the ranking
found them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse, stats

from nrms.data.prepare import Tables
from nrms.data.tables import Ragged, Split
from nrms.data.text_vectors import text_vectors
from nrms.evaluation.scores_and_ranks import CatalogueRanks, SlateScores
from nrms.evaluation.statistics import interval_of_ratios
from nrms.evaluation.training_items import takers

ALPHA = 0.01  # of the history's categories in those of a list, so that none is without (Steck 2018)


@dataclass(frozen=True)
class Known:
    """What is known of the N + 1 items (row 0 is padding) before any model."""

    category: np.ndarray  # (N + 1,) numbers of the categories, as the source writes them; -1 for none, padding too
    content: np.ndarray | sparse.csr_matrix  # (N + 1, W) unit vectors; zeros for an item without text
    takers: np.ndarray  # (N + 1,) how many users of the training part took it
    users: int  # how many took anything


def known_items(tables: Tables, split: Split) -> Known:
    category = pd.factorize(np.where(tables.items.category == "", None, tables.items.category))[0]
    return Known(category, text_vectors(tables), *takers(split.train, len(tables.items)))


# one value per list --------------------------------------------------------------------------------------------------


def ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """total / count, NaN where count is 0."""
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def mean_of_lists(lists: np.ndarray, value: np.ndarray) -> np.ndarray:
    """(n,) the mean of `value` (N + 1,) over the items of each list."""
    return ratio(np.where(lists > 0, value[lists], 0).sum(1), np.count_nonzero(lists, axis=1))


def category_diversity(lists: np.ndarray, category: np.ndarray) -> np.ndarray:
    """(n,) share of pairs of items with a category whose categories differ, 0 to 1; NaN where fewer than two have one.

    Source: intra-list diversity, Smyth and McClave 2001; Ziegler et al. 2005.
    """
    code = category[lists]
    has = np.count_nonzero(code >= 0, axis=1)
    first, second = np.triu_indices(lists.shape[1], 1)
    differ = (code[:, first] != code[:, second]) & (code[:, first] >= 0) & (code[:, second] >= 0)
    return ratio(np.count_nonzero(differ, axis=1), has * (has - 1) / 2)


def content_diversity(lists: np.ndarray, content: np.ndarray | sparse.csr_matrix, batch: int = 4096) -> np.ndarray:
    """(n,) mean of 1 - cosine over pairs of items with text, 0 (all alike) to 2; NaN where fewer than two have some. Source: as above.

    The cosines of all pairs are in the length of the sum of the unit vectors: no pair is looked at.
    """
    has = np.asarray(abs(content).sum(1)).ravel() > 0
    result = np.empty(len(lists))
    for begin in range(0, len(lists), batch):
        part = lists[begin : begin + batch]
        with_text = has[part] & (part > 0)
        row, m = np.nonzero(with_text)[0], np.count_nonzero(with_text, axis=1)
        total = sparse.csr_matrix((np.ones(len(row)), (row, part[with_text])), shape=(len(part), len(has))) @ content
        square = np.asarray(total.multiply(total).sum(1)).ravel() if sparse.issparse(total) else np.einsum("rw,rw->r", total, total)
        result[begin : begin + batch] = 1 - np.where(m > 1, (square - m) / np.maximum(m * (m - 1), 1), np.nan)
    return np.clip(result, 0, 2)


def information(takers: np.ndarray, users: int) -> np.ndarray:
    """(N + 1,) bits that each item tells: -log2 of the share of training users who took it, one user added who took everything.

    0 for what all took, log2(users + 1) for what nobody took. Source: self-information, Vargas and Castells 2011; the user added is ours.
    """
    return -np.log2((takers + 1) / (users + 1))


def percentile(takers: np.ndarray) -> np.ndarray:
    """(N + 1,) share of all items that fewer training users took, and half of those that as many took; 0 to 1, mean 0.5. Row 0 is 0."""
    return np.r_[0, (stats.rankdata(takers[1:]) - 0.5) / max(len(takers) - 1, 1)]


def mean_of_history(history: Ragged, value: np.ndarray) -> np.ndarray:
    """(n,) the mean of `value` (N + 1,) over each history; NaN for an empty one."""
    return ratio(np.bincount(history.rows, value[history.values], minlength=len(history)), history.lengths)


def shares(row: np.ndarray, code: np.ndarray, n: int, codes: int) -> tuple[np.ndarray, np.ndarray]:
    """Which (row, category) there are, as row * codes + category in order, and the share of the row's items that have it; code -1 is left out."""
    has = code >= 0
    keys, count = np.unique(row[has].astype(np.int64) * codes + code[has], return_counts=True)
    return keys, count / np.bincount(row[has], minlength=n)[keys // codes]


def miscalibration(lists: np.ndarray, history: Ragged, category: np.ndarray) -> np.ndarray:
    """(n,) KL(p || (1 - ALPHA) q + ALPHA p) in nats, p and q the shares of categories in history and list; 0 to -ln ALPHA = 4.6.

    NaN where no item of the history, or none of the list, has a category. Source: Steck, Calibrated Recommendations, 2018.
    """
    n, codes = len(lists), max(int(category.max(initial=0)) + 1, 1)
    row, column = np.nonzero(lists)
    keys, p = shares(history.rows, category[history.values], n, codes)
    listed, share = shares(row, category[lists[row, column]], n, codes)
    q = np.zeros(len(keys))
    if len(listed):
        index = np.minimum(np.searchsorted(listed, keys), len(listed) - 1)
        q = np.where(listed[index] == keys, share[index], 0)
    total = np.bincount(keys // codes, p * np.log(p / ((1 - ALPHA) * q + ALPHA * p)), minlength=n)
    both = np.bincount(keys // codes, minlength=n).astype(bool) & np.bincount(listed // codes, minlength=n).astype(bool)
    return np.where(both, np.maximum(total, 0), np.nan)


def per_list(lists: np.ndarray, history: Ragged, items: Known) -> dict[str, np.ndarray]:
    """Every value of BEYOND that a list has, (n,) each; NaN where it has none."""
    rank = percentile(items.takers)
    popularity = mean_of_lists(lists, rank)
    return {
        "diversity": category_diversity(lists, items.category),
        "content_diversity": content_diversity(lists, items.content),
        "novelty": mean_of_lists(lists, information(items.takers, items.users)),
        "miscalibration": miscalibration(lists, history, items.category),
        "popularity": popularity,
        "popularity_shift": popularity - mean_of_history(history, rank),
    }


# all lists together --------------------------------------------------------------------------------------------------


def gini(count: np.ndarray) -> float:
    """How unequal counts are: 0 where all are equal, (m - 1) / m where one of m has all. Source: Gini; of exposure, Fleder and Hosanagar 2009."""
    m = len(count)
    return float(2 * np.arange(1, m + 1) @ np.sort(count) / (m * count.sum()) - (m + 1) / m)


def spread(lists: np.ndarray, listable: np.ndarray) -> dict[str, float | int | None]:
    """{coverage, gini, lists}: over `listable` items (N + 1,), which share is in a list and how unequally often; None without lists."""
    exposure = np.bincount(lists[lists > 0], minlength=len(listable))[listable]
    n = int(np.count_nonzero(lists.any(1)))
    return {"coverage": float(np.mean(exposure > 0)) if n else None, "gini": gini(exposure) if n else None, "lists": n}


def average(values: Mapping[str, np.ndarray]) -> dict[str, dict[str, float | int | None]]:
    """{metric: {mean, low, high, n}}, each over its own lists with a value: n of them; low, high: 95 % bootstrap interval; None without."""
    table = np.column_stack(list(values.values()))
    table = table[~np.isnan(table).all(1)]
    has = ~np.isnan(table)
    n, table = has.sum(0), np.where(has, table, 0)
    low, high = interval_of_ratios(table, has)
    mean = ratio(table.sum(0), n)
    columns = zip(values, mean.tolist(), low.tolist(), high.tolist(), n.tolist(), strict=True)
    none = {"mean": None, "low": None, "high": None, "n": 0}
    return {name: {"mean": a, "low": b, "high": c, "n": count} if count else none for name, a, b, c, count in columns}


def beyond(items: Known, ranking: SlateScores | CatalogueRanks, slices: Mapping[str, np.ndarray]) -> dict[str, dict]:
    """{slice: {metric: {mean, low, high, n}} with coverage, gini and the number of lists} of what a scorer ranked; beyond.json.

    slices: {name: (n,) bool}; one without a query is left out. Of slates, the items that could be in a list are the candidates of those slates of the
    slice that have one; of a catalogue, all.
    """
    lists, result = ranking.lists(), {}
    values = per_list(lists, ranking.queries.history, items)
    for name, where in slices.items():
        if where.any():
            listable = ranking.listable(where, len(items.category))
            result[name] = average({metric: column[where] for metric, column in values.items()}) | spread(lists[where], listable)
    return result
