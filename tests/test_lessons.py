"""Estimates and calculations by hand in notebooks agree with what the package computes."""

from dataclasses import replace

import nbformat
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_report import fake

from nrms.config import resolve
from nrms.data import summary
from nrms.data.tables import Impressions, Ragged
from nrms.evaluate import evaluate_references
from nrms.evaluation import metrics_by_hand
from nrms.evaluation.metrics import METRICS, catalogue_metrics, rank_metrics, set_metrics
from nrms.models import explain
from nrms.models.build import build
from nrms.report import sentences
from nrms.report.pages.notebook_page import render
from nrms.runtime import Run, run_folder
from nrms.train import sampler_of
from nrms.training import loss_by_hand
from nrms.training.losses import OBJECTIVES

# losses --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "by"), [("listwise", np.log(4)), ("bpr", np.log(2)), ("bce", 2 * np.log(2)), ("pointwise", np.log(2)), ("none", 0)]
)
def test_loss_of_equal_scores(objective, by):
    """Known values for four equal scores of 0."""
    assert loss_by_hand.loss_parts(objective, np.zeros(4))[2] == pytest.approx(by)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.sampled_from(sorted(OBJECTIVES)))
@settings(max_examples=60, deadline=None)
def test_losses_by_hand_are_those_of_the_package(scores, objective):
    """For any scores of a row, the click first."""
    s = torch.tensor([scores], dtype=torch.float64)
    clicked = torch.zeros_like(s, dtype=torch.bool)
    clicked[:, 0] = True
    package = OBJECTIVES[objective](s, torch.ones_like(clicked), clicked).item()
    assert loss_by_hand.loss_parts(objective, np.array(scores))[2] == pytest.approx(package, abs=1e-5)


def test_the_loss_of_a_real_row(model, tiny, split, config):
    """The sentence has the same number twice; masked candidates are no lines."""
    batch = next(sampler_of(config, split, len(tiny.items)).epoch(0))
    lines, says = loss_by_hand.loss(config, tiny.items, batch, model(batch).scores)
    hand, package = says.removeprefix("By hand ").removesuffix(".").split(" nats for this row, by the package ")
    assert hand == package and len(lines.data) == batch.candidate_mask[0].sum() and lines.data["clicked"].tolist().count("yes") == 1


def test_every_objective_has_an_equation(config):
    """Temperature and terms are named where there are some."""
    assert loss_by_hand.EQUATIONS.keys() == OBJECTIVES.keys()
    assert loss_by_hand.equation(config).startswith("`listwise`: loss = `-log(") and "divided" not in loss_by_hand.equation(config)
    graph = loss_by_hand.equation(resolve("bm3", "movies"))
    assert all(f" · {name}" in graph for name in resolve("bm3", "movies").terms)
    assert "scores are divided by 0.15 first" in loss_by_hand.equation(resolve("idrec_sasrec", "movies"))


# metrics -------------------------------------------------------------------------------------------------------------


def test_a_slate_by_hand():
    """Scores 3, 2, 1 with the middle one clicked: one of two pairs right, 1/2, and 1 / log2(3)."""
    lines, sums = metrics_by_hand.slate(np.array([1.0, 3.0, 2.0]), np.array([False, False, True]))
    assert lines["clicked"].tolist() == [False, True, False] and lines["passed over, below"].tolist() == [0, 1, 0]
    assert sums == {"auc": (1, 2), "mrr": (0.5, 1), "ndcg5": (pytest.approx(1 / np.log2(3)), 1), "ndcg10": (pytest.approx(1 / np.log2(3)), 1)}


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=2, max_size=14))
@settings(max_examples=100, deadline=None)
def test_slates_by_hand_are_those_of_the_package(candidates):
    """With ties, too, wherever there is something to rank."""
    scores, clicked = np.array([s for s, _ in candidates], float), np.array([c for _, c in candidates])
    if 0 < clicked.sum() < len(clicked):
        package = rank_metrics(scores, clicked, np.array([0, len(scores)]))
        for name, (total, by) in metrics_by_hand.slate(scores, clicked)[1].items():
            assert total / by == pytest.approx(package[name][0])


def test_a_tie_across_the_cut_by_hand():
    """8 better and 4 tied: each of the ranks 9 to 13 is as likely, of which two are among the first 10."""
    lines, sums = metrics_by_hand.catalogue(np.array([11.0]), np.array([4]), "catalogue")
    assert sums["ndcg10"] == (pytest.approx((1 / np.log2(10) + 1 / np.log2(11)) / 5), 1) and sums["hr10"] == (pytest.approx(2 / 5), 1)
    assert lines["tied with"].tolist() == [4] and lines["1/rank"].tolist() == [pytest.approx(sum(1 / r for r in range(9, 14)) / 5)]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), min_size=1, max_size=6, unique=True))
@settings(max_examples=40, deadline=None)
def test_ranks_by_hand_are_those_of_the_package(places):
    """One right item, or several, with ties, too."""
    better, tied = (np.array(column) for column in zip(*places, strict=True))
    package = set_metrics(better, tied, np.array([0, len(better)]))
    for name, (total, by) in metrics_by_hand.catalogue(better + 1 + tied / 2, tied, "sets")[1].items():
        assert total / by == pytest.approx(package[name][0])
    one = catalogue_metrics(better[:1], tied[:1])
    for name, (total, by) in metrics_by_hand.catalogue(better[:1] + 1 + tied[:1] / 2, tied[:1], "catalogue")[1].items():
        assert total / by == pytest.approx(one[name][0])


def test_the_metrics_of_a_test_row(tiny, split):
    """Only what was clicked is a line; each metric stands beside that of the file."""
    scores = np.random.default_rng(0).random(len(split.test.candidates.values))
    found = rank_metrics(scores, split.test.clicked, split.test.candidates.offsets)
    listed = pa.ListArray.from_arrays(pa.array(split.test.candidates.offsets, pa.int32()), pa.array(scores))
    lines, says = metrics_by_hand.metrics(tiny.items, split.test, 3, pa.table(found | {"scores": listed}), "impressions")
    at = slice(*split.test.candidates.offsets[3:5])
    assert len(lines.data) == split.test.clicked[at].sum() and len(says.split("\n")) == 4
    for line in says.split("\n"):
        assert line.split(" = ")[2].split(";")[0] == line.split("by the package ")[1]


def test_what_is_written_of_ties_is_enough(movies):
    """Baselines tie often: in every row of their files the metrics by hand are those of the package."""
    config, tables = movies("idrec_sasrec")
    test, tied = tables.split(config.data).test, 0
    for run in evaluate_references(config):
        rows = pq.read_table(run.folder / "rows.parquet")
        tied += sum(map(sum, rows["tied"].to_pylist()))
        for row in range(len(test)):
            for line in metrics_by_hand.metrics(tables.items, test, row, rows, "catalogue")[1].split("\n"):
                assert line.split(" = ")[2].split(";")[0] == line.split("by the package ")[1]
    assert tied > 0


def test_the_metrics_of_a_question_with_ties(movies):
    """What rows.parquet holds is enough; where an earlier version kept no ties, that is said."""
    _, tables = movies("idrec_sasrec")
    asked = Impressions(
        *[np.array(["u"])] * 2, np.zeros(1, int), Ragged(np.array([1]), np.array([0, 1])), Ragged(np.array([2]), np.array([0, 1])), None
    )
    rows = pa.table(catalogue_metrics(np.array([8]), np.array([4])) | {"ranks": [[11.0]], "tied": [[4]]})
    lines, says = metrics_by_hand.metrics(tables.items, asked, 0, rows, "catalogue")
    assert lines.data["right"].tolist() == [tables.items.title[2]] and "earlier version" not in says
    for line in says.split("\n"):
        assert line.split(" = ")[2].split(";")[0] == line.split("by the package ")[1]
    assert "which did not keep how many items are tied" in metrics_by_hand.metrics(tables.items, asked, 0, rows.drop_columns("tied"), "catalogue")[1]


# models --------------------------------------------------------------------------------------------------------------


def test_parameters_are_estimated_closely(model, config):
    """Large matrices are nearly all there is: within a twentieth for a text encoder and NRMS."""
    table = explain.parameters(model, config).data
    assert table.index.tolist() == ["items: text", "users: nrms"]
    assert all(-5 < float(off.removesuffix("%")) <= 0 for off in table["estimate is off by"])
    counted = sum(int(n.replace(",", "")) for n in table["counted"])
    assert counted == sum(p.numel() for p in model.parameters())


def test_parameters_of_ids_and_sequences(movies):
    """A table of ids is exact; SASRec is near; what has no short formula says so."""
    config, tables = movies("idrec_sasrec")
    table = explain.parameters(build(config, tables), config).data
    assert table.loc["items: ids", "estimate is off by"] == "+0.0%" and abs(float(table.loc["users: sasrec", "estimate is off by"][:-1])) < 10
    config, tables = movies("idrec_nextitnet")
    assert explain.parameters(build(config, tables), config).data.loc["users: nextitnet", "formula"] == "no short formula"


def test_shapes_are_those_of_the_batch(model, tiny, split, config):
    """Letters beside the numbers that they have."""
    batch = next(sampler_of(config, split, len(tiny.items)).epoch(0))
    here = explain.shapes(model, batch).data["here"]
    unique = len(set(batch.history.flatten().tolist()) | set(batch.candidates.flatten().tolist())) - 1
    assert here["items of the batch, each once"] == f"({unique},)" and here["their vectors"] == f"({unique}, {config.dim})"
    assert here["scores"] == here["candidates"] == str(tuple(batch.candidates.shape))
    assert here["histories, gathered"] == str((*batch.history.shape, config.dim))


@pytest.mark.parametrize("exp", ["lightgcn", "idrec_bert4rec", "missrec"])
def test_every_kind_of_model_can_be_explained(movies, exp):
    """Graphs, sequences, clusters: shapes, a vector, sizes, seconds."""
    config, tables = movies(exp)
    model = build(config, tables)
    batch = next(sampler_of(config, tables.split(config.data), len(tables.items)).epoch(0))
    model.on_epoch_start([0, 0], resumed=False)
    assert explain.shapes(model, batch).data.loc["scores", "here"] == str(tuple(model.eval()(batch).scores.shape))
    assert "numbers, length" in explain.vector(model, tables.items, 1)
    sizes = explain.sizes(model)
    assert sum(int(n.replace(",", "")) for n in sizes.data["parameters"]) > 0 and "<table" in sizes.to_html()


def test_a_vector_is_described(model, tiny):
    """Its first numbers and its length are those of the model."""
    with torch.inference_mode():
        v = model.items(torch.tensor([7]))[0]
    text = explain.vector(model, tiny.items, 7, most=2)
    assert f"[{v[0]:+.2f}, {v[1]:+.2f}, ...]: {len(v)} numbers, length {v.norm():.2f}" in text and "Made of text of length" in text


@pytest.mark.parametrize(
    "title", ["a\r\r<img src=x onerror=alert(1)>", "a\n\n<img src=x>", "`<img src=x>", "$$<img src=x>$$", "\x85\u2028<img src=x>"]
)
def test_no_title_leaves_its_place(model, tiny, tmp_path, title):
    """Titles of strangers in computed sentences stay text on the page, whatever Markdown makes of ends of lines and backticks."""
    news = replace(tiny.items, title=np.where(np.arange(len(tiny.items)) == 7, title, tiny.items.title).astype(object))
    cells = [explain.vector(model, news, 7), summary.words(news, 7), explain.tokens(model, title)]
    outputs = [new_output("display_data", {"text/markdown": text}) for text in cells]
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Title"), new_code_cell("", outputs=outputs)]), tmp_path / "page.ipynb")
    render(tmp_path / "page.ipynb", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<img" not in page and page.count("&lt;img src=x") == 1


def test_a_forward_pass_keeps_only_what_is_shown(model, tiny, split, config):
    """The scores of the model, how many items they took, and seconds; no graph of gradients hangs on them."""
    batch = next(sampler_of(config, split, len(tiny.items)).epoch(0))
    scores, encoded, seconds = explain.forward(model, batch)
    assert scores.is_inference() and scores.grad_fn is None and seconds > 0
    wanted = model(batch)
    assert torch.allclose(scores, wanted.scores, atol=1e-6) and encoded == wanted.encoded


def test_tokens_that_are_read(model, tiny, config):
    """Pieces of a title, and how many of them are read; frozen encoders read none any more."""
    short = explain.tokens(model, "airline")
    assert short.startswith("`[CLS] ") and short.endswith("pieces are read.") is False and short.split(" pieces")[0].split()[-1] == short.split()[-3]
    long = explain.tokens(model, "airline " * 100)
    assert f"of which {config.title_tokens} are read" in long
    assert "looked up" in explain.tokens(build(resolve("text_frozen", "newsroom-tiny", device="cpu"), tiny), "airline")


def test_the_answer_of_training_is_computed(home):
    """Validation, steps, minutes, chance, and the best baseline once it is known; an untrained run says so."""
    fake("exp4", 3, np.full(10, 0.7), n=10)
    run = Run(run_folder("made-up", "exp4", 3))
    assert "is not trained; its status is done" in sentences.trained(run)
    run.update(best_valid=0.6543, best_step=20, steps=40, samples=1234)
    says = sentences.trained(run)
    assert "**exp4 on made-up, seed 3: best validation AUC 0.654** at step 20 of 40, 1,234 clicks in 1.5 minutes, at most 100 MB" in says
    assert "Chance is 0.500" in says and "baseline" not in says
    fake("content", 0, np.linspace(0.5, 0.7, 10), "baseline", n=10)
    fake("random", 0, np.linspace(0.4, 0.6, 10), "baseline", n=10)
    assert "the best baseline, content, has 0.600 and random order 0.500." in sentences.trained(run)


def test_the_answer_of_training_on_a_log(home):
    """Before anything is judged there is no baseline to name, and no chance that is known."""
    run = Run(run_folder("made-up", "lightgcn", 0))
    run.begin(kind="model", family="a", protocol="sets")
    run.update(status="trained", best_valid=0.25, best_step=1, steps=2, samples=3, minutes=0.5, peak_mb=7)
    assert sentences.trained(run).endswith("best validation Recall@20 0.250** at step 1 of 2, 3 clicks in 0.5 minutes, at most 7 MB of memory.")


def test_time_and_memory_are_set_side_by_side(home):
    """Milliseconds by hand: three forward passes of 250 are 750; 1.5 minutes over 100 steps are 900; 16 bytes for each trained parameter."""
    fake("exp4", 0, np.full(10, 0.7), n=10)
    run = Run(run_folder("made-up", "exp4", 0))
    run.update(steps=100, device="cpu", trainable=2**20)
    says = explain.speed(0.25, run)
    assert "estimated 750 ms" in says and "measured 900 ms on cpu" in says and "1,048,576 trained parameters, 16 MB; the process held 100 MB" in says
    assert METRICS["auc"][0] == "AUC"
