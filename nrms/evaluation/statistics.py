"""How sure are we of a mean, and of a difference? Bootstrap intervals, paired tests, corrections for many comparisons.

Rows are drawn anew, never metrics of whole test sets: an interval of a mean over queries, or of the mean difference of two rankers on the same
queries, whose p is that of a paired t-test; the p of several comparisons are corrected by Holm.
"""

from collections.abc import Mapping, Sequence

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


def compare(a: np.ndarray, b: np.ndarray) -> dict[str, float | int]:
    """Paired by impression: the mean of a - b, its 95 % bootstrap interval, and p of a two-sided paired t-test (uncorrected); n pairs.

    p is 1 when all differences are equal to 0.
    """
    return compare_each([(a, b)])[0]


def compare_each(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[dict[str, float | int]]:
    """`compare` of each of many pairs, done together."""
    differences = [d[~np.isnan(d)] for d in (a - b for a, b in pairs)]
    return [comparison(d, low, high) for d, (low, high) in zip(differences, intervals(differences), strict=True)]


def comparison(differences: np.ndarray, low: float, high: float) -> dict[str, float | int]:
    """What `compare` says of paired differences (n,), given the interval of their mean."""
    mean = float(differences.mean()) if len(differences) else float("nan")
    return {"mean": mean, "low": low, "high": high, "p": paired_p(differences), "n": len(differences)}


def compare_all(values: np.ndarray) -> dict[tuple[int, int], dict[str, float | int]]:
    """`compare` of every two columns i < j of `values` (n, M), NaN where a row has none: {(i, j): that of i minus j}.

    Columns with values in the same rows have the same resamples, so the means of their differences are differences of their means.
    """
    comparisons, same_rows = {}, {}
    for i, has_value in enumerate(~np.isnan(values.T)):
        same_rows.setdefault(has_value.tobytes(), []).append(i)
    for numbers in same_rows.values():
        samples = values[~np.isnan(values[:, numbers[0]])][:, numbers]
        first, second = np.triu_indices(len(numbers), 1)
        if not len(first) or not len(samples):
            continue
        means = bootstrap_means(samples)
        low, high = np.quantile(means[:, first] - means[:, second], [0.025, 0.975], axis=0)
        columns = np.ascontiguousarray(samples.T)
        for i, j, *ends in zip(first, second, low.tolist(), high.tolist(), strict=True):
            comparisons[numbers[i], numbers[j]] = comparison(columns[i] - columns[j], *ends)
    rest = [(i, j) for j in range(values.shape[1]) for i in range(j) if (i, j) not in comparisons]
    return comparisons | dict(zip(rest, compare_each([(values[:, i], values[:, j]) for i, j in rest]), strict=True))


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
