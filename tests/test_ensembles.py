"""Ensembles: whose mean they are, what they may replace, and which rows they are held against."""

import numpy as np
import pytest
import torch
from test_report import fake

from nrms import NrmsError, pipeline
from nrms.config import resolve
from nrms.evaluate import evaluate
from nrms.evaluation import ensemble
from nrms.report import planned_comparisons, research_questions
from nrms.report.experiments import read_systems
from nrms.runtime import Run, run_folder
from nrms.runtime.files import read_json
from nrms.train import train

SINGLES = ("lightgcn", "lightgcn_text", "lightgcn_image")
SMALL = {"dim": 8, "heads": 2, "batch_size": 64, "epochs": 1, "device": "cpu"}


def configs(*exps, seed=0, dataset="movies", **given):
    return [resolve(exp, dataset, seed, **given) for exp in exps]


def averaged(name, of, scores, seeds=(0,), protocol="sets", **facts):
    """A finished ensemble."""
    for seed in seeds:
        fake(name, seed, scores, n=len(scores), protocol=protocol)
        Run(run_folder("made-up", name, seed)).update(config={"given": {"of": of}}, **facts)


def test_an_ensemble_of_several_seeds_is_one_row(board, monkeypatch):
    """Each seed is the mean of what the members of that seed say, in whatever order they are named; the seeds are averaged as those of any row."""
    monkeypatch.setenv("NRMS_HOME", str(board[0]))
    for seed in (0, 1):
        for config in configs("lightgcn", "lightgcn_text", seed=seed, **SMALL):
            train(config)
            evaluate(config)
        run = ensemble.ensemble(configs("lightgcn_text", "lightgcn", seed=seed, **SMALL), "apart")
    again = ensemble.ensemble(configs("lightgcn", "lightgcn_text", seed=1, **SMALL), "apart")
    assert again.folder == run.folder and again.record["hash"] == run.record["hash"]
    (row,) = (e for e in read_systems("movies") if e.exp == "apart")
    means = [read_json(run.folder / "metrics.json")["all"]["ndcg10"]["mean"] for run in row.runs]
    assert row.seeds == [0, 1] and row.main.mean() == pytest.approx(np.mean(means)) and len(row.main) == 40
    members = [config.name for config in configs("lightgcn", "lightgcn_text", **SMALL)]
    assert row.members == tuple(sorted(members)) and row.test_settings == resolve("lightgcn", "movies").data.test_settings


def test_an_ensemble_without_memory_is_one_failure_of_a_run(board, monkeypatch):
    """`run` says so in a sentence, as run.json does, and goes on with what is left."""
    monkeypatch.setenv("NRMS_HOME", str(board[0]))
    two = configs("lightgcn", "lightgcn_text", seed=2, **SMALL)
    for config in two:
        train(config)

    def full(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(ensemble, "rank_catalogue", full)
    job, said = pipeline.jobs_of([], [two], force=False)[0], []
    assert pipeline.do(job, force=False, say=said.append) is False
    record = Run(job.folder).record
    assert record["status"] == "failed" and record["error"].startswith("There was not enough memory.") and said == [f"FAILED  {record['error']}"]


def test_only_the_same_ensemble_is_replaced(home):
    """Not a run of an experiment, by its own name or by another, not a baseline, and not an ensemble of others; there is always a name to give."""
    three = configs(*SINGLES)
    assert ensemble.named(three) == "ensemble-lightgcn" and ensemble.named(three, "apart") == "apart"
    for name in ("lightgcn_all", "random", "ceiling_text", "exp4"):
        with pytest.raises(NrmsError, match=f"`{name}` is that of an experiment, a baseline or a ceiling: give an ensemble another `--name`"):
            ensemble.named(three, name)
    fake("trial", 3, np.ones(9), dataset="movies", n=9)
    with pytest.raises(NrmsError, match="trial/seed3 holds a run that is no ensemble"):
        ensemble.named(three, "trial")
    fake("apart", 0, np.ones(9), dataset="movies", n=9)
    Run(run_folder("movies", "apart", 0)).update(config={"given": {"of": "lightgcn + bm3"}})
    with pytest.raises(NrmsError, match=r"holds the ensemble of bm3 \+ lightgcn: give the ensemble of .* another `--name`"):
        ensemble.named(three, "apart")
    assert ensemble.named(configs("bm3", "lightgcn"), "apart") == "apart"
    with pytest.raises(NrmsError, match="is not a name"):
        ensemble.named(three, "../up")


@pytest.mark.parametrize("exps", [("lightgcn",), ("lightgcn", "lightgcn"), ("lightgcn", "bm3", "lightgcn")])
def test_members_are_different(exps, home):
    """One is no ensemble, and none counts twice."""
    with pytest.raises(NrmsError, match="two different experiments or more, each of them once"):
        ensemble.named(configs(*exps))


def test_impressions_have_no_ensembles(home):
    """Slates have no scores of a whole catalogue."""
    with pytest.raises(NrmsError, match="newsroom-tiny has impressions"):
        ensemble.named(configs("exp3", "exp4", dataset="newsroom-tiny"))


def test_an_ensemble_is_made_anew_after_its_members(home):
    """It is current as long as it is done and no member was begun after it."""
    two = configs("lightgcn", "bm3")
    for name, started in (("lightgcn", "2026-01-01"), ("bm3", "2026-01-02"), ("ensemble-lightgcn", "2026-01-02")):
        fake(name, 0, np.ones(9), dataset="movies", n=9)
        Run(run_folder("movies", name, 0)).update(started=started)
    assert ensemble.is_current(two, "ensemble-lightgcn") and not ensemble.is_current(two, "other")
    Run(run_folder("movies", "bm3", 0)).update(started="2026-01-03")
    assert not ensemble.is_current(two, "ensemble-lightgcn")


def test_an_ensemble_is_held_against_by_what_it_is_of(home):
    """The planned comparison is with the mean of ids, text and pictures alone, whatever its folder is called; one of others is not taken for it."""
    base = np.random.default_rng(0).random(50) * 0.3
    fake("lightgcn_all", 0, base + 0.1, n=50, protocol="sets")
    averaged("ensemble", "lightgcn + alignrec", base)
    assert planned_comparisons.differences("made-up") == []
    averaged("three", "lightgcn + lightgcn_text + lightgcn_image", base, seeds=(0, 1))
    (found,) = planned_comparisons.differences("made-up")
    assert (found.exp, found.other, found.verdict) == ("lightgcn_all", "three", "explored") and found.mean == pytest.approx(0.1)


def test_sequences_have_such_an_ensemble_too(home):
    """What reads ids, text and pictures together is held against the mean of the three apart."""
    base = np.random.default_rng(0).random(50) * 0.3
    fake("idmo_both", 0, base, n=50, protocol="catalogue")
    averaged("ensemble-idrec_sasrec", "idrec_sasrec + morec_ts_sasrec + morec_ts_image", base + 0.1, protocol="catalogue")
    (found,) = planned_comparisons.differences("made-up")
    assert (found.question, found.exp, found.verdict) == (research_questions.ADDED, "idmo_both", "explored") and found.mean < 0


@pytest.mark.parametrize("protocol, other", [("catalogue", research_questions.SETS), ("sets", research_questions.CATALOGUE)])
def test_any_system_is_asked_about_on_any_log(protocol, other, home):
    """Graphs on a log of next items, sequences on one of sets: their questions are there once their runs are, and not before."""
    base = np.random.default_rng(0).random(50) * 0.3
    own = research_questions.QUESTIONS[protocol]
    text = planned_comparisons.answers(planned_comparisons.differences("made-up"), protocol)
    assert text.count("Not answered yet") == len(own) and not any(question in text for question in other)
    question, ((exp, against, _), *_) = next((q, pairs) for q, pairs in other.items() if pairs[0][1] != research_questions.BASELINE)
    for seed in range(3):
        fake(exp, seed, base + 0.1, n=50, protocol=protocol)
        fake(against, seed, base, n=50, protocol=protocol)
    found = [d for d in planned_comparisons.differences("made-up") if d.question == question]
    text = planned_comparisons.answers(found, protocol)
    assert [(d.exp, d.other) for d in found] == [(exp, against)] and f"**{question}** 1 of 1" in text
    assert sum(q in text for q in other) == 1 and all(q in text for q in own)
