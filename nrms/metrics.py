"""How good is a ranking, and how sure are we? One value per impression; means, intervals and tests come after.

Every function scores impression by impression, never pooled. Among equal scores every order is equally likely, and a metric is its mean over those
orders: a constant scorer has AUC 0.5 and in every other metric what random order has. For AUC that is the average rank, for nDCG it is what
scikit-learn does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

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


DIAGNOSTICS = {  # how vectors lie: name: (label, definition)
    "alignment": ("alignment", "mean squared distance of users and the items they took, on the unit sphere, 0 to 4 (Wang and Isola 2020)"),
    "uniformity_users": ("uniformity, users", "log of the mean of exp(-2 d^2) over pairs of users there: 0 where all are one, about -4 where spread"),
    "uniformity_items": ("uniformity, items", "the same over items that training has"),
    "modality_gap": ("modality gap", "largest distance between the centres of two modalities' unit vectors, 0 to 2, ids counted as one"),
    "norm_popularity": ("norm ~ popularity", "rank correlation of an item vector's length with how often training has the item"),
    "score_popularity": ("score ~ popularity", "rank correlation of an item's mean score over users with how often training has the item"),
    "popularity_lift": ("popularity lift", "how often training has the first 10 items of rankings, over how often it has the right ones; 1: no bias"),
    "coverage": ("coverage", "share of the catalogue that is among anybody's first 10"),
}

BEYOND = {  # what lists are like, whoever clicks what: name: (label, definition)
    "diversity": (
        "diversity",
        "share of pairs of a list's items with different categories as the source writes them, 0 to 1; items without one are left "
        "out (intra-list diversity: Smyth and McClave 2001, Ziegler et al. 2005)",
    ),
    "content_diversity": (
        "content diversity",
        "mean of 1 - cosine over pairs of a list's items, of text vectors that came with the data, else of TF-IDF of title and abstract: "
        "0 where all texts are alike, 1 where no two share a word",
    ),
    "novelty": (
        "novelty, bits",
        "mean of -log2 of the share of training users who took an item, one user added who took everything: 0 for what all took, "
        "log2(users + 1) for what nobody took (self-information: Vargas and Castells 2011)",
    ),
    "miscalibration": (
        "miscalibration, nats",
        "KL(p || 0.99 q + 0.01 p) of the shares of categories p in the history and q in the list: 0 where the list has the user's mixture, "
        "4.6 where it has none of the user's categories (Steck 2018); a list is short, so a little is left to anybody",
    ),
    "popularity": (
        "popularity",
        "mean percentile of a list's items among all items by how many training users took them, 0 to 1, 0.5 for an item in the middle",
    ),
    "popularity_shift": (
        "popularity shift",
        "that mean percentile minus the history's: above 0 a list is more popular than the user's taste; news, newer than training, lie below "
        "(after Abdollahpouri et al. 2019, who compare groups of users)",
    ),
    "coverage": ("coverage", "share of the items that could be in a list, candidates or the whole catalogue, that are in one"),
    "gini": (
        "exposure Gini",
        "how unequally often those items are in lists: 0 where all equally, near 1 where few have all places (Fleder and Hosanagar 2009)",
    ),
}


@dataclass(frozen=True)
class Protocol:
    """How models are judged: the metrics, those that tables show, and the one that chooses and is compared."""

    metrics: Mapping[str, tuple[str, str]]
    shown: tuple[str, ...]
    main: str
    unit: str  # what a row is

    @property
    def label(self) -> str:
        return self.metrics[self.main][0]


PROTOCOLS = {
    "impressions": Protocol(METRICS, ("auc", "mrr", "ndcg5", "ndcg10"), "auc", "impression"),
    "catalogue": Protocol(CATALOGUE, ("ndcg10", "hr10", "hr50", "mrr"), "ndcg10", "question"),
    "sets": Protocol(SETS, ("recall20", "recall10", "ndcg20", "ndcg10"), "recall20", "user"),
}
RESAMPLES = 1000
PASS = 20  # of them at a time


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


def bootstrap_means(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Means (RESAMPLES, M) of the columns of `values` (n, M) over rows drawn n times with replacement, all columns with the same rows.

    A resample is a count for every row, so that all its means are one product, and PASS resamples one of matrices: many times faster than gathering,
    which matters at 73,000 rows.
    """
    rng, n = np.random.default_rng(seed), len(values)
    counts, means = np.empty((PASS, n)), []
    for _ in range(RESAMPLES // PASS):
        for row in counts:
            row[:] = np.bincount(rng.integers(n, size=n, dtype=np.int32), minlength=n)
        means.append(counts @ values)
    return np.concatenate(means) / n


def interval(values: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile bootstrap interval (low, high) of the mean of `values` (n,), or of each column of (n, M); NaN where n = 0."""
    if not len(values):
        return np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    low, high = np.quantile(bootstrap_means(values, seed), [0.025, 0.975], axis=0)
    return low, high


def interval_of_ratios(above: np.ndarray, below: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile bootstrap interval (low, high), (M,) each, of the sum of each column of `above` (n, M) over that of `below` (n, M), by rows.

    A resample in which a column of `below` adds up to 0 has no ratio and is left out; NaN where none has one.
    """
    m = above.shape[1]
    if not below.any():
        return np.full(m, np.nan), np.full(m, np.nan)
    drawn = bootstrap_means(np.hstack([above, below]))
    ratios = np.divide(drawn[:, :m], drawn[:, m:], out=np.full((len(drawn), m), np.nan), where=drawn[:, m:] > 0)
    some = below.any(0)
    low, high = np.full(m, np.nan), np.full(m, np.nan)
    low[some], high[some] = np.nanquantile(ratios[:, some], [0.025, 0.975], axis=0)
    return low, high


def intervals(samples: Sequence[np.ndarray]) -> list[tuple[float, float]]:
    """`interval` of each of many samples (n,), as it would be alone. Those of one length have the same resamples, so they are done together."""
    found, by_length = [(np.nan, np.nan)] * len(samples), {}
    for i, sample in enumerate(samples):
        by_length.setdefault(len(sample), []).append(i)
    for own in by_length.values():
        for i, low, high in zip(own, *interval(np.column_stack([samples[i] for i in own])), strict=True):
            found[i] = float(low), float(high)
    return found


def summarise(rows: Mapping[str, np.ndarray], where: np.ndarray) -> dict[str, dict[str, float | int]]:
    """{metric: {mean, low, high, n, skipped}} of the rows where `where` (n,) is True; skipped counts those without a value.

    mean, low and high are null in JSON (None here) when no row has a value.
    """
    values = np.column_stack([column[where] for column in rows.values()])
    kept = values[~np.isnan(values).any(1)]
    none = [None] * len(rows)
    columns = zip(rows, kept.mean(0) if len(kept) else none, *(interval(kept) if len(kept) else [none] * 2), strict=True)
    counts = {"n": len(kept), "skipped": len(values) - len(kept)}
    return {
        name: {k: v if v is None else float(v) for k, v in (("mean", mean), ("low", low), ("high", high))} | counts
        for name, mean, low, high in columns
    }


def compare(a: np.ndarray, b: np.ndarray) -> dict[str, float | int]:
    """Paired by impression: the mean of a - b, its 95 % bootstrap interval, and p of a two-sided paired t-test (uncorrected); n pairs.

    p is 1 when all differences are equal to 0.
    """
    return compare_each([(a, b)])[0]


def compare_each(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[dict[str, float | int]]:
    """`compare` of each of many pairs, done together."""
    samples = [d[~np.isnan(d)] for d in (a - b for a, b in pairs)]
    means = [float(d.mean()) if len(d) else float("nan") for d in samples]
    return [
        {"mean": mean, "low": low, "high": high, "p": paired_p(d), "n": len(d)}
        for d, mean, (low, high) in zip(samples, means, intervals(samples), strict=True)
    ]


def compare_all(values: np.ndarray) -> dict[tuple[int, int], dict[str, float | int]]:
    """`compare` of every two columns i < j of `values` (n, M), NaN where a row has none: {(i, j): that of i minus j}.

    Columns with values in the same rows have the same resamples, so the means of their differences are differences of their means.
    """
    found, patterns = {}, {}
    for i, kept in enumerate(~np.isnan(values.T)):
        patterns.setdefault(kept.tobytes(), []).append(i)
    for own in patterns.values():
        samples = values[~np.isnan(values[:, own[0]])][:, own]
        first, second = np.triu_indices(len(own), 1)
        if not len(first) or not len(samples):
            continue
        means = bootstrap_means(samples)
        low, high = np.quantile(means[:, first] - means[:, second], [0.025, 0.975], axis=0)
        columns = np.ascontiguousarray(samples.T)
        for at, (i, j) in enumerate(zip(first, second, strict=True)):
            d = columns[i] - columns[j]
            found[own[i], own[j]] = {"mean": float(d.mean()), "low": float(low[at]), "high": float(high[at]), "p": paired_p(d), "n": len(d)}
    rest = [(i, j) for j in range(values.shape[1]) for i in range(j) if (i, j) not in found]
    return found | dict(zip(rest, compare_each([(values[:, i], values[:, j]) for i, j in rest]), strict=True))


def paired_p(difference: np.ndarray) -> float:
    """p of a two-sided paired t-test; where all differences (n,) are equal, 1 if they are 0 or fewer than two, else 0."""
    n = len(difference)
    if n < 2 or np.ptp(difference) == 0:
        return 1.0 if not n or difference[0] == 0 else 0.0
    return float(2 * special.stdtr(n - 1, -abs(difference.mean()) / (difference.std(ddof=1) / np.sqrt(n))))


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number, Holm (1979): the i-th smallest times (m - i + 1), made monotone, at most 1."""
    order = np.argsort(p)
    corrected = np.minimum(np.maximum.accumulate(np.asarray(p, float)[order] * np.arange(len(p), 0, -1)), 1.0)
    result = np.empty(len(p))
    result[order] = corrected
    return result.tolist()
