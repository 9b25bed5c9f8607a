"""How good is a ranking? One value per query: an impression and its slate, or a user and the whole catalogue. Means and tests come after.

Ranks count from 1. Every function scores query by query, never pooled. Among equal scores every order is equally likely, and a metric is its mean
over those orders: a constant scorer has AUC 0.5 and in every other metric what random order has. For AUC that is the average rank, for nDCG it is
what scikit-learn does.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

METRICS = {  # name: (label, definition)
    "auc": ("AUC", "share of (clicked, not clicked) pairs of an impression in the right order, ties half; mean over impressions"),
    "mrr": ("MRR", "mean of 1/rank over the clicked news of an impression (MIND's definition); mean over impressions"),
    "mrr_first": ("MRR (first)", "1/rank of the best clicked news of an impression; mean over impressions"),
    "ndcg5": ("nDCG@5", "sum of 1/log2(rank+1) over clicked news among the first 5, over the largest possible; mean over impressions"),
    "ndcg10": ("nDCG@10", "the same among the first 10"),
}
CUTS = (5, 10, 20, 50)
CATALOGUE = {f"hr{k}": (f"HR@{k}", f"share of queries whose item is among the first {k} of the whole catalogue") for k in CUTS}
CATALOGUE |= {f"ndcg{k}": (f"nDCG@{k}", f"1/log2(rank+1) of the item where it is among the first {k}, else 0; mean over queries") for k in CUTS}
CATALOGUE |= {"mrr": ("MRR", "1/rank of the item in the whole catalogue; mean over queries")}
SETS = {f"recall{k}": (f"Recall@{k}", f"share of a user's right items among the first {k} of the whole catalogue; mean over users") for k in CUTS}
SETS |= {
    f"ndcg{k}": (f"nDCG@{k}", f"sum of 1/log2(rank+1) over a user's right items among the first {k}, over the largest possible; mean over users")
    for k in CUTS
}
SETS |= {"mrr": ("MRR", "mean of 1/rank over a user's right items in the whole catalogue; mean over users")}


@dataclass(frozen=True)
class Ties:
    """The relevant items of n queries, each with the items of equal score: it is equally likely at any of the ranks that these have together."""

    starts: np.ndarray  # (R,) of every relevant item the first of these ranks
    lengths: np.ndarray  # (R,) how many ranks they are, 1 where no other item scores the same
    offsets: np.ndarray  # (n + 1,) query r has the relevant items offsets[r] : offsets[r + 1]

    @cached_property
    def ranks(self) -> np.ndarray:
        """1 to the last rank of any tie."""
        return np.arange(1, int((self.starts + self.lengths).max(initial=1)))

    @cached_property
    def relevant(self) -> np.ndarray:
        """(n,) how many relevant items a query has."""
        return np.diff(self.offsets)

    @cached_property
    def queries(self) -> np.ndarray:
        """(R,) the query of every relevant item."""
        return np.repeat(np.arange(len(self.relevant)), self.relevant)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """(R,) of every relevant item the mean of `values`, one for each of `ranks`, over the ranks at which it may be."""
        up_to = np.r_[0.0, np.cumsum(values)]
        return (up_to[self.starts + self.lengths - 1] - up_to[self.starts - 1]) / self.lengths

    def total(self, values: np.ndarray) -> np.ndarray:
        """(n,) the sum of `values` (R,) over the relevant items of each query."""
        return np.bincount(self.queries, values, minlength=len(self.relevant))


def ties_of_slates(scores: np.ndarray, relevant: np.ndarray, offsets: np.ndarray) -> Ties:
    """The ties of slates. scores, relevant: one value per candidate; query r has the candidates offsets[r] : offsets[r + 1]."""
    query = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((-scores, query))
    value, hit = scores[order], relevant[order].astype(bool)
    begins = np.flatnonzero(np.r_[True, (query[1:] != query[:-1]) | (value[1:] != value[:-1])][: len(query)])  # a run of equal scores in one slate
    lengths = np.diff(np.r_[begins, len(query)])
    tie = np.repeat(np.arange(len(begins)), lengths)[hit]
    first = begins - offsets[query[begins]] + 1
    return Ties(first[tie], lengths[tie], np.r_[0, np.cumsum(np.bincount(query[hit], minlength=len(offsets) - 1))])


# one function per metric, (n,) each, NaN where nothing is relevant ---------------------------------------------------


def auc(ties: Ties, sizes: np.ndarray) -> np.ndarray:
    """Area under the ROC curve: of the pairs of a relevant and another candidate the share in the right order, ties half; NaN without a pair.

    AUC = (sum over relevant candidates of (size + 1 - rank) - p (p + 1) / 2) / (p (size - p)), p of `sizes` (n,) candidates relevant, ranks of ties
    their average.
    """
    p = ties.relevant
    right = ties.total(np.repeat(sizes + 1, p) - ties.mean(ties.ranks)) - p * (p + 1) / 2
    pairs = p * (sizes - p)
    return right / np.where(pairs > 0, pairs, np.nan)


def mrr(ties: Ties) -> np.ndarray:
    """The mean of 1/rank over the relevant items. Source: MIND's evaluate.py, Wu et al., ACL 2020."""
    return ties.total(ties.mean(1 / ties.ranks)) / np.where(ties.relevant > 0, ties.relevant, np.nan)


def mrr_first(ties: Ties) -> np.ndarray:
    """1/rank of the best relevant item (reciprocal rank).

    Of a best tie of m ranks from s on, h of them of relevant items: the sum over j = 0, 1, ... of 1/(s + j) times the probability that the first hit
    is there, h/(m - j) times that of no hit before.
    """
    start = np.full(len(ties.relevant), np.iinfo(np.int64).max)
    np.minimum.at(start, ties.queries, ties.starts)
    in_best = ties.starts == start[ties.queries]
    hits = np.bincount(ties.queries[in_best], minlength=len(start))
    length = np.zeros(len(start), np.int64)
    length[ties.queries[in_best]] = ties.lengths[in_best]
    mean, no_hit = np.where(hits > 0, 0, np.nan), np.ones(len(start))
    for j in range(int((length - hits).max(initial=-1)) + 1):
        left = np.maximum(length - j, 1)
        mean += no_hit * np.minimum(hits / left, 1) / (start + j)
        no_hit *= np.maximum(length - hits - j, 0) / left
    return mean


def recall(ties: Ties, k: int) -> np.ndarray:
    """The share of the relevant items that are among the first k; of a single one whether it is: the hit rate."""
    return ties.total(ties.mean((ties.ranks <= k).astype(float))) / np.where(ties.relevant > 0, ties.relevant, np.nan)


def ndcg(ties: Ties, k: int) -> np.ndarray:
    """nDCG@k: the sum of 1/log2(rank + 1) over the relevant items among the first k, over that of a ranking that has them first."""
    gain = np.where(ties.ranks <= k, 1 / np.log2(ties.ranks + 1), 0)
    ideal = np.r_[np.nan, np.cumsum(1 / np.log2(np.arange(2, k + 2)))]
    return ties.total(ties.mean(gain)) / ideal[np.minimum(ties.relevant, k)]


# all metrics of a protocol -------------------------------------------------------------------------------------------


def rank_metrics(scores: np.ndarray, relevant: np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
    """The METRICS of n impressions, each (n,) float64 in [0, 1].

    scores, relevant: one value per candidate; impression r owns offsets[r] : offsets[r + 1]. NaN where nothing, or everything, is relevant: such an
    impression ranks nothing and is to be counted as skipped. Raises ValueError for scores that are not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} of {len(scores)} scores are not finite numbers; the model has diverged.")
    ties, sizes = ties_of_slates(scores, relevant, offsets), np.diff(offsets)
    values = {"auc": auc(ties, sizes), "mrr": mrr(ties), "mrr_first": mrr_first(ties), "ndcg5": ndcg(ties, 5), "ndcg10": ndcg(ties, 10)}
    return {name: np.where(ties.relevant < sizes, value, np.nan) for name, value in values.items()}


def catalogue_metrics(better: np.ndarray, tied: np.ndarray) -> dict[str, np.ndarray]:
    """The CATALOGUE metrics of n queries with one relevant item each, (n,) float64 in [0, 1].

    better, tied (n,): how many other items score higher, and the same. The item is then equally likely at each of the ranks better + 1 to
    better + 1 + tied.
    """
    return {name.replace("recall", "hr"): values for name, values in set_metrics(better, tied, np.arange(len(better) + 1)).items()}


def set_metrics(better: np.ndarray, tied: np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
    """The SETS metrics of n users, (n,) float64 in [0, 1]; user r has the relevant items offsets[r] : offsets[r + 1].

    better, tied: as for `catalogue_metrics`, one value per relevant item, other relevant items of the user counted like any others. NaN where a user
    has none. Source: the evaluator of RecBole and MMRec, but for ties.
    """
    ties = Ties(better + 1, tied + 1, offsets)
    return {f"recall{k}": recall(ties, k) for k in CUTS} | {f"ndcg{k}": ndcg(ties, k) for k in CUTS} | {"mrr": mrr(ties)}
