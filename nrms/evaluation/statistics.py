"""How sure are we of a mean, and of a difference? Bootstrap intervals of means, t-tests over seeds and users, corrections for many comparisons.

An interval of a mean is that over queries, drawn anew. A difference of two methods is one of their trainings and of the users who were asked: both
vary, and both are in its interval and p. The p of several comparisons are corrected by Holm.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

RESAMPLES = 1000
RESAMPLES_AT_ONCE = 20


# intervals -----------------------------------------------------------------------------------------------------------


def bootstrap_means(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Means (RESAMPLES, M) of the columns of `values` (n, M) over rows drawn n times with replacement, all columns with the same rows.

    A resample is a count for every row, so that all its means are one product, and RESAMPLES_AT_ONCE of them one of matrices: many times faster than
    gathering, which matters at 73,000 rows.
    """
    rng, n = np.random.default_rng(seed), len(values)
    counts, means = np.empty((RESAMPLES_AT_ONCE, n)), []
    for _ in range(RESAMPLES // RESAMPLES_AT_ONCE):
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
    has_ratio = below.any(0)
    low, high = np.full(m, np.nan), np.full(m, np.nan)
    low[has_ratio], high[has_ratio] = np.nanquantile(ratios[:, has_ratio], [0.025, 0.975], axis=0)
    return low, high


def intervals(samples: Sequence[np.ndarray]) -> list[tuple[float, float]]:
    """`interval` of each of many samples (n,), as it would be alone. Those of one length have the same resamples, so they are done together."""
    ends, by_length = [(np.nan, np.nan)] * len(samples), {}
    for i, sample in enumerate(samples):
        by_length.setdefault(len(sample), []).append(i)
    for numbers in by_length.values():
        for i, low, high in zip(numbers, *interval(np.column_stack([samples[i] for i in numbers])), strict=True):
            ends[i] = float(low), float(high)
    return ends


def summarise(rows: Mapping[str, np.ndarray], where: np.ndarray) -> dict[str, dict[str, float | int]]:
    """{metric: {mean, low, high, n, skipped}} of the rows where `where` (n,) is True; skipped counts those without a value.

    mean, low and high are null in JSON (None here) when no row has a value.
    """
    values = np.column_stack([column[where] for column in rows.values()])
    complete = values[~np.isnan(values).any(1)]
    counts = {"n": len(complete), "skipped": len(values) - len(complete)}
    if not len(complete):
        return {name: {"mean": None, "low": None, "high": None} | counts for name in rows}
    low, high = interval(complete)
    numbers = zip(rows, complete.mean(0).tolist(), low.tolist(), high.tolist(), strict=True)
    return {name: {"mean": mean, "low": low, "high": high} | counts for name, mean, low, high in numbers}


# comparisons ---------------------------------------------------------------------------------------------------------

FEWEST_SEEDS = 3  # of what learns, for a verdict on the method and not on these trainings


@dataclass(frozen=True)
class Comparison:
    """What two methods reached on the same rows: the mean of the first minus that of the second, over seeds.

    low, high: 95 % interval; p: two-sided, not corrected. Where all that learns has FEWEST_SEEDS seeds they are of the method: another training, and
    other users, might come out so. Else they are of these trainings alone, on other users. detectable: the smallest difference of methods that these
    seeds and users would have shown in four of five trials, at 0.05. seeds: the fewest of what learns; 0 where neither does. n: rows.
    """

    mean: float
    low: float
    high: float
    p: float
    detectable: float
    seeds: int
    n: int

    @property
    def is_of_methods(self) -> bool:
        return self.seeds == 0 or self.seeds >= FEWEST_SEEDS


def covariance_of_means(values: np.ndarray, users: np.ndarray) -> np.ndarray:
    """(M, M) of the means of the columns of `values` (n, M), where the rows of a user (n,) come and go together; NaN for a single user.

    The sums of each user's deviations are the independent draws (Cameron and Miller 2015, eq. 11, with G / (G - 1) for G users).
    """
    _, user = np.unique(users, return_inverse=True)
    deviations = values - values.mean(0)
    sums = np.column_stack([np.bincount(user, column) for column in deviations.T])
    count = len(sums)
    return sums.T @ sums * (count / (count - 1) if count > 1 else np.nan) / len(values) ** 2


def compare_all(samples: Sequence[np.ndarray], learns: Sequence[bool], users: np.ndarray) -> dict[tuple[int, int], Comparison]:
    """Every two methods i < j: {(i, j): that of i minus j}, over the rows where both have values.

    samples: of each of M methods (n, S), a column for each of its S seeds, NaN where a row has no value. learns: whether training with another
    seed would make it another. users (n,): whose rows they are.
    """
    comparisons, same_rows = {}, {}
    for number, sample in enumerate(samples):
        same_rows.setdefault((~np.isnan(sample).any(1)).tobytes(), []).append(number)
    for mask, numbers in same_rows.items():
        rows = np.frombuffer(mask, bool)
        if rows.any() and len(numbers) > 1:
            comparisons |= compare_complete({i: samples[i][rows] for i in numbers}, learns, users[rows])
    for i, j in itertools.combinations(range(len(samples)), 2):
        if (i, j) not in comparisons:
            rows = ~np.isnan(np.hstack([samples[i], samples[j]])).any(1)
            comparisons |= compare_complete({k: samples[k][rows] for k in (i, j)}, learns, users[rows])
    return comparisons


def compare_complete(samples: Mapping[int, np.ndarray], learns: Sequence[bool], users: np.ndarray) -> dict[tuple[int, int], Comparison]:
    """`compare_all` of samples, by number, that have values in all rows.

    The variance of a difference of means over seeds is s_i^2 / S_i + s_j^2 / S_j, of the means of the seeds, plus that over users, of the
    difference of the means over seeds. The interval is that of t; its degrees of freedom are those of the seeds' part (Welch 1947, Satterthwaite
    1946), which has the fewer: so it holds whichever part is the larger.
    """
    n, numbers = len(users), list(samples)
    means = np.column_stack([samples[i].mean(1) for i in numbers])
    if not n:
        return {pair: Comparison(*[np.nan] * 5, 0, 0) for pair in itertools.combinations(numbers, 2)}
    covariance, groups = covariance_of_means(means, users), len(np.unique(users))
    comparisons = {}
    for (a, i), (b, j) in itertools.combinations(enumerate(numbers), 2):
        trained = [samples[k].mean(0) for k in (i, j) if learns[k]]  # the mean of each seed
        seeds = min(map(len, trained), default=0)
        variance, df = covariance[a, a] + covariance[b, b] - 2 * covariance[a, b], groups - 1
        if seeds >= FEWEST_SEEDS:
            parts = np.array([of_seeds.var(ddof=1) / len(of_seeds) for of_seeds in trained])
            if parts.any():
                df = parts.sum() ** 2 / (parts**2 / [len(of_seeds) - 1 for of_seeds in trained]).sum()
            variance += parts.sum()
        comparisons[i, j] = comparison(float(means[:, a].mean() - means[:, b].mean()), float(np.maximum(variance, 0)), df, seeds, n)
    return comparisons


def comparison(difference: float, variance: float, df: float, seeds: int, n: int) -> Comparison:
    """Where nothing varies, p is 1 for no difference, and 0 for any."""
    error = variance**0.5
    quantile, power = special.stdtrit(df, 0.975), special.stdtrit(df, 0.8)
    p = float(difference == 0) if error == 0 else float(2 * special.stdtr(df, -abs(difference) / error))
    return Comparison(difference, difference - quantile * error, difference + quantile * error, p, (quantile + power) * error, seeds, n)


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number, Holm (1979): the i-th smallest times (m - i + 1), made monotone, at most 1."""
    order = np.argsort(p)
    corrected = np.minimum(np.maximum.accumulate(np.asarray(p, float)[order] * np.arange(len(p), 0, -1)), 1.0)
    result = np.empty(len(p))
    result[order] = corrected
    return result.tolist()
