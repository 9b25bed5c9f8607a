"""How good is a ranking, and how sure are we? One value per impression; means, intervals and tests come after.

Every function scores impression by impression, never pooled. Among equal scores every order is equally likely, and a metric is its mean over those
orders: a constant scorer has AUC 0.5 and in every other metric what random order has. For AUC that is the average rank, for nDCG it is what
scikit-learn does.
"""

import numpy as np

METRICS = {  # name: (label, definition)
    "auc": ("AUC", "share of (clicked, not clicked) pairs of an impression in the right order, ties half; mean over impressions"),
    "mrr": ("MRR", "mean of 1/rank over the clicked news of an impression (MIND's definition); mean over impressions"),
    "mrr_first": ("MRR (first)", "1/rank of the best clicked news of an impression; mean over impressions"),
    "ndcg5": ("nDCG@5", "sum of 1/log2(rank+1) over clicked news among the first 5, over the largest possible; mean over impressions"),
    "ndcg10": ("nDCG@10", "the same among the first 10"),
}
CUTS = (5, 10, 20, 50)
CATALOGUE = {f"hr{k}": (f"HR@{k}", f"share of questions whose item is among the first {k} of the whole catalogue") for k in CUTS}
CATALOGUE |= {f"ndcg{k}": (f"nDCG@{k}", f"1/log2(rank+1) of the item where it is among the first {k}, else 0; mean over questions") for k in CUTS}
CATALOGUE |= {"mrr": ("MRR", "1/rank of the item in the whole catalogue; mean over questions")}
SETS = {f"recall{k}": (f"Recall@{k}", f"share of a user's right items among the first {k} of the whole catalogue; mean over users") for k in CUTS}
SETS |= {
    f"ndcg{k}": (f"nDCG@{k}", f"sum of 1/log2(rank+1) over a user's right items among the first {k}, over the largest possible; mean over users")
    for k in CUTS
}
SETS |= {"mrr": ("MRR", "mean of 1/rank over a user's right items in the whole catalogue; mean over users")}


def rank_metrics(scores: np.ndarray, clicked: np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
    """The METRICS of n impressions, each (n,) float64 in [0, 1], ranks counted from 1.

    scores, clicked: one value per candidate; impression r owns offsets[r] : offsets[r + 1]. NaN where nothing, or everything, was clicked:
    such an impression ranks nothing and is to be counted as skipped. Source: MIND's evaluate.py, Wu et al., ACL 2020; ties as said above.
    Raises ValueError for scores that are not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} of {len(scores)} scores are not finite numbers; the model has diverged.")
    size = np.diff(offsets)
    row = np.repeat(np.arange(len(size)), size)
    order = np.lexsort((-scores, row))
    rank = np.arange(len(row)) - np.repeat(offsets[:-1], size) + 1  # of the sorted candidates

    # a tie is a run of equal scores in one impression, at ranks first..last; `mean_over(f)` is the mean of f(rank) over its ranks
    value = scores[order]
    starts = np.flatnonzero(np.r_[True, (row[1:] != row[:-1]) | (value[1:] != value[:-1])][: len(row)])
    length = np.diff(np.r_[starts, len(row)])
    first = rank[starts] if len(row) else starts
    hit = clicked[order].astype(bool)
    tie = np.repeat(np.arange(len(starts)), length)[hit]  # of every clicked candidate
    owner = row[hit]

    ranks = np.arange(1, size.max(initial=0) + 1)

    def mean_over(f: np.ndarray) -> np.ndarray:
        upto = np.r_[0.0, np.cumsum(f)]
        return ((upto[first + length - 1] - upto[first - 1]) / length)[tie]

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(owner, values, minlength=len(size))

    p = np.bincount(owner, minlength=len(size))
    defined = (p > 0) & (p < size)
    pairs = np.where(defined, p * (size - p), 1)
    below = total(size[owner] + 1 - mean_over(ranks)) - p * (p + 1) / 2  # unclicked candidates ranked below, summed over clicked ones
    top = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]][: len(owner)])  # the best clicked candidate of each impression that has one
    best = np.zeros(len(size))
    best[owner[top]] = first_hit(first[tie[top]], length[tie[top]], np.bincount(tie, minlength=len(starts))[tie[top]])
    result = {"auc": below / pairs, "mrr": total(mean_over(1 / ranks)) / np.maximum(p, 1), "mrr_first": best}
    for k in (5, 10):
        gain = np.where(ranks <= k, 1 / np.log2(ranks + 1), 0)
        ideal = np.r_[0.0, np.cumsum(gain)][p]
        result[f"ndcg{k}"] = total(mean_over(gain)) / np.where(ideal > 0, ideal, 1)
    return {name: np.where(defined, v, np.nan) for name, v in result.items()}


def first_hit(first: np.ndarray, length: np.ndarray, clicks: np.ndarray) -> np.ndarray:
    """Mean of 1/rank of the first click over all orders of a tie of `length` candidates, `clicks` of them clicked, at ranks `first` and on."""
    mean, unhit = np.zeros(len(first)), np.ones(len(first))  # unhit: probability of no click so far
    for j in range(int((length - clicks).max(initial=-1)) + 1):
        left = np.maximum(length - j, 1)
        mean += unhit * np.minimum(clicks / left, 1) / (first + j)
        unhit *= np.maximum(length - clicks - j, 0) / left
    return mean


def catalogue_metrics(better: np.ndarray, tied: np.ndarray) -> dict[str, np.ndarray]:
    """The CATALOGUE metrics of n questions with one right item each, (n,) float64 in [0, 1].

    better, tied (n,): how many other items score higher, and the same. The item is then equally likely at each of the ranks better + 1 to
    better + 1 + tied, and a metric is its mean over them.
    """
    hits, gains, inverse = hits_and_gains(better, tied)
    return {f"hr{k}": hits[k] for k in CUTS} | {f"ndcg{k}": gains[k] for k in CUTS} | {"mrr": inverse}


def hits_and_gains(better: np.ndarray, tied: np.ndarray) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray], np.ndarray]:
    """Of every right item: whether it is among the first k and 1/log2(rank+1) if it is, for the k of CUTS, and 1/rank; the mean over its ranks."""
    rank = np.arange(1, int((better + tied).max(initial=0)) + 2)

    def mean_over(f: np.ndarray) -> np.ndarray:
        upto = np.r_[0.0, np.cumsum(f)]
        return (upto[better + tied + 1] - upto[better]) / (tied + 1)

    gains = {k: mean_over(np.where(rank <= k, 1 / np.log2(rank + 1), 0)) for k in CUTS}
    return {k: mean_over((rank <= k).astype(float)) for k in CUTS}, gains, mean_over(1 / rank)


def set_metrics(better: np.ndarray, tied: np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
    """The SETS metrics of n users, (n,) float64 in [0, 1]; user r has the right items offsets[r] : offsets[r + 1], at least one.

    better, tied: as for `catalogue_metrics`, one value per right item, other right items of the user counted like any others. Source: the
    evaluator of RecBole and MMRec, but for ties.
    """
    hits, gains, inverse = hits_and_gains(better, tied)
    size = np.diff(offsets)
    ideal = np.r_[0.0, np.cumsum(1 / np.log2(np.arange(2, max(CUTS) + 2)))]
    result = {f"recall{k}": np.add.reduceat(hits[k], offsets[:-1]) / size for k in CUTS}
    result |= {f"ndcg{k}": np.add.reduceat(gains[k], offsets[:-1]) / ideal[np.minimum(size, k)] for k in CUTS}
    return result | {"mrr": np.add.reduceat(inverse, offsets[:-1]) / size}
