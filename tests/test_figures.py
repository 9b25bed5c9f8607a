"""Figures show what is in the files: each with a case whose marks are known."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.font_manager import get_font_names
from test_report import fake

from nrms.config import Experiment
from nrms.data.tables import Impressions, Ragged
from nrms.evaluation.protocols import PROTOCOLS
from nrms.evaluation.vector_diagnostics import flat_map
from nrms.report import experiment_settings, figures, figures_of_a_run, planned_comparisons, result_tables
from nrms.report.pages import interval_plot
from nrms.runtime import Run, run_folder
from nrms.runtime.files import write_json

SLATES = {"offsets": np.array([0, 2, 4, 6]), "scores": np.zeros(6), "clicked": np.array([1, 0, 0, 1, 0, 0], bool)}


def drawn(figure):
    """The figure, drawn: what matplotlib would stop at is found here. Returns the names beside its points."""
    figure.savefig(io.BytesIO(), format="png")
    return [text.get_text() for text in figure.axes[0].texts]


# one run -------------------------------------------------------------------------------------------------------------


def test_reliability_of_equal_scores():
    """Who knows nothing tells everybody an equal share, whatever the size of slates. Impressions without a click are left out."""
    table, ece = figures_of_a_run.reliability(SLATES, temperature=1.0, bins=2)
    assert table["predicted"].tolist() == [1, 1] and table["n"].tolist() == [2, 2] and table["observed"].sum() == pytest.approx(2)
    assert ece == pytest.approx((table["observed"] - 1).abs().mean())
    sizes = {"offsets": np.array([0, 2, 12]), "scores": np.zeros(12), "clicked": np.arange(12) % 10 == 0}
    assert figures_of_a_run.reliability(sizes, temperature=1.0)[0]["predicted"].tolist() == pytest.approx([1] * 10)


def test_reliability_by_hand():
    """Scores log 3 and 0 are shares of 3/4 and 1/4, of two; at a temperature of 1/2 they are 9/10 and 1/10. All clicks on the first: 1 and 0."""
    rows = {"offsets": np.array([0, 2, 4]), "scores": np.log([3.0, 1, 3, 1]), "clicked": np.array([1, 0, 1, 0], bool)}
    table, ece = figures_of_a_run.reliability(rows, temperature=1.0, bins=2)
    assert table["predicted"].tolist() == pytest.approx([0.5, 1.5]) and table["observed"].tolist() == [0, 2] and ece == pytest.approx(0.5)
    assert table[["low", "high"]].to_numpy().tolist() == [[0, 0], [2, 2]]
    assert figures_of_a_run.reliability(rows, temperature=0.5, bins=2)[1] == pytest.approx(0.2)


def test_what_draws_from_the_prediction_is_calibrated():
    """Clicks drawn from the softmax itself: ECE near 0, no bin off by more than its interval is wide; overconfident scores are found out."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 1.5, (4000, 8))
    share = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    clicked = np.arange(8) == (rng.random((4000, 1)) > share.cumsum(1)).sum(1)[:, None]
    rows = {"offsets": np.arange(0, 4001 * 8, 8), "scores": scores.ravel(), "clicked": clicked.ravel()}
    table, ece = figures_of_a_run.reliability(rows, temperature=1.0)
    assert ece < 0.08 and ((table["observed"] - table["predicted"]).abs() < table["high"] - table["low"]).all()
    assert figures_of_a_run.reliability(rows, temperature=0.4)[1] > 0.3


def test_calibration_of_a_run(home):
    """Reads the scores of rows.parquet, and says its ECE."""
    fake("exp4", 0, np.full(3, 0.7), n=3)
    run = Run(run_folder("made-up", "exp4", 0))
    run.update(config={"temperature": 1.0})
    values = Ragged(np.array([1, 2, 1, 2, 1, 2]), SLATES["offsets"])
    names = np.array(["a", "b", "c"])
    listed = pa.ListArray.from_arrays(pa.array(SLATES["offsets"], pa.int32()), pa.array(SLATES["scores"]))
    pq.write_table(pa.table({"scores": listed}), run.folder / "rows.parquet")
    figure = figures_of_a_run.calibration(run, Impressions(names, names, np.zeros(3, int), values, values, SLATES["clicked"]))
    drawn(figure)
    assert figure.axes[0].get_title() == "ECE 1.000 equal shares"  # of four candidates two are told 1 and get 2, two get nothing


def test_right_items_found_by_rank(home):
    """Ranks 1, 2 and 100: a third of them is found at once, two thirds by rank 2; by chance, among 150 items for one user and 100 for another."""
    folder = run_folder("made-up", "exp4", 0)
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"ranks": pa.array([[100.0], [1.0, 2.0]]), "history": [50, 100]}), folder / "rows.parquet")
    write_json(folder / "run.json", {"config": {"data": {"rank_seen": False}}})
    figure = figures_of_a_run.found_by_rank(Run(folder), 200)
    drawn(figure)
    x, y = figure.axes[0].lines[0].get_data()
    assert list(x) == [1, 2, 100] and y == pytest.approx([1 / 3, 2 / 3, 1])
    assert figure.axes[0].lines[1].get_ydata()[[0, -1]] == pytest.approx([(1 / 150 + 1 / 100) / 2, 1])


def history(run, lines=4, **extra):
    """history.jsonl as a run writes it."""
    for i in range(lines):
        groups = {name: {"lr": 0.1, "update_ratio": 10.0**-i, "moved": 1.0} for name in ("encoder", "head")}
        valid = {"valid": 0.5 + i / 10} if i % 2 else {}
        run.log(step=i, samples=10 * i, loss={"listwise": 1.0 - i / 10}, gradient_norm=2.0 + i, groups=groups, **valid, **extra)


def test_learning_curves(home):
    """Four panels: loss, validation with the kept step, gradient norm with the clip, movement of both groups."""
    fake("exp4", 0, np.full(10, 0.7), n=10)
    run = Run(run_folder("made-up", "exp4", 0))
    run.update(config={"objective": "listwise", "clip": 1.5}, chance=1.2, best_step=3)
    history(run)
    figure = figures_of_a_run.learning_curves(run)
    drawn(figure)
    loss, valid, norm, moved = figure.axes
    assert loss.lines[0].get_ydata().tolist() == [1.0, 0.9, 0.8, 0.7] and valid.lines[1].get_ydata().tolist() == [0.8]
    assert norm.lines[0].get_ydata().tolist() == [2, 3, 4, 5] and norm.lines[1].get_ydata()[0] == 1.5 and len(moved.lines) == 2


def test_learning_curves_of_a_run_that_learns_nothing_from_scores(home):
    """Objective none: its terms alone are drawn."""
    fake("bm3", 0, np.full(10, 0.7), n=10, protocol="sets")
    run = Run(run_folder("made-up", "bm3", 0))
    run.update(config={"objective": "none"}, chance=0.0, best_step=1)
    run.folder.joinpath("history.jsonl").write_text("")
    for step in (1, 2):
        run.log(step=step, samples=step, loss={"none": 0.0, "align": 2.0}, gradient_norm=1.0, groups={"head": {"update_ratio": 0.1}}, drift=0.1)
    drawn(figures_of_a_run.learning_curves(run))


# maps ----------------------------------------------------------------------------------------------------------------


def test_a_flat_map_is_the_plane_that_items_lie_in():
    """Items on a line, another direction and nothing else: both directions are found, with their shares of the variance."""
    rng = np.random.default_rng(0)
    far, near = rng.permutation(np.linspace(-3, 3, 50)), rng.permutation(np.linspace(-1, 1, 50))
    x = np.zeros((51, 4))
    x[1:, 2], x[1:, 0] = far, near - (near @ far) / (far @ far) * far  # apart, and not correlated
    found = flat_map(torch.from_numpy(x + 7))
    assert found["items"].tolist() == list(range(1, 51)) and found["explained"].sum() == pytest.approx(1)
    assert found["xy"][:, 0] == pytest.approx(far, abs=1e-5) and np.abs(found["xy"][:, 1]) == pytest.approx(np.abs(x[1:, 0]), abs=1e-5)


def test_a_flat_map_keeps_distances_at_most():
    """No two items are farther apart than they are; the same items, twice, are the same map; few items and few dimensions are a map, too."""
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    found, again = flat_map(x), flat_map(x)
    flat, whole = torch.pdist(torch.from_numpy(found["xy"])), torch.pdist(x[1:])
    assert (flat <= whole + 1e-4).all() and (found["xy"] == again["xy"]).all() and (np.diff(found["explained"]) <= 0).all()
    assert flat_map(torch.zeros(2, 1))["xy"].tolist() == [[0, 0]]


def test_many_items_are_drawn_from(monkeypatch):
    """At most MOST of them, each once."""
    monkeypatch.setattr("nrms.evaluation.vector_diagnostics.MAX_ITEMS_COMPARED", 10)
    found = flat_map(torch.randn(100, 3))
    assert len(found["items"]) == 10 == len(set(found["items"])) and 0 not in found["items"]


def test_the_map_of_a_run(home):
    """The most frequent categories have a colour and a marker of their own, the others are grey; names are text."""
    folder = run_folder("made-up", "exp4", 0)
    folder.mkdir(parents=True)
    n = 40
    np.savez(folder / "map.npz", items=np.arange(1, n + 1), xy=np.random.default_rng(0).normal(size=(n, 2)), explained=np.array([0.6, 0.1]))
    category = np.array(["", *(f"$\\frac{{{i % 12}" for i in range(n))], object)
    figure = figures_of_a_run.item_map(Run(folder), category)
    drawn(figure)
    lines = figure.axes[0].lines
    assert len(lines) == 9 and len({line.get_marker() for line in lines}) == 9 and sum(len(line.get_xdata()) for line in lines) == n
    assert "60 % of the variance" in figure.axes[0].get_xlabel()
    drawn(figures_of_a_run.item_map(Run(folder), np.array([""] * (n + 1), object)))


# all experiments -----------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1, 1), max_size=30), st.floats(0.001, 0.3))
@settings(max_examples=60, deadline=None)
def test_labels_do_not_collide(values, gap):
    """At least `gap` apart, in the order of the values, and where they are where nothing is near."""
    place = figures.spread_labels(np.array(values), gap)
    order = np.argsort(values, kind="stable")
    assert (np.diff(place[order]) >= gap - 1e-9).all() and len(place) == len(values)
    assert figures.spread_labels(np.array([0.0, 1.0]), 0.5).tolist() == [0, 1] and figures.spread_labels(
        np.array([0.5, 0.5]), 0.2
    ).tolist() == pytest.approx([0.4, 0.6])


@pytest.mark.parametrize("count", [1, 3, 40])
def test_cost_and_ranking_of_any_number_of_experiments(home, count):
    """Every experiment has its name once in each panel; ceilings and the best baseline are lines, the other baselines are not."""
    rng = np.random.default_rng(0)
    base = rng.random(30) * 0.3
    fake("ceiling", 0, base + 0.6, "ceiling", n=30)
    fake("content", 0, base + 0.2, "baseline", n=30)
    fake("random", 0, base, "baseline", n=30)
    for i in range(count):
        fake(f"exp{i}", 0, base + 0.3 + 0.01 * (i % 3), n=30)
        Run(run_folder("made-up", f"exp{i}", 0)).update(minutes=0.0 if i == 0 else float(i), trainable=1000 * i)
    figure = figures.cost("made-up")
    assert sorted(drawn(figure)) == sorted([*(f"exp{i}" for i in range(count)), "ceiling", "content"])
    levels = result_tables.levels(result_tables.leaderboard("made-up"), "auc").set_index("exp")
    assert list(levels.index) == ["ceiling", "content"] and levels.loc["content", "auc"] == pytest.approx(base.mean() + 0.2)
    ranking = figures.ranking("made-up")
    drawn(ranking)
    assert ranking.axes[0].get_yticklabels()[0].get_text() == "ceiling"


def test_cost_of_weights_from_elsewhere(home):
    """Who has no minutes is in no panel that needs them; a panel that nobody is in says so."""
    base = np.random.default_rng(0).random(30) * 0.3
    for exp, value in (("exp1", 0.1), ("exp2", 0.2)):
        fake(exp, 0, base + value, n=30)
        Run(run_folder("made-up", exp, 0)).update(minutes=None, trainable=None)
    figure = figures.cost("made-up")
    assert drawn(figure) == [] and figure.axes[0].get_xlabel() == "minutes of training: not known of any experiment"
    Run(run_folder("made-up", "exp1", 0)).update(minutes=3.0)
    figure = figures.cost("made-up")
    assert drawn(figure) == ["exp1"] and not figure.axes[1].texts


def test_rows_without_a_value_are_not_drawn(home):
    """Where nothing can be judged there is a sentence in the place of dots; beside others such a row is left out."""
    fake("exp1", 0, np.full(30, np.nan), n=30)
    protocol = PROTOCOLS["impressions"]
    assert interval_plot.panel(result_tables.leaderboard("made-up"), protocol) == "<p>No finished run has a value of AUC.</p>"
    drawn(figures.cost("made-up"))
    drawn(figures.ranking("made-up"))
    fake("exp2", 0, np.linspace(0, 1, 30), n=30)
    assert interval_plot.panel(result_tables.leaderboard("made-up"), protocol).count("<circle") == 1


def test_contrasts_name_every_setting_that_differs(home):
    """What a comparison is named for, beside what differs in the runs' own records; names, seeds and data do not count."""
    base = np.random.default_rng(0).random(50) * 0.3
    fake("content", 0, base, "baseline", n=50)
    for exp, config in (
        ("exp4", {"exp": "exp4", "tuning": "full", "lr": 0.1, "seed": 0}),
        ("text_frozen", {"exp": "text_frozen", "tuning": "frozen", "lr": 0.1, "seed": 1}),
        ("exp3_gate", {"exp": "exp3_gate", "tuning": "full", "lr": 0.2, "image": "vit", "seed": 0}),
    ):
        fake(exp, 0, base + 0.1, n=50)
        Run(run_folder("made-up", exp, 0)).update(config=config)
    table = experiment_settings.contrasts("made-up", planned_comparisons.differences("made-up")).data
    assert table.loc["exp4 against text_frozen", "differs in"] == "tuning: full against frozen"
    assert table.loc["exp4 against text_frozen", "what it can show"] == "this one setting; of one draw of the weights"
    assert table.loc["exp3_gate against exp4", "differs in"] == "image: vit against None; lr: 0.2 against 0.1"
    assert table.loc["exp3_gate against exp4", "what it can show"].startswith("these 2 settings together, not which of them")
    assert table.loc["text_frozen against content", "what it can show"].startswith("whether it is worth training at all")
    assert json.loads(json.dumps(experiment_settings.differing_settings({"a": 1}, {"a": 1, "exp": "x"}))) == {}
    assert "No planned comparison" in experiment_settings.contrasts("made-up", [])


def test_a_record_without_a_setting_has_its_default():
    """An experiment that was run before a setting was there does not differ in it, unless the other departs from the default."""
    assert experiment_settings.differing_settings({"lr": 1}, {"lr": 1, "clip": Experiment.model_fields["clip"].default}) == {}
    assert experiment_settings.differing_settings({"lr": 1}, {"lr": 1, "clip": 77.0}) == {"clip": (Experiment.model_fields["clip"].default, 77.0)}


def test_an_average_of_runs_is_a_case_of_its_own(home):
    """It has no settings that could differ: the runs it is made of are named instead."""
    base = np.random.default_rng(0).random(50) * 0.3
    for exp, config in (("lightgcn_all", {"lr": 0.1}), ("ensemble", {"given": {"of": "lightgcn + lightgcn_image + lightgcn_text"}})):
        fake(exp, 0, base + 0.1, n=50, protocol="sets")
        Run(run_folder("made-up", exp, 0)).update(config=config)
    line = experiment_settings.contrasts("made-up", planned_comparisons.differences("made-up")).data.loc["lightgcn_all against ensemble"]
    assert line["differs in"] == "an average of runs: lightgcn + lightgcn_image + lightgcn_text"
    assert line["what it can show"].startswith("whether learning together")


def test_titles_without_spaces_stand_above_their_pictures():
    """They are cut by characters, at most four lines; a font that is not there is not asked for."""
    image = np.zeros((4, 4, 3), np.uint8)
    title = figures.pictures({"国" * 200: image}).axes[0].get_title()
    assert max(map(len, title.split("\n"))) <= 22 and len(title.split("\n")) == 4 and title.endswith("…")
    assert set(figures.FAMILY[1:]) <= set(get_font_names())


@pytest.mark.skipif(len(figures.FAMILY) == 1, reason="no font here has Chinese glyphs")
@pytest.mark.filterwarnings("error")
def test_chinese_is_drawn():
    """No glyph is missing, in titles or in legends."""
    figure = figures.pictures({"新闻推荐 and news": np.zeros((4, 4, 3), np.uint8)})
    figure.axes[0].plot([0, 1], label="体育")
    figure.axes[0].legend()
    drawn(figure)
