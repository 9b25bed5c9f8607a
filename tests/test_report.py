"""Reports: every run is a row, also the failed and the dead; numbers are those of the files; what is done is not done again."""

import json
import shutil
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nrms import ROOT, pipeline, report
from nrms.evaluation.metrics import METRICS
from nrms.evaluation.protocols import PROTOCOLS
from nrms.report import experiments, figures, interval_cache, planned_comparisons, research_questions, result_tables, split_comparison
from nrms.report.pages import compare_page, index_page
from nrms.runtime import Run, run_folder
from nrms.runtime.files import process_started, write_json

COLUMNS = "dataset,exp,kind,seeds,status,auc,auc_low,auc_high,mrr,ndcg5,ndcg10,params,trainable,minutes,peak_mb"


def fake(exp, seed, auc, kind="model", n=200, dataset="made-up", family="a", protocol="impressions", slices=None):
    """A finished run whose impressions have these values of every metric, in an order of its own. slices: {name: (n,) bool}."""
    run = Run(run_folder(dataset, exp, seed))
    run.begin(kind=kind, family=family, params=10, trainable=5, minutes=1.5, peak_mb=100, protocol=protocol)
    order = np.random.default_rng(seed).permutation(n)
    metrics = PROTOCOLS[protocol].metrics
    rows = {"impression": pa.array([str(i) for i in order])} | {name: pa.array(np.asarray(auc, float)[order]) for name in metrics}
    rows |= {f"in: {name}": pa.array(where[order]) for name, where in (slices or {}).items()}
    pq.write_table(pa.table(rows), run.folder / "rows.parquet")
    mean = None if np.isnan(auc).all() else float(np.nanmean(auc))
    write_json(run.folder / "metrics.json", {"all": {name: {"mean": mean, "n": n} for name in metrics}})
    run.update(status="done")


@pytest.fixture
def runs(home):
    rng = np.random.default_rng(0)
    base = rng.random(200) * 0.5
    fake("content", 0, base, "baseline")
    fake("random", 0, base - 0.1, "baseline")
    fake("ceiling_text", 0, base + 0.3, "ceiling")
    fake("exp4", 0, base + 0.1)
    fake("exp4", 1, base + 0.2)
    Run(run_folder("made-up", "exp4", 2)).begin(kind="model", family="a")
    Run(run_folder("made-up", "exp4", 2)).update(pid=2**22 + 1)
    Run(run_folder("made-up", "exp4", 3)).begin(kind="model")
    Run(run_folder("made-up", "exp4", 3)).update(status="failed", error="the <cat> sat on it")
    return base


def test_a_leaderboard_is_made_once(runs, monkeypatch):
    """As long as no file of its runs changes; what is done with it by one who has it is not seen by the next."""
    first = report.leaderboard("made-up")
    first["auc"] = 0
    monkeypatch.setattr(result_tables, "intervals", lambda samples: pytest.fail("made anew"))
    assert (report.leaderboard("made-up")["auc"].dropna() > 0).all()
    monkeypatch.undo()


def test_a_changed_run_is_seen(runs, home):
    """A run that is judged again, a seed more, another status: the leaderboard is another one."""
    before = report.leaderboard("made-up")
    fake("exp4", 0, runs + 0.3)
    after = report.leaderboard("made-up")
    done = [board[(board.exp == "exp4") & (board.status == "done")].iloc[0] for board in (before, after)]
    assert done[1].auc == pytest.approx(done[0].auc + 0.1)
    Run(run_folder("made-up", "random", 0)).update(status="failed")
    assert (report.leaderboard("made-up").status == "failed").sum() == 2


def test_leaderboard(runs, home):
    """Seeds are averaged by impression; the difference is paired with the best baseline; failed and dead runs are rows."""
    path, _ = index_page.write()
    board = pd.read_csv(path, dtype={"seeds": str})
    assert path.read_text().startswith(COLUMNS)
    done = board[(board.exp == "exp4") & (board.status == "done")].iloc[0]
    assert done.seeds == "0 1" and done.auc == pytest.approx(runs.mean() + 0.15, abs=1e-5) and done.auc_low < done.auc < done.auc_high
    assert done.baseline == "content" and done.difference == pytest.approx(0.15, abs=1e-5)
    assert done.earned == pytest.approx((runs.mean() - 0.35) / (runs.mean() - 0.2), abs=1e-4)
    assert set(board[board.exp == "exp4"].status) == {"done", "dead", "failed"} and len(board) == 6
    assert list(board.kind) == ["model"] * 3 + ["baseline"] * 2 + ["ceiling"]


def test_index_page(runs, home):
    """The page shows every row, escapes what it quotes, defines its numbers and asks nothing of the network."""
    text = index_page.write()[1].read_text()
    assert text.count("<tr") == 1 + 6 and "the &lt;cat&gt; sat on it" in text and "http://" not in text and "https://" not in text
    assert all(label in text for label, _ in METRICS.values() if "first" not in label) and "What the numbers mean" in text


def test_empty_report(home):
    """Without runs there is a page that says how to make one, and a leaderboard with a header."""
    board, index = index_page.write()
    assert report.comparison("newsroom").empty
    assert board.read_text().startswith(COLUMNS) and len(board.read_text().splitlines()) == 1 and "python -m nrms demo" in index.read_text()


def test_sentence_is_computed(runs, home):
    """The answer names the figures of one run, and does not claim what an interval does not carry."""
    answer = report.answer(Run(run_folder("made-up", "exp4", 0)))
    assert f"AUC {runs.mean() + 0.1:.3f}" in answer and "of this training" in answer and "seed 0" in answer
    fake("exp9", 0, runs + np.random.default_rng(1).normal(0, 0.3, 200))
    assert "better" not in report.answer(Run(run_folder("made-up", "exp9", 0)))
    assert "not finished; its status is dead" in report.answer(Run(run_folder("made-up", "exp4", 2)))


def test_only_seeds_of_one_family_are_averaged(runs, home):
    """A seed that ran with other values is a row of its own."""
    fake("exp4", 5, runs, family="b")
    board = report.leaderboard("made-up")
    assert set(board[(board.exp == "exp4") & (board.status == "done")].seeds) == {"0 1", "5"}


def test_results_on_other_data_are_stale(runs, home):
    """A run on data that have been prepared anew since is shown as such, without numbers."""
    write_json(home / "data" / "made-up" / "manifest.json", {"tables": {"x": "new"}})
    Run(run_folder("made-up", "exp4", 0)).update(data={"x": "old"})
    Run(run_folder("made-up", "exp4", 1)).update(data={"x": "new"})
    board = report.leaderboard("made-up").set_index("seeds")
    assert board.status["0"].tolist()[0] == "stale" and np.isnan(board.auc["0"].tolist()[0]) and board.status["1"] == "done"


def test_pipeline_runs_skips_and_reports(place, request):
    """`run` executes the notebooks into run folders with HTML; again, it has nothing to do; a failing run is said, shown and survived."""
    say = []
    assert pipeline.run([4], "newsroom-tiny", [0], say=say.append, epochs=1) == 0
    folder = run_folder("newsroom-tiny", "exp4-epochs1", 0)
    assert 'href="eval.html"' in (folder / "train.html").read_text() and 'href="../../analysis.html"' in (folder / "train.html").read_text()
    assert {"train.ipynb", "train.html", "eval.ipynb", "eval.html", "run.json", "metrics.json", "rows.parquet", "history.jsonl"} <= {
        p.name for p in folder.iterdir()
    }
    assert json.loads((folder / "run.json").read_text())["status"] == "done"
    began = (folder / "run.json").stat().st_mtime_ns
    request.getfixturevalue("without_kernels")  # what follows does not depend on them
    assert pipeline.run([4], "newsroom-tiny", [0], say=say.append, epochs=1) == 0
    assert (folder / "run.json").stat().st_mtime_ns == began and any("nothing changed" in line for line in say)
    assert pipeline.run([4], "newsroom-tiny", [0], say=say.append, epochs=1, name="broken", bert="/no/such/folder") == 1
    assert any("FAILED" in line and "-p bert FOLDER" in line for line in say)
    Run(folder).update(status="running", pid=1, process_started=process_started(1))
    assert pipeline.run([4], "newsroom-tiny", [0], say=say.append, force=True, epochs=1) == 1 and "busy" in say[-3]
    assert Run(folder).status == "running" and (folder / "checkpoint" / "best.safetensors").exists(), "another process's run is left alone"
    Run(folder).update(status="done")
    index_page.write()
    board = pd.read_csv(place / "reports" / "leaderboard.csv")
    assert board.set_index("exp").status["broken"] == "failed" and board.set_index("exp").status["exp4-epochs1"] == "done"


def index_row(home, exp):
    """The status of an experiment in the leaderboard that `page.write` makes."""
    return pd.read_csv(index_page.write()[0]).set_index("exp").status[exp]


@pytest.mark.parametrize("name", ["rows.parquet", "metrics.json"])
def test_a_run_without_its_numbers_is_incomplete(name, runs, home):
    """It is a row with that status, and takes nothing else down."""
    fake("exp9", 0, runs)
    (run_folder("made-up", "exp9", 0) / name).unlink()
    assert index_row(home, "exp9") == "incomplete" and index_row(home, "content") == "done" and "**incomplete**" in report.definitions()


def test_a_run_that_is_begun_anew_meanwhile_is_running(runs, home, monkeypatch):
    """Where its files go between the look at it and the reading of them, all is read once more."""
    fake("exp9", 0, runs)
    read_systems, left = experiments.read_systems, [1]

    def beaten(*names):
        found = read_systems(*names)
        if left and left.pop():
            Run(run_folder("made-up", "exp9", 0)).begin(kind="model")
        return found

    monkeypatch.setattr(index_page, "read_systems", beaten)
    assert index_row(home, "exp9") == "running"


def test_folders_of_other_names_are_no_runs(runs, home):
    """`seed0-old`, a copy somebody made, is passed over."""
    shutil.copytree(run_folder("made-up", "exp4", 0), run_folder("made-up", "exp4", 0).with_name("seed0-old"))
    assert len(report.leaderboard("made-up")) == 6


def test_rows_of_different_protocols_are_not_compared(runs, home):
    """Most rows decide: the others are shown, without a difference, and are in no figure, planned comparison or pair; the page names them."""
    fake("exp3", 0, runs + 0.2, protocol="sets")
    board, index = index_page.write()
    row = pd.read_csv(board).set_index("exp").loc["exp3"]
    assert row.status == "not comparable" and row.recall20 == pytest.approx(runs.mean() + 0.2, abs=1e-5) and np.isnan(row.difference)
    text = (home / "reports" / "made-up" / "compare.html").read_text()
    assert "asked other questions, than most runs on made-up (by AUC): exp3 (sets)." in text
    assert report.protocol_of("made-up") is PROTOCOLS["impressions"] and "exp3" not in planned_comparisons.finished("made-up")
    labels = [label.get_text() for label in figures.ranking("made-up").axes[0].get_yticklabels()]
    assert "exp4" in labels and "exp3" not in labels and "exp3" in index.read_text()


def of_data(exp, data="same", **values):
    """Has the record of a run say on which tables it was judged, and what it was asked."""
    Run(run_folder("made-up", exp, 0)).update(data={"x": data}, config={"data": values})


def test_rows_of_different_questions_are_not_compared(home):
    """Two splits of one log may ask the same users, but not the same: only what most rows were asked is compared, and the page says what was not."""
    base = np.random.default_rng(0).random(100) * 0.3
    for exp, more in (("popularity", 0.0), ("lightgcn", 0.1), ("vbpr", 0.2), ("bm3", 0.3), ("freedom", 0.4)):
        fake(exp, 0, base + more, "baseline" if exp == "popularity" else "model", protocol="sets", n=100)
        of_data(exp, split="random")
    of_data("bm3", split="period")
    of_data("freedom", data="other", split="random")
    board, index = index_page.write()
    rows = pd.read_csv(board).set_index("exp")
    assert dict(rows.status) == {"bm3": "not comparable", "freedom": "not comparable", "lightgcn": "done", "vbpr": "done", "popularity": "done"}
    assert rows.difference.notna().sum() == 2 and rows.loc["bm3", "recall20"] == pytest.approx(base.mean() + 0.3, abs=1e-5)
    assert set(planned_comparisons.finished("made-up")) == {"popularity", "lightgcn", "vbpr", research_questions.BASELINE}
    assert [(d.exp, d.other) for d in planned_comparisons.differences("made-up")] == [("lightgcn", "popularity"), ("vbpr", "lightgcn")]
    text = (home / "reports" / "made-up" / "compare.html").read_text()
    assert "(by Recall@20): bm3 (split period), freedom (other data)." in text
    assert (
        "Best of the models: <b>vbpr on made-up" in index.read_text() and "bm3" in index.read_text() and "<b>not comparable</b>" in index.read_text()
    )


def test_records_from_before_say_nothing_of_questions(home):
    """Baselines of an older version are compared as they were; a value that an older record does not have is the default."""
    base = np.random.default_rng(0).random(100) * 0.3
    for exp, kind in (("popularity", "baseline"), ("lightgcn", "model"), ("vbpr", "model")):
        fake(exp, 0, base, kind, protocol="sets", n=100)
    of_data("lightgcn", split="random")
    of_data("vbpr", split="random", rank_seen=False)
    assert (report.leaderboard("made-up").status == "done").all()


def test_pages_of_the_same_runs_are_not_made_again(runs, home, monkeypatch):
    """compare.html is kept until a run of its data set changes; `anew` makes it all the same."""
    path = home / "reports" / "made-up" / "compare.html"
    index_page.write()
    monkeypatch.setattr(compare_page, "facts", Mock(wraps=compare_page.facts))
    index_page.write()
    assert not compare_page.facts.called
    index_page.write(anew=True)
    assert compare_page.facts.call_count == 1
    fake("exp9", 0, runs)
    index_page.write()
    assert compare_page.facts.call_count == 2 and "exp9" in path.read_text()


def test_two_splits_side_by_side(home):
    """What is finished on both is placed on each; orders that turn round have a tau of -1; the best baseline of each side is what counts there."""
    level = {"ours": (0.6, 0.1), "theirs": (0.5, 0.2), "third": (0.4, 0.3), "here_only": (0.7, None)}
    noise = np.random.default_rng(0).random(50) * 0.01
    for exp, values in level.items():
        for dataset, value in zip(("drawn", "later"), values, strict=True):
            if value is not None:
                fake(exp, 0, noise + value, dataset=dataset, protocol="sets", n=50)
    for exp, values in {"popularity": (0.1, 0.15), "cooccurrence": (0.45, 0.05)}.items():
        for dataset, value in zip(("drawn", "later"), values, strict=True):
            fake(exp, 0, noise + value, "baseline", dataset=dataset, protocol="sets", n=50)
    both = split_comparison.side_by_side("drawn", "later")
    assert list(both.index) == ["ours", "theirs", "cooccurrence", "third", "popularity"]
    assert list(both["here_place"]) == [1, 2, 3, 4, 5] and list(both["there_place"]) == [4, 2, 5, 1, 3]
    says = split_comparison.sentence(both, "drawn", "later")
    assert says.startswith("**Of 3 models ours is the best on drawn, and number 3 on later.** Kendall's tau of the two orders is -1.00")
    assert says.endswith("Above the best baseline, cooccurrence and popularity, are 2 on drawn and 2 on later.")
    assert split_comparison.table(both, "drawn", "later").loc["ours", "drawn"].startswith("0.60")
    assert len(figures.two_splits(both, ("drawn", "later"), "Recall@20").axes) == 2


def test_splits_that_are_judged_otherwise_do_not_stand_side_by_side(runs, home):
    """Recall of one data set and AUC of another have no common table, and neither has what was not run."""
    fake("ours", 0, np.ones(50), dataset="drawn", protocol="sets", n=50)
    assert split_comparison.side_by_side("drawn", "made-up").empty and split_comparison.side_by_side("drawn", "nothing").empty
    assert split_comparison.sentence(split_comparison.side_by_side("drawn", "drawn"), "drawn", "drawn") == ""


def test_inputs_of_an_ensemble():
    """What a row read and was given, without empty parts; of a path its last name."""
    assert result_tables.inputs({"config": {"given": {"of": "a + b"}}}) == result_tables.inputs({"members": ["a", "b"]}) == "of a + b"
    assert result_tables.inputs({"config": {"text": "bert", "tuning": "full", "given": {"bert": "/home/me/small"}}}) == "title, bert small"


def test_report_command(runs, home):
    """`python -m nrms report` rebuilds both files from the run folders alone."""
    done = subprocess.run([sys.executable, "-m", "nrms", "report"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "reports/index.html" in done.stdout and (home / "reports" / "index.html").exists()


def intervals_kept(home):
    return json.loads((home / "reports" / "made-up" / "intervals.json").read_text())


def test_a_seed_more_makes_one_row_anew(runs, home, monkeypatch):
    """What was made of the other runs is in the file still, and so is their difference to the best baseline; the numbers are the same."""
    before, made = report.leaderboard("made-up").set_index("exp"), []
    fake("exp9", 0, runs)
    monkeypatch.setattr(
        result_tables, "measure", lambda systems, measure=result_tables.measure: made.extend(s.exp for s in systems) or measure(systems)
    )
    after = report.leaderboard("made-up").set_index("exp")
    assert made == ["exp9"] and {"exp9 0", "exp9 0 - content 0", "exp4 0 1 - content 0"} <= set(intervals_kept(home))
    pd.testing.assert_frame_equal(after.loc[["content", "random"]], before.loc[["content", "random"]])


@pytest.mark.parametrize("text", ["", "[1, 2]", "{"])
def test_what_is_kept_may_be_damaged_or_deleted(text, runs, home):
    """It holds nothing that the runs do not: all is made anew."""
    before = report.leaderboard("made-up")
    (home / "reports" / "made-up" / "intervals.json").write_text(text)
    pd.testing.assert_frame_equal(report.leaderboard("made-up"), before)
    assert "exp4 0 1" in intervals_kept(home)


def test_reports_that_cannot_be_written_to_are_shown(runs, home, monkeypatch):
    """Nothing is kept then, and nothing is missing."""

    def refused(*args):
        raise PermissionError("read-only")

    monkeypatch.setattr(interval_cache, "write_json", refused)
    assert report.leaderboard("made-up").auc.notna().sum() == 4 and not (home / "reports" / "made-up" / "intervals.json").exists()


def test_a_notebook_of_an_earlier_version_finds_its_table(runs):
    """What runs cost was called `ledger`."""
    pd.testing.assert_frame_equal(report.ledger("made-up"), report.costs("made-up"))
    assert report.costs("made-up").loc["exp4", "minutes"] == "1.5"
