"""Answers are computed: planned comparisons, paired, corrected; and what the original's evaluator would have said."""

import re

import numpy as np
import pandas as pd
import pytest
from test_report import fake

from nrms.evaluation.metrics import METRICS, rank_metrics
from nrms.report import original_thesis, planned_comparisons, research_questions
from nrms.report.original_thesis import misread, two_evaluators
from nrms.runtime import notebook_output


@pytest.fixture
def runs(home):
    """Text alone, gated pictures that help by 0.1, shuffled ones that do not, frozen ones below; three seeds of some."""
    rng = np.random.default_rng(0)
    base = 0.3 + 0.3 * rng.random(400)
    fake("content", 0, base - 0.1, "baseline", n=400)
    fake("random", 0, base - 0.2, "baseline", n=400)
    for seed in range(3):
        fake("exp4", seed, base + rng.normal(0, 0.02, 400), n=400)
        fake("exp3_gate", seed, base + 0.1 + rng.normal(0, 0.02, 400), n=400)
        fake("exp2", seed, base - 0.05 + 0.001 * seed, n=400)
    fake("shuffled_images", 0, base + rng.normal(0, 0.3, 400), n=400)
    fake("exp2_gate", 0, base - 0.05, n=400)
    return base


def test_differences_are_decided_by_headlines(runs):
    """A comparison appears once both sides are finished; the first three of a question have a verdict, by Holm's p, if there are seeds enough."""
    found = {(d.exp, d.other): d for d in planned_comparisons.differences("made-up")}
    verdicts = {pair: d.verdict for pair, d in found.items()}
    assert verdicts == {
        **{("exp2", "content"): "more", ("exp2_gate", "content"): "explored", ("exp2_gate", "exp2"): "explored"},
        **{("exp3_gate", "exp2_gate"): "open", ("exp3_gate", "exp4"): "more", ("exp3_gate", "shuffled_images"): "open"},
        ("shuffled_images", "exp4"): "explored",
    }
    gate = found["exp3_gate", "exp4"]
    assert gate.mean == pytest.approx(0.1, abs=0.01) and gate.low < gate.mean < gate.high and len(gate.by_seed) == 3
    assert found["exp2_gate", "content"].by_seed == () and gate.corrected == pytest.approx(3 * gate.p) and gate.minutes == {}
    assert found["exp3_gate", "exp2_gate"].minutes == {"exp2_gate": 3.0}, "two more seeds of 1.5 minutes"


def test_sentences_follow_the_runs(runs):
    """What is shown, what has too few seeds with the command that changes it, what was explored, and `not answered` where nothing is run."""
    found = planned_comparisons.differences("made-up")
    frozen, tuned, images = (planned_comparisons.answer(q, found) for q in research_questions.NEWS)
    size = {(d.exp, d.other): f"{d.mean:+.3f}" for d in found}
    assert f"1 of 1 frozen encoders beat the best baseline (exp2 {size['exp2', 'content']})." in frozen
    assert "- exp2_gate against content" in frozen and "explored, of these trainings alone" in frozen
    assert tuned.startswith(
        f"**{research_questions.TUNING}** No verdict under 3 seeds, these trainings alone: exp3_gate {size['exp3_gate', 'exp2_gate']};"
    )
    assert "`python -m nrms run exp2_gate --dataset made-up --seeds 0 1 2` gives one, in about 3 minutes of training" in tuned
    assert f"1 of 1 comparisons find pictures a gain (exp3_gate against exp4 {size['exp3_gate', 'exp4']});" in images
    assert "same sign in 3 of 3 seeds" in images
    assert "Not answered" in planned_comparisons.answer(research_questions.IMAGES, [])


def test_the_table_of_comparisons_can_be_shown(runs):
    """One row for each comparison, its texts whole."""
    found = planned_comparisons.differences("made-up")
    assert (
        len(planned_comparisons.table(found)) == len(found)
        and "pictures that changed places" in notebook_output.readable(planned_comparisons.table(found)).to_html()
    )


def test_worse_and_unclear_are_said(home):
    """A frozen encoder below the baseline, and images that hurt, are named as worse; what differs by chance alone is no difference shown."""
    rng = np.random.default_rng(0)
    base = 0.3 + 0.3 * rng.random(300)
    fake("content", 0, base, "baseline", n=300)
    for seed in range(3):
        fake("exp2", seed, base - 0.1 + 0.001 * seed, n=300)
        fake("exp4", seed, base + 0.2 - 0.001 * seed, n=300)
        fake("exp3", seed, base + 0.1 + 0.001 * seed, n=300)
        fake("text_frozen", seed, base + 0.05 * (seed - 1) + rng.normal(0, 0.1, 300), n=300)
    found = planned_comparisons.differences("made-up")
    frozen = planned_comparisons.answer(research_questions.FROZEN, found)
    assert "0 of 2 frozen encoders beat the best baseline; worse: exp2 -0.099; no difference shown: text_frozen" in frozen
    assert "would have been, in four of five trials" in frozen
    assert "0 of 1 comparisons find pictures a gain; worse: exp3 -0.098" in planned_comparisons.answer(research_questions.IMAGES, found)


def test_comparisons_are_read_as_they_were_written(runs, tmp_path):
    """comparisons.csv holds all that a sentence says."""
    found = planned_comparisons.differences("made-up")
    planned_comparisons.table_of(found).to_csv(tmp_path / "comparisons.csv", index=False, float_format="%.6g")
    again = planned_comparisons.from_table(pd.read_csv(tmp_path / "comparisons.csv"))
    assert list(map(str, again)) == list(map(str, found)) and [d.minutes for d in again] == [d.minutes for d in found]


def test_the_original_beside_ours(runs):
    """The published rows, ours where there are some, `not run` where there are none."""
    table = original_thesis.beside_the_original("made-up")
    assert table.loc["exp4", ("AUC", "published")] == "0.689" and table.loc["exp1", ("AUC", "here, made-up")] == "not run"
    assert table.loc["exp4", ("AUC", "here, made-up")].startswith(f"{planned_comparisons.finished('made-up')['exp4'].rows['auc'].mean():.3f} [")


def test_misreading_by_hand():
    """Sorted by score the candidates 0, 1, 2 come as 1, 2, 0: so the original gives them the ranks 1, 2, 0."""
    assert misread(np.array([0.1, 0.9, 0.5, 7.0, 3.0]), np.array([0, 3, 5])).tolist() == [-1, -2, 0, 0, -1]


def test_the_originals_evaluator_on_real_shapes(real_data):
    """On 5,000 real impressions it gives a perfect ranker AUC 0.57 and random order 0.50: it can hardly tell them apart."""
    rows = [line.rstrip("\n").split("\t")[4].split() for line in (real_data / "mind-shape" / "behaviors.tsv").open()]
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])])
    clicked = np.array([c.endswith("-1") for r in rows for c in r])
    rankers = {"perfect": clicked.astype(float), "random": np.random.default_rng(0).random(len(clicked))}
    table = two_evaluators(rankers, clicked, offsets)
    assert table.loc[("perfect", "correctly"), "AUC"] == 1
    wrong = table.xs("by the original's evaluator", level="judged")
    assert wrong.loc["perfect"].tolist() == pytest.approx([0.571, 0.285, 0.286, 0.340], abs=0.01)
    assert wrong.loc["random"].tolist() == pytest.approx([0.498, 0.224, 0.228, 0.287], abs=0.015)
    assert set(METRICS) >= set(rank_metrics(rankers["random"], clicked, offsets))


def test_logs_are_asked_their_own_questions(home):
    """Ids win where training had an item often, content where it never had: by slice, with intervals; the headline says who is better in all."""
    rng = np.random.default_rng(0)
    base, new = rng.random(400) * 0.3, np.arange(400) < 150
    parts = {"item new": new, "item in training over 100": ~new, "history 1-10": np.arange(400) % 2 == 0}
    fake("popularity", 0, base, "baseline", n=400, protocol="catalogue")
    for seed in range(3):
        fake("idrec_sasrec", seed, base + 0.2 * ~new, n=400, protocol="catalogue", slices=parts)
        fake("morec_ts_sasrec", seed, base + 0.1 * new + rng.normal(0, 0.01, 400), n=400, protocol="catalogue", slices=parts)
    found = planned_comparisons.differences("made-up")
    assert {(d.exp, d.other, d.label) for d in found} == {("morec_ts_sasrec", "idrec_sasrec", "nDCG@10"), ("idrec_sasrec", "popularity", "nDCG@10")}
    assert "0 of 1 ways of content in the place of ids are better than ids; worse: morec_ts_sasrec" in planned_comparisons.answer(
        research_questions.IDS, found
    )
    pair = planned_comparisons.SLICED["catalogue"][0]
    text = planned_comparisons.where(planned_comparisons.by_slice("made-up", *pair), *pair)
    assert text.startswith("**morec_ts_sasrec** minus **idrec_sasrec** is largest in: item new (+0.1")
    assert "smallest in: item in training over 100 (-0.2" in text and "trainings alone" not in text
    assert (
        planned_comparisons.where(planned_comparisons.by_slice("made-up", "idrec_dssm", "idrec_sasrec"), "a", "b")
        == "a and b are not both finished on this data set."
    )


def test_slices_have_no_verdict(home):
    """Where the interval holds 0 it is shown, and that it is of one training; who is better in a slice is not said."""
    rng = np.random.default_rng(1)
    base, half = rng.random(300), np.arange(300) < 150
    fake("idrec_sasrec", 0, base, n=300, protocol="catalogue", slices={"item new": half})
    fake("morec_ts_sasrec", 0, base + rng.normal(0, 0.3, 300), n=300, protocol="catalogue", slices={"item new": half})
    pair = planned_comparisons.SLICED["catalogue"][0]
    text = planned_comparisons.where(planned_comparisons.by_slice("made-up", *pair), *pair)
    assert re.search(r"largest in: item new \(\+0\.\d{3} \[-0\.\d{3}, \+0\.\d{3}\], n = 150\)", text)
    assert text.endswith("These intervals are of these trainings alone.") and "better" not in text
