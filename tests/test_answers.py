"""Answers are computed: planned comparisons, paired, corrected; and what the original's evaluator would have said."""

import numpy as np
import pytest
from test_report import fake

from nrms.evaluation.metrics import METRICS, rank_metrics
from nrms.evaluation.statistics import compare
from nrms.report import original_thesis, planned_comparisons, research_questions
from nrms.report.original_thesis import misread, two_evaluators
from nrms.runtime import notebook_output


@pytest.fixture
def runs(home):
    """Text alone, gated pictures that help by 0.1, shuffled ones that do not, frozen ones below; two seeds of some."""
    rng = np.random.default_rng(0)
    base = 0.3 + 0.3 * rng.random(400)
    fake("content", 0, base - 0.1, "baseline", n=400)
    fake("random", 0, base - 0.2, "baseline", n=400)
    for seed in (0, 1):
        fake("exp4", seed, base + rng.normal(0, 0.02, 400), n=400)
        fake("exp3_gate", seed, base + 0.1 + rng.normal(0, 0.02, 400), n=400)
    fake("shuffled_images", 0, base + rng.normal(0, 0.3, 400), n=400)
    fake("exp2_gate", 0, base - 0.05, n=400)
    return base


def test_differences_are_paired_and_corrected(runs):
    """A comparison appears once both sides are finished, with the mean of paired differences, its seeds, and Holm's p."""
    found = {(d.exp, d.other): d for d in planned_comparisons.differences("made-up")}
    assert set(found) == {
        *(("exp2_gate", "content"), ("exp3_gate", "exp2_gate"), ("exp3_gate", "exp4")),
        *(("shuffled_images", "exp4"), ("exp3_gate", "shuffled_images")),
    }
    gate = found["exp3_gate", "exp4"]
    assert gate.mean == pytest.approx(0.1, abs=0.01) and gate.low < gate.mean < gate.high and len(gate.seeds) == 2 and gate.verdict == "more"
    assert found["exp2_gate", "content"].seeds == () and found["shuffled_images", "exp4"].verdict == "unclear"
    known = planned_comparisons.finished("made-up")
    alone = compare(*(known[e].rows["auc"].sort_index().to_numpy() for e in ("shuffled_images", "exp4")))["p"]
    assert found["shuffled_images", "exp4"].p >= alone


def test_sentences_follow_the_runs(runs):
    """Yes where it is shown, `not answered` where it is not run, and what the control says."""
    found = planned_comparisons.differences("made-up")
    frozen, tuned, images = (planned_comparisons.answer(q, found) for q in research_questions.NEWS)
    assert "Yes: 1 of 1 frozen encoders beat the best baseline, content; exp2_gate by most, +0.050" in frozen
    size = {(d.exp, d.other): f"{d.exp} {d.mean:+.3f}" for d in found}
    assert f"1 of 1 tuned encoders are better than the same ones frozen ({size['exp3_gate', 'exp2_gate']})" in tuned
    assert f"1 of 1 ways of adding pictures are better than the same text alone ({size['exp3_gate', 'exp4']})" in images
    assert "it is what they show that counts" in images and "same sign in 2 of 2 seeds" in images
    assert "Not answered" in planned_comparisons.answer(research_questions.IMAGES, [])


def test_the_table_of_comparisons_can_be_shown(runs):
    """One row for each comparison, its texts whole."""
    found = planned_comparisons.differences("made-up")
    assert (
        len(planned_comparisons.table(found)) == len(found)
        and "pictures that changed places" in notebook_output.readable(planned_comparisons.table(found)).to_html()
    )


def test_worse_and_unclear_are_said(home):
    """A frozen encoder below the baseline is `not shown`; images that hurt are named as worse."""
    rng = np.random.default_rng(0)
    base = 0.3 + 0.3 * rng.random(300)
    fake("content", 0, base, "baseline", n=300)
    fake("exp2", 0, base - 0.1, n=300)
    fake("exp4", 0, base + 0.2, n=300)
    fake("exp3", 0, base + 0.1, n=300)
    found = planned_comparisons.differences("made-up")
    assert "Not shown: none of 1 frozen encoders" in planned_comparisons.answer(research_questions.FROZEN, found)
    assert "0 of 1 ways of adding pictures are better than the same text alone; worse: exp3 -0.100" in planned_comparisons.answer(
        research_questions.IMAGES, found
    )


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
    """Ids win where training had an item often, content where it never had: by slice, with intervals; the sentence counts who is better."""
    rng = np.random.default_rng(0)
    base, new = rng.random(400) * 0.3, np.arange(400) < 150
    parts = {"item new": new, "item in training over 100": ~new, "history 1-10": np.arange(400) % 2 == 0}
    fake("popularity", 0, base, "baseline", n=400, protocol="catalogue")
    for seed in (0, 1):
        fake("idrec_sasrec", seed, base + 0.2 * ~new, n=400, protocol="catalogue", slices=parts)
        fake("morec_ts_sasrec", seed, base + 0.1 * new + rng.normal(0, 0.01, 400), n=400, protocol="catalogue", slices=parts)
    found = planned_comparisons.differences("made-up")
    assert {(d.exp, d.other, d.label) for d in found} == {("morec_ts_sasrec", "idrec_sasrec", "nDCG@10"), ("idrec_sasrec", "popularity", "nDCG@10")}
    assert "0 of 1 ways of content in the place of ids are better than ids; worse: morec_ts_sasrec" in planned_comparisons.answer(
        research_questions.IDS, found
    )
    pair = planned_comparisons.SLICED["catalogue"][0]
    text = planned_comparisons.where(planned_comparisons.by_slice("made-up", *pair), *pair)
    assert (
        "**morec_ts_sasrec** is better where: item new (+0.1" in text and "**idrec_sasrec** is better where: item in training over 100 (-0.2" in text
    )
    assert (
        planned_comparisons.where(planned_comparisons.by_slice("made-up", "idrec_dssm", "idrec_sasrec"), "a", "b")
        == "a and b are not both finished on this data set."
    )


def test_a_slice_without_a_difference_is_named(home):
    """Where the interval holds 0, or p is not small for so many slices, no difference is claimed."""
    rng = np.random.default_rng(1)
    base, half = rng.random(300), np.arange(300) < 150
    fake("idrec_sasrec", 0, base, n=300, protocol="catalogue", slices={"item new": half})
    fake("morec_ts_sasrec", 0, base + rng.normal(0, 0.3, 300), n=300, protocol="catalogue", slices={"item new": half})
    pair = planned_comparisons.SLICED["catalogue"][0]
    text = planned_comparisons.where(planned_comparisons.by_slice("made-up", *pair), *pair)
    assert "**idrec_sasrec** is nowhere shown to be better" in text and "No difference is shown in: item new" in text
