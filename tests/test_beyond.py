"""Beyond accuracy: by hand, against plain loops, by their properties, and from run folders to tables and a figure."""

import json
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from test_report import fake

from nrms import report
from nrms.data.tables import Impressions, Interactions, Ragged
from nrms.evaluate import evaluate, evaluate_references
from nrms.evaluation.beyond_accuracy import (
    Known,
    average,
    beyond,
    category_diversity,
    content_diversity,
    gini,
    information,
    known_items,
    miscalibration,
    per_list,
    percentile,
    spread,
)
from nrms.evaluation.protocols import BEYOND, PROTOCOLS
from nrms.evaluation.ranking import rank_catalogue
from nrms.evaluation.scores_and_ranks import SLATE, CatalogueRanks, SlateScores
from nrms.evaluation.slices import slices
from nrms.evaluation.training_items import takers
from nrms.report import figures
from nrms.runtime import Run, run_folder
from nrms.runtime.files import write_json
from nrms.train import train


def ragged(rows):
    return Ragged(np.array([x for row in rows for x in row], np.int32), np.cumsum([0, *map(len, rows)]))


def shown(candidates, history=None, clicked=None, user=None):
    """Impressions with these candidates; nobody has a history and nothing is clicked unless it is said."""
    n = len(candidates)
    flags = np.array([x for row in clicked for x in row], bool) if clicked else np.zeros(sum(map(len, candidates)), bool)
    name = np.array(user or [f"u{i}" for i in range(n)])
    return Impressions(np.arange(n).astype(str), name, np.arange(n), ragged(history or [[]] * n), ragged(candidates), flags)


# by hand -------------------------------------------------------------------------------------------------------------


def test_category_diversity():
    """Of a, a, b, c and one without a category, five of six pairs differ; one item with a category has no pairs."""
    category = np.array([-1, 0, 0, 1, 2, -1])
    assert category_diversity(np.array([[1, 2, 3, 4, 5], [1, 3, 0, 0, 0], [1, 2, 0, 0, 0]]), category).tolist() == pytest.approx([5 / 6, 1, 0])
    assert np.isnan(category_diversity(np.array([[1, 5, 0, 0, 0], [0, 0, 0, 0, 0]]), category)).all()


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_content_diversity(kind):
    """Two equal texts and one at right angles: (0 + 1 + 1) / 3; opposite vectors 2; an item without text is in no pair."""
    content = kind(np.array([[0, 0], [1, 0], [1, 0], [0, 1], [-1, 0], [0, 0]], float))
    lists = np.array([[1, 2, 3, 0], [1, 4, 5, 0], [1, 2, 0, 0], [1, 5, 0, 0]])
    for batch in (1, 3, 4096):
        found = content_diversity(lists, content, batch)
        assert found[:3].tolist() == pytest.approx([2 / 3, 2, 0]) and np.isnan(found[3])


def test_information():
    """Of three users: what all took tells 0 bits, what one took 1, what nobody took 2."""
    assert information(np.array([0, 3, 1, 0]), 3)[1:].tolist() == [0, 1, 2]


def test_percentile():
    """Of four items, two that nobody took share the lower half; padding is no item."""
    assert percentile(np.array([99, 0, 2, 0, 5])).tolist() == [0, 0.25, 0.625, 0.25, 0.875]


def test_miscalibration():
    """The user's mixture 0; half and half against three quarters and one; none of the user's categories -ln 0.01; no history, no number."""
    category = np.array([-1, 0, 0, 0, 1, 1, 2, -1])
    lists = np.array([[2, 5, 0, 0], [1, 2, 3, 4], [6, 0, 0, 0], [1, 2, 3, 4], [1, 7, 0, 0], [7, 0, 0, 0]])
    found = miscalibration(lists, ragged([[1, 4], [1, 4, 7], [1, 4], [], [7], [1]]), category)
    expected = 0.5 * math.log(0.5 / (0.99 * 0.75 + 0.005)) + 0.5 * math.log(0.5 / (0.99 * 0.25 + 0.005))
    assert found[:3].tolist() == pytest.approx([0, expected, -math.log(0.01)]) and np.isnan(found[3:]).all()


def test_gini():
    """Equal counts 0; one of three has all 2/3; counts 0, 1, 3 by the mean difference: (1 + 3 + 2) / (3 * 4) = 1/2."""
    assert gini(np.array([2, 2, 2])) == pytest.approx(0) and gini(np.array([0, 4, 0])) == pytest.approx(2 / 3)
    assert gini(np.array([3, 0, 1])) == pytest.approx(0.5)


def test_spread():
    """Of four items that could be shown two are; without a list there is nothing to say."""
    found = spread(np.array([[1, 2], [1, 0], [0, 0]]), np.array([False, True, True, True, True, False]))
    assert found == {"coverage": 0.5, "gini": pytest.approx((2 * (3 * 1 + 4 * 2) / (4 * 3)) - 5 / 4), "lists": 2}
    assert spread(np.zeros((3, 2), int), np.zeros(4, bool)) == {"coverage": None, "gini": None, "lists": 0}


def test_popularity_shift():
    """The list's mean percentile minus that of the history, all of it; NaN without one."""
    items = Known(np.array([-1, 0, 0, 0, 0]), np.eye(5), np.array([0, 0, 0, 2, 5]), 9)
    found = per_list(np.array([[3, 4], [4, 0]]), ragged([[1, 2, 3], []]), items)
    assert found["popularity"].tolist() == [0.75, 0.875]
    assert found["popularity_shift"][0] == pytest.approx(0.75 - (0.25 + 0.25 + 0.625) / 3) and np.isnan(found["popularity_shift"][1])


def test_who_took_what():
    """A user counts once, for clicks and histories alike; what was shown alone is not taken; of a log likewise."""
    train = shown([[1, 2], [2, 3], [4]], [[5, 5], [5], []], [[1, 0], [0, 1], [0]], ["a", "a", "b"])
    count, users = takers(train, 7)
    assert count.tolist() == [0, 1, 0, 1, 0, 1, 0] and users == 1
    count, users = takers(Interactions(np.array(["a", "b", "c"]), ragged([[1, 1, 2], [2], []]), np.zeros(4, int)), 4)
    assert count.tolist() == [0, 1, 2, 0] and users == 2


# lists ---------------------------------------------------------------------------------------------------------------


def test_lists_of_slates():
    """The five best of a slate that has more; one that has five or fewer leaves nothing to choose and has no list."""
    test = shown([[9, 8, 7, 6, 5, 4], [1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 8, 9]])
    scores = np.array([1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1, 0, 9, 8, 7, 6, 5, -1], float)
    assert SlateScores(test, scores).lists().tolist() == [[4, 5, 6, 7, 8], [0] * 5, [4, 5, 6, 7, 8]]


def test_ties_are_drawn():
    """Equal scores: every candidate is in about half of the lists of ten, wherever it stands; drawn once, the same for all rankers."""
    test = shown([list(range(1, 11))] * 4000)
    lists = SlateScores(test, np.zeros(40000)).lists()
    share = np.bincount(lists.ravel(), minlength=11)[1:] / 4000
    assert (abs(share - 0.5) < 0.04).all() and (lists == SlateScores(test, np.ones(40000)).lists()).all()


def test_no_list_holds_what_was_left_out():
    """A catalogue of which too little is left gives a shorter list: neither padding nor what the user had before."""
    part = shown([[3], [1]], [[1, 2], [4]], [[1], [1]])
    found = rank_catalogue(lambda rows: torch.tensor([[9.0, 5, 4, 3, 2]]).repeat(len(rows), 1), part, 5, top=10)
    assert found.lists().tolist() == [[3, 4, 0, 0], [1, 2, 3, 0]]


# plain loops, and properties -----------------------------------------------------------------------------------------


@st.composite
def worlds(draw):
    """(lists, history, Known) of a few items, some without category or text, and lists of different items, some short or empty."""
    size = draw(st.integers(3, 9))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    content = rng.normal(size=(size, 2)) * (rng.random((size, 1)) < 0.8)
    content /= np.maximum(np.linalg.norm(content, axis=1, keepdims=True), 1e-12)
    items = Known(np.r_[-1, rng.integers(-1, 3, size - 1)], content, np.r_[0, rng.integers(0, 5, size - 1)], 5)
    n, k = draw(st.integers(1, 5)), min(4, size - 1)
    lists = np.array([rng.permutation(np.arange(1, size))[:k] * (np.arange(k) < rng.integers(0, k + 1)) for _ in range(n)])
    return lists, [rng.integers(1, size, rng.integers(0, 5)).tolist() for _ in range(n)], items


def mean(values):
    return sum(values) / len(values) if values else math.nan


def slow(row, past, items):
    """The values of one list in plain Python."""
    row, size = [i for i in row if i], len(items.takers)
    pairs = list(combinations(row, 2))
    with_text = [(i, j) for i, j in pairs if items.content[i].any() and items.content[j].any()]
    rank = {i: mean([(items.takers[j] < items.takers[i]) + (items.takers[j] == items.takers[i]) / 2 for j in range(1, size)]) for i in range(1, size)}
    ours, theirs = ([items.category[i] for i in some if items.category[i] >= 0] for some in (row, past))
    kl = 0.0
    for c in set(theirs):
        p, q = theirs.count(c) / len(theirs), ours.count(c) / max(len(ours), 1)
        kl += p * math.log(p / (0.99 * q + 0.01 * p))
    return {
        "diversity": mean([float(items.category[i] != items.category[j]) for i, j in pairs if items.category[i] >= 0 and items.category[j] >= 0]),
        "content_diversity": mean([1 - items.content[i] @ items.content[j] for i, j in with_text]),
        "novelty": mean([-math.log2((items.takers[i] + 1) / (items.users + 1)) for i in row]),
        "miscalibration": kl if ours and theirs else math.nan,
        "popularity": mean([rank[i] for i in row]),
        "popularity_shift": mean([rank[i] for i in row]) - mean([rank[i] for i in past]),
    }


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_equals_plain_loops(world):
    """Every value of every list is that of loops over its items and pairs, NaN where they find none."""
    lists, history, items = world
    found = per_list(lists, ragged(history), items)
    assert {*found, "coverage", "gini"} == set(BEYOND)
    for r, (row, past) in enumerate(zip(lists.tolist(), history, strict=True)):
        assert {name: values[r] for name, values in found.items()} == pytest.approx(slow(row, past, items), nan_ok=True, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(worlds(), st.integers(0, 99))
def test_order_and_names_do_not_matter(world, seed):
    """The same whatever the order of a list or a history, and whatever numbers the categories have; and all within their ranges."""
    lists, history, items = world
    rng = np.random.default_rng(seed)
    found = per_list(lists, ragged(history), items)
    names = np.r_[rng.permutation([4, 0, 7]), -1]
    other = Known(names[items.category], sparse.csr_matrix(items.content), items.takers, items.users)
    again = per_list(rng.permuted(lists, axis=1), ragged([rng.permutation(past).tolist() for past in history]), other)
    ranges = dict.fromkeys(BEYOND, (0, 1)) | {"content_diversity": (0, 2), "novelty": (0, math.log2(6)), "miscalibration": (0, -math.log(0.01))}
    ranges["popularity_shift"] = (-1, 1)
    for name, values in found.items():
        assert again[name] == pytest.approx(values, nan_ok=True)
        kept = values[~np.isnan(values)]
        assert ((kept >= ranges[name][0] - 1e-12) & (kept <= ranges[name][1] + 1e-12)).all()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any))
def test_gini_is_half_the_relative_mean_difference(counts):
    """The mean absolute difference of all pairs over twice the mean, in 0 to 1."""
    expected = sum(abs(a - b) for a in counts for b in counts) / (2 * len(counts) * sum(counts))
    assert gini(np.array(counts)) == pytest.approx(expected, abs=1e-12) and -1e-12 <= expected <= 1


# summaries -----------------------------------------------------------------------------------------------------------


def test_each_mean_is_over_its_own_lists():
    """A list without one value still counts for another; n says how many; the interval holds the mean; nothing gives nothing."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    y, none = np.where(np.arange(400) < 100, np.nan, x), np.full(400, np.nan)
    found = average({"x": x, "y": y, "none": none})
    assert [v["n"] for v in found.values()] == [400, 300, 0] and found["none"] == {"mean": None, "low": None, "high": None, "n": 0}
    for name, values in (("x", x), ("y", y[100:])):
        half = 1.96 * values.std() / len(values) ** 0.5
        assert found[name]["mean"] == pytest.approx(values.mean())
        assert (found[name]["low"], found[name]["high"]) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.2 * half)
    assert average({"x": none})["x"]["mean"] is None


def test_a_slice_has_its_own_items_that_could_be_shown():
    """Coverage is over candidates of those slates of the slice that have a list; a slice without an impression is left out."""
    test = shown([[1, 2, 3, 4, 5, 6], [1, 2, 3, 7, 8, 9, 10], [11, 12]], [[1], [], [2]])
    items = Known(np.r_[-1, np.arange(12) % 2], np.zeros((13, 1)), np.zeros(13, int), 1)
    parts = {"all": np.ones(3, bool), "first": np.arange(3) == 0, "short": np.arange(3) == 2, "none": np.zeros(3, bool)}
    found = beyond(items, SlateScores(test, np.arange(15.0)), parts)
    assert list(found) == ["all", "first", "short"] and [f["lists"] for f in found.values()] == [2, 1, 0]
    assert found["all"]["coverage"] == 9 / 10 and found["first"]["coverage"] == 5 / 6 and found["short"]["coverage"] is None
    assert found["all"]["content_diversity"]["n"] == 0 and found["all"]["diversity"]["n"] == 2 and found["all"]["miscalibration"]["n"] == 1
    ranks = CatalogueRanks(shown([[1], [2]]), np.zeros(2, int), np.zeros(2, int), np.array([[3, 4], [3, 5]]), PROTOCOLS["catalogue"])
    whole = beyond(items, ranks, {"all": np.ones(2, bool)})["all"]
    assert whole["coverage"] == 3 / 12 and whole["lists"] == 2
    json.dumps(found, allow_nan=False)


# from runs to tables -------------------------------------------------------------------------------------------------


def read(run):
    return json.loads((run.folder / "beyond.json").read_text())


def test_impressions_have_them_and_the_report_shows_them(place, config, tiny):
    """Baselines and ceilings of the tiny world: one file each, slice by slice; shown with definitions; what was judged before is judged again."""
    references, test = evaluate_references(config), tiny.split(config.data).test
    parts, long = slices(tiny, tiny.split(config.data)), np.count_nonzero(test.candidates.lengths > SLATE)
    found = read(references[0])
    assert set(found) == {name for name, where in parts.items() if where.any()} and set(found["all"]) == {*BEYOND, "lists"}
    assert found["all"]["lists"] == found["all"]["novelty"]["n"] == long
    table = report.beyond("newsroom-tiny")
    assert set(table.index) == {run.folder.parent.name for run in references} and (table["lists"] == f"{long:,}").all()
    assert table.loc["random", "coverage"] == f"{found['all']['coverage']:.3f}" and not (table == "").any().any()
    by_name = {name: table[label].astype(float) for name, (label, _) in BEYOND.items()}
    assert by_name["novelty"].idxmin() == by_name["popularity"].idxmax() == "popularity"  # what most took is least new
    assert by_name["content_diversity"]["content"] < by_name["content_diversity"]["random"]
    text = report.beyond_meanings()
    assert all(f"**{label}**" in text for label in table.columns if label != "kind")
    assert len(figures.beyond("newsroom-tiny").axes) == len(BEYOND)  # the main metric, and all of them but one

    (references[0].folder / "beyond.json").unlink()
    table = report.beyond("newsroom-tiny")
    assert (table.loc["random"].drop("kind") == "").all() and (table.drop(index="random") != "").all().all()
    assert report.beyond_slices(references[0]).empty and len(figures.beyond("newsroom-tiny").axes) == len(BEYOND)
    assert read(evaluate_references(config)[0]) == found


def test_a_catalogue_has_them_too(movies):
    """A model and the baselines of a log: a list for every question, slice by slice, out of all items."""
    config, tables = movies("idrec_sasrec", epochs=1, name="lists")
    train(config)
    run, split = evaluate(config), tables.split(config.data)
    for one in [run, *evaluate_references(config)]:
        assert read(one)["all"]["lists"] == len(split.test) and 0 < read(one)["all"]["coverage"] <= 1
    assert run.status == "done" and report.beyond("movies", run).loc["lists", "lists"] == f"{len(split.test):,}"
    sliced = report.beyond_slices(run)
    assert list(sliced.index) == list(read(run)) and sliced.loc["all", "novelty, bits"].startswith(f"{read(run)['all']['novelty']['mean']:.3f} [")
    assert known_items(tables, split).takers.sum() == sum(len(set(split.train.items[u])) for u in range(len(split.train)))


def made_up(exp, seed, diversity, kind="model"):
    fake(exp, seed, np.full(200, 0.6), kind)
    values = {"mean": diversity, "low": diversity - 0.1, "high": diversity + 0.1, "n": 7} if diversity is not None else None
    none = {"mean": None, "low": None, "high": None, "n": 0}
    metrics = {name: none for name in BEYOND if name not in ("coverage", "gini")} | {"diversity": values, "coverage": 0.25, "gini": None, "lists": 7}
    if diversity is not None:
        write_json(run_folder("made-up", exp, seed) / "beyond.json", {"all": metrics})


def test_means_over_seeds(home):
    """Seeds are averaged; what no row has is no column; a row of which a seed has no numbers is empty; another model's run is left out on demand."""
    made_up("exp1", 0, 0.4)
    made_up("exp1", 1, 0.6)
    made_up("exp2", 0, 0.3)
    made_up("exp2", 1, None)
    made_up("random", 0, 0.9, "baseline")
    table = report.beyond("made-up")
    assert table.columns.tolist() == ["kind", "lists", "diversity", "coverage"] and table.loc["exp1"].tolist() == ["model", "7", "0.500", "0.250"]
    assert table.loc["exp2"].tolist() == ["model", "", "", ""] and table.loc["random", "diversity"] == "0.900"
    assert list(report.beyond("made-up", Run(run_folder("made-up", "exp1", 0))).index) == ["exp1", "random"]
    assert report.beyond_slices(Run(run_folder("made-up", "exp1", 0))).loc["all"].tolist() == ["7", "0.400 [0.300, 0.500]", "0.250"]
    figure = figures.beyond("made-up")
    assert [ax.get_title() for ax in figure.axes] == ["AUC", "diversity", "coverage"]
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "AUC: 95 % interval;\nthe others: mean over\nseeds of their 95 % intervals" in named  # the ends' mean is no interval of the mean


def test_without_runs(home):
    """Nothing there: an empty table, and a figure that says so."""
    assert report.beyond("made-up").empty and figures.beyond("made-up").axes[0].get_xlabel().startswith("No finished row")


def test_a_new_run_begins_without_those_of_the_last(home):
    """A run that begins anew removes what an earlier one wrote."""
    made_up("exp1", 0, 0.4)
    run = Run(run_folder("made-up", "exp1", 0))
    run.begin(kind="model")
    assert not (run.folder / "beyond.json").exists()
