"""Metrics per impression: by hand, against scikit-learn and plain Python, and by their properties."""

import math
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import ndcg_score, roc_auc_score

from nrms.evaluation.metrics import METRICS, rank_metrics
from nrms.evaluation.statistics import compare_all, holm, interval, interval_of_ratios, intervals, summarise
from nrms.report.planned_comparisons import decide


def one(scores, clicked):
    """The metrics of a single impression."""
    return {k: v[0] for k, v in rank_metrics(np.array(scores, float), np.array(clicked, bool), np.array([0, len(scores)])).items()}


def slow(scores, clicked):
    """Mean over all orders of tied candidates of the textbook metrics, in plain Python."""
    best = {k: [] for k in METRICS}
    orders = {tuple(sorted(range(len(scores)), key=lambda i: (-scores[i], p[i]))) for p in permutations(range(len(scores)))}
    for order in orders:
        hits = [rank for rank, i in enumerate(order, 1) if clicked[i]]
        misses = [rank for rank, i in enumerate(order, 1) if not clicked[i]]
        best["auc"].append(sum(h < m for h in hits for m in misses) / (len(hits) * len(misses)))
        best["mrr"].append(sum(1 / h for h in hits) / len(hits))
        best["mrr_first"].append(1 / hits[0])
        for k in (5, 10):
            ideal = sum(1 / math.log2(r + 1) for r in range(1, min(k, len(hits)) + 1))
            best[f"ndcg{k}"].append(sum(1 / math.log2(h + 1) for h in hits if h <= k) / ideal)
    return {k: sum(v) / len(v) for k, v in best.items()}


def test_by_hand():
    """Clicks at ranks 1 and 3 of 4: AUC 3/4, MRR (1 + 1/3)/2, first hit 1, nDCG (1 + 1/2)/(1 + 1/log2 3)."""
    result = one([4, 3, 2, 1], [1, 0, 1, 0])
    assert result["auc"] == pytest.approx(3 / 4)
    assert result["mrr"] == pytest.approx((1 + 1 / 3) / 2)
    assert result["mrr_first"] == 1
    assert result["ndcg5"] == result["ndcg10"] == pytest.approx(1.5 / (1 + 1 / math.log2(3)))


def test_constant_scores_are_chance():
    """Equal scores: AUC 0.5, and MRR the mean of 1/rank, whatever the order of the rows."""
    for clicked in ([1, 0, 0], [0, 0, 1]):
        assert one([7, 7, 7], clicked)["auc"] == 0.5
        assert one([7, 7, 7], clicked)["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=2, max_size=6))
def test_equals_the_slow_reference(rows):
    """Every metric equals its mean over all orders of the ties, for any small impression; one-class impressions have none."""
    scores, clicked = zip(*rows, strict=True)
    result = one(scores, clicked)
    if all(clicked) or not any(clicked):
        assert all(math.isnan(v) for v in result.values())
    else:
        for name, value in slow(scores, clicked).items():
            assert result[name] == pytest.approx(value), name


@pytest.mark.parametrize("levels", [3, 1_000_000], ids=["tied", "untied"])
def test_equals_sklearn(levels):
    """AUC and nDCG of 300 impressions of 1 to 40 candidates equal scikit-learn's, ties and single candidates included."""
    rng = np.random.default_rng(0)
    size = rng.integers(1, 41, 300)
    offsets = np.r_[0, size.cumsum()]
    scores, clicked = rng.integers(0, levels, offsets[-1]).astype(float), rng.random(offsets[-1]) < 0.15
    result = rank_metrics(scores, clicked, offsets)
    for r, (a, b) in enumerate(pairwise(offsets)):
        y, s = clicked[a:b], scores[a:b]
        if y.all() or not y.any():
            assert np.isnan(result["auc"][r])
        else:
            assert result["auc"][r] == pytest.approx(roc_auc_score(y, s))
            assert result["ndcg5"][r] == pytest.approx(ndcg_score([y], [s], k=5))
            assert result["ndcg10"][r] == pytest.approx(ndcg_score([y], [s], k=10))


@given(st.lists(st.tuples(st.floats(-5, 5), st.booleans()), min_size=2, max_size=20), st.randoms())
def test_only_order_counts(rows, random):
    """Monotone transforms of the scores and permutations of the candidates change nothing; reversed scores give 1 - AUC."""
    scores, clicked = map(list, zip(*[(round(s, 2), c) for s, c in rows], strict=True))
    shuffled = list(zip(scores, clicked, strict=True))
    random.shuffle(shuffled)
    base = one(scores, clicked)
    assert base == pytest.approx(one(*zip(*shuffled, strict=True)), nan_ok=True)
    assert base == pytest.approx(one([3 * s + 7 for s in scores], clicked), nan_ok=True)
    assert base["auc"] == pytest.approx(1 - one([-s for s in scores], clicked)["auc"], nan_ok=True)


def test_a_user_offset_changes_nothing():
    """Metrics are per impression: a constant added to one user's scores, which ruins a pooled AUC, is invisible."""
    rng = np.random.default_rng(0)
    offsets = np.arange(0, 2001, 20)
    clicked = rng.random(2000) < 0.2
    scores = rng.normal(size=2000) + clicked
    moved = scores + np.repeat(rng.normal(size=100) * 10, 20)
    before, after = (rank_metrics(s, clicked, offsets) for s in (scores, moved))
    assert all(np.allclose(before[k], after[k], equal_nan=True) for k in METRICS)
    assert roc_auc_score(clicked, moved) < roc_auc_score(clicked, scores) - 0.1


def test_diverged_scores_are_refused():
    """NaN and infinity are no scores."""
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not finite"):
            one([1.0, bad], [1, 0])


def test_summary_counts_what_it_skips():
    """n and skipped add up to the impressions asked for; the mean is over n."""
    rows = {name: np.array([1.0, 0.0, np.nan, 1.0]) for name in METRICS}
    assert summarise(rows, np.array([1, 1, 1, 0], bool))["auc"] | {"low": 0, "high": 0} == {"mean": 0.5, "low": 0, "high": 0, "n": 2, "skipped": 1}


def test_interval_covers_the_truth():
    """About 95 of 100 bootstrap intervals hold the true mean."""
    rng = np.random.default_rng(1)
    held = sum(low <= 0.3 <= high for low, high in (interval((rng.random(200) < 0.3).astype(float)) for _ in range(100)))
    assert 88 <= held <= 100


def test_interval_of_ratios():
    """With ones below it is that of a mean; that of a ratio is scipy's, up to the noise of resampling; NaN where there is nothing below."""
    rng = np.random.default_rng(0)
    above, below = rng.random((60, 2)), rng.integers(0, 5, (60, 2))
    np.testing.assert_allclose(interval_of_ratios(above, np.ones((60, 2))), interval(above))
    ends = interval_of_ratios(above, below)
    ratio = {"statistic": lambda a, b: a.sum() / b.sum(), "paired": True, "vectorized": False, "method": "percentile"}
    oracle = stats.bootstrap((above[:, 0], below[:, 0]), **ratio, rng=rng).confidence_interval
    assert [ends[0][0], ends[1][0]] == pytest.approx(list(oracle), abs=0.02)
    assert np.isnan(interval_of_ratios(above, below * [0, 1])).tolist() == [[True, False]] * 2
    assert np.isnan(interval_of_ratios(above[:0], below[:0])).all()


def test_interval_equals_scipy():
    """The interval of a mean is that of scipy.stats.bootstrap, up to the noise of resampling; columns are resampled together."""
    values = np.random.default_rng(0).gamma(0.5, size=(400, 2))
    low, high = interval(values)
    oracle = stats.bootstrap((values,), np.mean, axis=0, n_resamples=2000, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    noise = 0.1 * values.std(0) / 20  # standard error of a 2.5 % quantile of 1,000 resamples, in standard errors of the mean: 0.085, of 2,000: 0.06
    assert np.all(np.abs(low - oracle.low) < 3.5 * noise) and np.all(np.abs(high - oracle.high) < 3.5 * noise)
    assert interval(values[:, 0]) == pytest.approx((low[0], high[0])) and all(np.isnan(interval(np.array([]))))


def pair(a, b, users=None, learns=(True, True)):
    """The comparison of two methods whose values are (n, S), or (n,) for one seed."""
    a, b = (np.asarray(x, float).reshape(len(x), -1) for x in (a, b))
    return compare_all([a, b], learns, np.arange(len(a)) if users is None else users)[0, 1]


def test_comparison_by_hand():
    """Three seeds of 0.1, 0.2, 0.3 against a baseline of 0: 0.2, with variance 0.01 / 3 and two degrees of freedom, t = 3.464, p = 0.074."""
    found = pair(np.tile([0.1, 0.2, 0.3], (4, 1)), np.zeros(4), learns=(True, False))
    assert (found.mean, found.seeds, found.n) == (pytest.approx(0.2), 3, 4) and found.p == pytest.approx(0.0742, abs=1e-4)
    assert (found.low, found.high) == pytest.approx((0.2 - 0.2484, 0.2 + 0.2484), abs=1e-4)
    assert found.detectable == pytest.approx((4.3027 + 1.0607) * 0.1 / 3**0.5, abs=1e-4)  # quantiles of t at 0.975 and 0.8


def test_seeds_vary_as_welch_has_it():
    """Where users do not, p is that of Welch's t-test on the means of the seeds."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.1, 0.05, 5), rng.normal(0.0, 0.01, 3)
    found = pair(np.tile(a, (6, 1)), np.tile(b, (6, 1)))
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert found.p == pytest.approx(welch.pvalue) and (found.low, found.high) == pytest.approx(tuple(welch.confidence_interval(0.95)))


def test_one_training_is_a_paired_test():
    """Where nothing learns, or there are fewer than three seeds, and each row is another user's: a paired t-test, and not of the methods."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=500)
    better = shared + 0.05 + 0.1 * rng.normal(size=500)
    oracle = stats.ttest_rel(better, shared)
    for learns, of_methods in (((True, True), False), ((True, False), False), ((False, False), True)):
        found = pair(better, shared, learns=learns)
        assert found.p == pytest.approx(oracle.pvalue) and found.is_of_methods is of_methods
        assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval(0.95)))
    same = pair(shared, shared)
    assert (same.mean, same.low, same.high, same.p, same.n) == (0.0, 0.0, 0.0, 1.0, 500)


def test_rows_of_a_user_are_one_observation():
    """What each user says three times counts once; one user alone shows nothing."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.2, 1, (40, 4)), rng.normal(0, 1, (40, 4))
    once, thrice = pair(a, b), pair(np.repeat(a, 3, 0), np.repeat(b, 3, 0), np.repeat(np.arange(40), 3))
    assert (once.p, once.low, once.high, once.n) == pytest.approx((thrice.p, thrice.low, thrice.high, thrice.n / 3))
    assert np.isnan(pair(a, b, np.zeros(40)).p)


def test_holm_by_hand():
    """0.01, 0.04, 0.03 of three: 0.03, 0.06, 0.06."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06]) and holm([]) == []


def test_many_comparisons_are_each_as_if_alone():
    """Samples of several lengths, pairs of columns with gaps in the same and in other rows, and none at all: as `interval` and a pair alone."""
    rng = np.random.default_rng(0)
    samples = [rng.normal(size=n) for n in (40, 7, 40, 0, 1)]
    np.testing.assert_allclose(intervals(samples), [interval(s) for s in samples], rtol=0, atol=1e-12)
    values, users = [rng.normal(size=(60, seeds)) for seeds in (3, 4, 1, 5, 3)], rng.integers(0, 20, 60)
    for sample in values[:3]:
        sample[3] = np.nan
    values[3][9] = values[4][:] = np.nan
    values[1][:, :3] = values[0]
    learns = [True, True, False, True, True]
    found = compare_all(values, learns, users)
    assert sorted(found) == [(i, j) for i in range(5) for j in range(i + 1, 5)]
    for (i, j), result in found.items():
        alone = pair(values[i], values[j], users, (learns[i], learns[j]))
        assert vars(result) == pytest.approx(vars(alone), abs=1e-12, nan_ok=True)
    assert found[0, 1].n == 59 and found[0, 4].n == 0 and found[0, 3].n == 58 and np.isnan(found[0, 4].p)


SEEDS_AND_USERS = [(seeds, deviations) for seeds in (3, 5) for deviations in ((0.007, 0.007), (0.012, 0.002), (0.001, 0.001), (0.007, None))]


def trial(rng, seeds, deviations, difference=0.0):
    """Rows of a test part, some of each user, as two methods rank them; None in the place of a deviation of seeds: a baseline, which has one."""
    user = np.repeat(np.arange(600), rng.integers(1, 4, 600))
    shared = 0.7 + 0.1 * rng.normal(size=600)[user] + 0.2 * rng.normal(size=len(user))
    samples = []
    for deviation, gain in zip(deviations, (difference, 0.0), strict=True):
        count = 1 if deviation is None else seeds
        rows = shared + gain + 0.01 * rng.normal(size=600)[user] + 0.03 * rng.normal(size=len(user))
        samples.append(rows[:, None] + (deviation or 0) * rng.normal(size=count) + 0.02 * rng.normal(size=(len(user), count)))
    return compare_all(samples, [deviation is not None for deviation in deviations], user)[0, 1]


@pytest.mark.parametrize(("seeds", "deviations"), SEEDS_AND_USERS)
def test_a_method_seldom_beats_itself(seeds, deviations):
    """In 1,000 comparisons of methods that do not differ, whatever their seeds do, at most 6.4 % of the pages' verdicts say that they do."""
    rng = np.random.default_rng(0)
    verdicts = [decide([trial(rng, seeds, deviations)])[0][1] for _ in range(1000)]
    assert set(verdicts) <= {"more", "less", "unclear"} and sum(v != "unclear" for v in verdicts) <= 64


def test_what_is_there_is_found():
    """A true difference of 0.02, under a deviation of seeds of 0.007 and five seeds: in 90 % of 1,000 trials alone, in 78 % as the one of three."""
    rng = np.random.default_rng(1)
    trials = [trial(rng, 5, (0.007, 0.007), 0.02) for _ in range(1000)]
    assert sum(decide([t])[0][1] == "more" for t in trials) >= 900
    assert sum(decide([t, None, None])[0][1] == "more" for t in trials) >= 780


def test_no_verdict_under_three_seeds():
    """However large the difference; and what is open or not finished counts among the headlines as if it had shown nothing."""
    rng = np.random.default_rng(0)
    two, five = trial(rng, 2, (0.007, 0.007), 0.3), trial(rng, 5, (0.007, 0.007), 0.02)
    decisions = decide([two, five, None])
    assert [verdict for _, verdict in decisions] == ["open", "more", "open"]
    assert decisions[1][0] == pytest.approx(3 * five.p)
