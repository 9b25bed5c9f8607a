"""The benchmark compares like with like: the plain ways give our results."""

import numpy as np
import pytest
import torch

from nrms import bench
from nrms.bench import measurements, ordinary_way, scaling
from nrms.config import resolve
from nrms.data.prepare import load
from nrms.data.samplers import ClickSampler
from nrms.data.tables import Impressions, Ragged
from nrms.evaluation.metrics import rank_metrics
from nrms.evaluation.ranking import rank_catalogue
from nrms.models.build import build
from nrms.report import figures_of_benchmark


def test_plain_steps_have_our_loss_and_gradients(tiny, split):
    """Every place encoded, padded, in slices of rows: the same loss and the same gradients, to 1e-5."""
    torch.manual_seed(0)
    model = build(resolve(4, "newsroom-tiny", device="cpu", dropout=0.0), tiny)
    batch = next(ClickSampler(split.train, batch_size=40, negatives=4, history=50, seed=0).epoch(0))
    found = []
    for step in (ordinary_way.plain_step, measurements.our_step):
        model.zero_grad()
        found.append((step(model, batch), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_plain_metrics_are_ours(split):
    """scikit-learn, impression by impression, gives our means."""
    test = split.test
    scores = np.random.default_rng(0).random(len(test.clicked))
    ours = rank_metrics(scores, test.clicked, test.candidates.offsets)
    assert ordinary_way.plain_metrics(scores, test.clicked, test.candidates.offsets) == pytest.approx(
        sum(np.nanmean(ours[name]) for name in ("auc", "ndcg5", "ndcg10"))
    )


def test_plain_reading_finds_as_many_candidates(tiny):
    """Line by line with pandas there are as many candidates as in our table."""
    train = tiny.parts["train"]
    assert ordinary_way.plain_reading(tiny.folder / "raw" / "train" / "behaviors.tsv", 10**6) == len(train.candidates.values)


def test_plain_ranks_are_ours():
    """Sorting all scores of a user gives the rank that we count, where nothing is left out and no two scores are equal."""
    rng = np.random.default_rng(0)
    states, items = (torch.from_numpy(rng.standard_normal((n, 8), dtype=np.float32)) for n in (20, 60))
    right = rng.integers(1, 60, 20).astype(np.int32)
    asked = Impressions(*(np.arange(20),) * 3, Ragged(right[:0], np.zeros(21, int)), Ragged(right, np.arange(21)), np.ones(20, bool))
    ours = rank_catalogue(lambda rows: states[rows] @ items.T, asked, 60)
    assert ordinary_way.plain_ranks(states, items, right).tolist() == (ours.better + 1).tolist() and not ours.tied.any()


def test_what_would_take_too_long_is_left_out(monkeypatch):
    """k-means with half as many clusters as vectors is measured up to a number of items, the rest at all of them."""
    monkeypatch.setattr(scaling, "MAX_ITEMS", {"kmeans, ratio 0.5": 50})
    monkeypatch.setattr(scaling, "WORK", {name: scaling.WORK[name] for name in ("kmeans, ratio 0.5", "propagation")})
    assert [line["items"] for line in scaling.measure_growth((50, 60))] == [50, 50, 60]


def test_the_benchmark_runs(place):
    """On the smallest world with a tiny encoder: every measurement is there, ratios are positive, results are kept, the figure is drawn."""
    results = bench.run("newsroom-tiny", layers=1, width=64, sizes=(16,), repeats=2, copies=(1, 3), steps=2, catalogue=(50, 90), growth=(60, 120))
    assert bench.latest("newsroom-tiny") == results and bench.latest("newsroom") is None and load("newsroom-tiny", resolve(4, "newsroom-tiny").data)
    summary = bench.summary(results)
    assert len(summary) == 4 and (summary["low"] <= summary["ratio"]).all() and (summary["ratio"] > 0).all()
    assert (
        bench.answer(results).startswith(f"**Training step, batch 16: {summary['ratio'].iloc[0]:.1f} times as fast (")
        and bench.answer(results).count(";") == 3
    )
    axes = figures_of_benchmark.benchmark(results).axes
    assert len(axes) == 6 and any(set(scaling.WORK) <= set(ax.get_legend_handles_labels()[1]) for ax in axes)
    costs = bench.costs(results)["cost"]
    assert {(line["what"], line["items"]) for line in results["growth"]} == {(what, n) for what in scaling.WORK for n in (60, 120)}
    assert "epoch of exp3_side from cached features, batch 64, width 256" in costs and "epoch of exp3, batch 16, by reader" in costs
    one, three = results["preparation"]
    assert three["rows"] - one["rows"] == 2 * 1200 and three["news"] == 3 * one["news"] and one["peak_mb"] > 0
