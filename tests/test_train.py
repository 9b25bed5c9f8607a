"""Training: interrupted equals uninterrupted, finished is finished, and a run that cannot learn says so."""

import contextlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import roc_auc_score

from nrms import NrmsError
from nrms.config import resolve
from nrms.data.prepare import load
from nrms.data.samplers import ClickSampler
from nrms.data.splits import split_by_time
from nrms.data.tables import ragged
from nrms.evaluate import evaluate, evaluate_references
from nrms.evaluation import ranking
from nrms.models.build import build
from nrms.runtime import Run, run_folder
from nrms.runtime.checkpoints import load_checkpoint, save_checkpoint
from nrms.runtime.files import process_started
from nrms.train import learning_rate, train
from nrms.training.gradients import backward
from nrms.training.learning_checks import Movement, check_loss, check_losses, check_movement
from nrms.training.vector_reuse import VectorReuse


def small(**given):
    return resolve(4, "newsroom-tiny", device="cpu", epochs=1, **given)


def weights(run):
    return load_checkpoint(run.folder / "checkpoint" / "best.safetensors")[0]


class Killed(BaseException):
    """Stands for a signal."""


def test_resume_equals_no_interruption(place, two_threads, monkeypatch):
    """Killed after any validation, started again: bit-equal weights, the same log. On several threads."""
    whole = train(small(name="whole", validations=4))
    saves, real = [], save_checkpoint

    def save_and_die(path, *rest):
        real(path, *rest)
        saves.append(path.stem)
        if saves.count("last") in (1, 3) and path.stem == "last":
            raise Killed

    monkeypatch.setattr("nrms.training.resume.save_checkpoint", save_and_die)
    for _ in range(2):
        with pytest.raises(Killed):
            train(small(name="parts", validations=4))
    monkeypatch.setattr("nrms.training.resume.save_checkpoint", real)
    parts = train(small(name="parts", validations=4))
    assert weights(whole).keys() == weights(parts).keys() and all(torch.equal(v, weights(parts)[k]) for k, v in weights(whole).items())
    logs = [[json.loads(line) for line in (run.folder / "history.jsonl").open()] for run in (whole, parts)]
    timeless = [[{k: v for k, v in line.items() if k not in ("seconds", "samples_per_second")} for line in log] for log in logs]
    assert timeless[0] == timeless[1] and whole.record["best_step"] == parts.record["best_step"]


def test_a_trained_run_is_left_alone(trained):
    """The same values train once; a changed value or `force` trains again."""
    first = train(small()).record["trained"], train(small()).record["started"]
    assert (train(small()).record["trained"], train(small()).record["started"]) == first
    assert train(small(lr=1e-3)).record["config"]["lr"] == 1e-3
    assert train(small(), force=True).record["started"] >= first[1]
    assert train(small(name="exp4", lr=1e-3)).record["config"]["lr"] == 1e-3


def test_bf16_computes_and_fp32_is_stored(place):
    """With bf16 autocast a run trains and evaluates, and its weights stay fp32. Another precision in the same process is no trouble."""
    for precision in ("fp32", "bf16"):
        run = train(small(precision=precision, name=precision))
        assert run.record["precision"] == precision and {v.dtype for v in weights(run).values()} == {torch.float32}
    assert not all(torch.equal(v, weights(run)[k]) for k, v in weights(train(small(precision="fp32", name="fp32"))).items())
    assert evaluate(small(precision="bf16", name="bf16")).status == "done"


def test_a_gpu_that_is_not_there_is_said(place):
    """`device: cuda` without one is an error, not a slow run."""
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(NrmsError, match="no GPU"):
        train(resolve(4, "newsroom-tiny", device="cuda"))


@pytest.mark.gpu
def test_a_gpu_trains(place):
    """On a GPU the default precision trains and evaluates."""
    train(resolve(4, "newsroom-tiny", device="cuda", epochs=1))
    assert evaluate(resolve(4, "newsroom-tiny", device="cuda", epochs=1)).status == "done"


def test_the_log_has_everything(trained):
    """Each line: step, loss parts, gradient norm, learning rate and movement by group, items encoded, speed."""
    run = train(small())
    line = json.loads((run.folder / "history.jsonl").read_text().splitlines()[-1])
    assert line["loss"].keys() == {"listwise"} and line["groups"].keys() == {"encoder", "head"} and 0 < line["valid"] <= run.record["best_valid"]
    assert all(0 < g["update_ratio"] < 1 and g["moved"] > 0.9 and g["lr"] > 0 for g in line["groups"].values())
    assert line["encoded"] > 0 and line["samples_per_second"] > 0 and line["gradient_norm"] > 0
    assert {"params", "trainable", "minutes", "peak_mb", "versions", "hardware", "commit", "hash", "data"} <= run.record.keys()


def test_learning_rate_by_hand():
    """Rises over the first tenth to 1, then falls to 0 after the last step."""
    rates = [learning_rate(step, 100, 0.1) for step in range(100)]
    assert rates[0] == 0.1 and rates[9] == rates[10] == 1 and rates[99] == pytest.approx(1 / 90)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert {learning_rate(step, 100, 0.1, decay=False) for step in range(9, 100)} == {1.0}


def test_patience_ends_training(place, monkeypatch):
    """Three epochs without a better validation: training stops there, the best weights are kept, and it is said how far it came."""
    values = iter([0.5, 0.7, 0.6, 0.6, 0.6, 0.9])
    monkeypatch.setattr("nrms.train.validate", lambda model, part, config: next(values))
    run = train(resolve(4, "newsroom-tiny", device="cpu", name="patient", epochs=6, validations=1, patience=3, decay=False))
    each = run.record["steps"] // 5
    assert run.record["best_valid"] == 0.7 and run.record["best_step"] == 2 * each and run.record["steps"] == 5 * each


def test_a_first_loss_off_chance_stops():
    """log(5) = 1.61 nats is what a model that knows nothing has; 3 nats is a bug."""
    check_loss(1.7, 1.609, 0)
    with pytest.raises(NrmsError, match="first loss is 3.00"):
        check_loss(3.0, 1.609, 0)
    with pytest.raises(NrmsError, match="is it told the answer"):
        check_loss(0.7, 1.609, 0)
    check_loss(0.7, 1.609, 0, knows=True)
    check_loss(3.0, 1.609, 0, spread=1.5)
    with pytest.raises(NrmsError, match="`cca` of the loss is no number"):
        check_losses({"bpr": torch.tensor(1.0), "cca": torch.tensor(float("nan"))}, 7)


def test_constant_scores_stop(place, monkeypatch):
    """A model that ranks nothing is stopped at its first validation, and run.json says why."""
    monkeypatch.setattr(ranking, "rank_impressions", lambda model, vectors, part, history: torch.zeros(len(part.candidates.values)).numpy())
    with pytest.raises(NrmsError, match="the same score"):
        train(small(name="constant"))
    run = Run(run_folder("newsroom-tiny", "constant", 0))
    assert run.status == "failed" and "the same score" in run.record["error"]


def test_a_group_that_stands_still_stops():
    """Weights without a gradient have not moved."""
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([{"params": [weight], "name": "head", "lr": 1e-3}])
    with pytest.raises(NrmsError, match=r"0\.0% of the weights of the group `head`"):
        check_movement(Movement({"head": [weight]}).measure(), optimizer)


def test_a_live_run_is_not_disturbed(place):
    """A run that another process is busy with is refused; one whose process is gone goes on."""
    run = Run(run_folder("newsroom-tiny", "busy", 0))
    run.begin()
    assert run.status == "running"
    run.update(pid=1, process_started=process_started(1))
    with pytest.raises(NrmsError, match="process 1"):
        train(small(name="busy"))
    run.update(process_started=0.0)  # the number has gone to another process since
    assert run.status == "dead"
    run.update(pid=2**22 + 1)
    assert run.status == "dead" and train(small(name="busy")).status == "trained"


def test_evaluation_needs_training(place):
    """Evaluating what is not trained, or trained with other values, is one sentence."""
    with pytest.raises(NrmsError, match="its status is missing"):
        evaluate(small())
    train(small())
    with pytest.raises(NrmsError, match="no run trained with these values"):
        evaluate(small(lr=1e-3))


def test_the_whole_way(place):
    """Train, evaluate, references: done, and every reference in its place; random is chance and the ceiling is the best."""
    train(small())
    run = evaluate(small())
    runs = evaluate_references(small())
    assert run.status == "done" and [r.folder.parent.name for r in runs][:4] == ["random", "popularity", "recency", "content"]
    means = {r.folder.parent.name: json.loads((r.folder / "metrics.json").read_text())["all"]["auc"]["mean"] for r in runs}
    assert abs(means["random"] - 0.5) < 0.05 and max(means, key=means.get) == "ceiling"
    assert all(next(iter(json.loads((run.folder / name).read_text()))) == "all" for name in ("metrics.json", "beyond.json"))


def test_a_given_checkpoint_is_evaluated_without_training(trained):
    """The same numbers as the run it comes from, in a run folder of its own; done once; nothing is trained."""
    run = evaluate_after_training()
    given = small(checkpoint=str(run.folder / "checkpoint" / "best.safetensors"))
    other = evaluate(given)
    assert other.folder != run.folder and other.status == "done" and not (other.folder / "history.jsonl").exists()
    assert (other.folder / "metrics.json").read_text() == (run.folder / "metrics.json").read_text()
    stamp = (other.folder / "metrics.json").stat().st_mtime_ns
    assert (evaluate(given).folder / "metrics.json").stat().st_mtime_ns == stamp


def evaluate_after_training():
    train(small())
    return evaluate(small())


@pytest.mark.parametrize(
    "values, words",
    [
        ({"dim": 16}, "-p dim 32"),
        ({"title_tokens": 9}, "trained with title_tokens 30, here 9"),
        ({"pooling": "mean"}, "'attention', here 'mean'"),
        ({"bert": "some/model"}, "its `bert` was 'local'"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(trained, values, words):
    """Another width, another reading, another encoder: one sentence with what to give, before any work."""
    path = train(small()).folder / "checkpoint" / "best.safetensors"
    with pytest.raises(NrmsError, match=words):
        evaluate(small(checkpoint=str(path), **values))


def test_a_checkpoint_of_other_news_is_refused(trained, monkeypatch):
    """A local encoder belongs to the news it was pre-trained on."""
    path = train(small()).folder / "checkpoint" / "best.safetensors"
    with pytest.raises(NrmsError, match="does not fit newsroom-tiny"):
        evaluate(small(checkpoint=str(path), world=dict(small().data.world.model_dump(), seed=5)))


def test_a_given_checkpoint_is_not_trained(place):
    """Training with a checkpoint given is refused in a sentence, and makes no run."""
    config = small(checkpoint="somewhere/best.safetensors")
    with pytest.raises(NrmsError, match="given to be evaluated"):
        train(config)
    assert not run_folder(config.dataset, config.name, config.seed).exists()


def test_a_wrong_checkpoint_file_is_a_sentence(place, tmp_path):
    """No file, a file of something else, a last.safetensors: each is refused with what to give."""
    save_checkpoint(tmp_path / "last.safetensors", {"a": torch.ones(1)}, {"step": 3})
    (tmp_path / "x.safetensors").write_text("no")
    for name, words in (("none.safetensors", "not a checkpoint"), ("x.safetensors", "not a checkpoint"), ("last.safetensors", "best.safetensors")):
        with pytest.raises(NrmsError, match=words):
            evaluate(small(checkpoint=str(tmp_path / name)))


def test_candidates_with_and_without_pictures_are_ranked_apart(trained):
    """Slices of candidates: metrics among those with a picture equal those of impressions cut down to them."""
    run = evaluate_after_training()
    tables = load("newsroom-tiny", small().data)
    test = split_by_time(tables.parts, 0.1).test
    rows = pq.read_table(run.folder / "rows.parquet")
    scores, expected = ragged(rows["scores"]), []
    for r in range(len(test)):
        kept = tables.pixels.present[test.candidates[r]]
        y = test.clicked[test.candidates.offsets[r] : test.candidates.offsets[r + 1]][kept]
        expected.append(roc_auc_score(y, scores[r][kept]) if 0 < y.sum() < len(y) else np.nan)
    assert np.allclose(rows["auc: candidates with a picture"].to_numpy(), expected, equal_nan=True)
    found = json.loads((run.folder / "metrics.json").read_text())["candidates with a picture"]["auc"]
    assert found["mean"] == pytest.approx(np.nanmean(expected)) and found["n"] + found["skipped"] == len(test)


def test_checkpoints_are_never_pickles(tmp_path):
    """A pickle given as a checkpoint is refused unread."""
    torch.save({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(NrmsError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "x.safetensors")


class Plain:
    """As much of an accelerator as one process in fp32 needs."""

    def autocast(self):
        return contextlib.nullcontext()

    def backward(self, loss):
        loss.backward()

    def unwrap_model(self, model):
        return model


def gradients(tiny, split, seed=0, reuse=None, **given):
    """Loss, items encoded and gradients of one batch of the tiny world."""
    config = resolve(4, "newsroom-tiny", device="cpu", **given)
    torch.manual_seed(seed)
    model = build(config, tiny).train()
    batch = next(ClickSampler(split.train, batch_size=32, negatives=4, history=50, seed=0).epoch(0))
    torch.manual_seed(seed)
    parts, encoded = backward(model, batch, config, Plain(), reuse and reuse(model))
    return parts[config.objective].item(), encoded, [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("part", [7, 50])
def test_two_passes_give_the_same_gradients(tiny, split, part):
    """Items encoded in parts, gradients made in two passes: the same loss and gradients as at once, to 1e-5."""
    at_once, in_parts = (gradients(tiny, split, dropout=0.0, **given) for given in ({}, {"encode_at_once": part}))
    assert in_parts[0] == pytest.approx(at_once[0], abs=1e-5) and in_parts[1] == at_once[1]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(at_once[2], in_parts[2], strict=True))


def test_two_passes_repeat_their_dropout(tiny, split):
    """With dropout and one part the two passes are the one pass: the second draws what the first drew."""
    at_once, in_parts = (gradients(tiny, split, dropout=0.3, **given) for given in ({}, {"encode_at_once": 10_000}))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(at_once[2], in_parts[2], strict=True))


def test_vectors_that_stand_in_expire(tiny):
    """A vector is taken for at most `steps` steps; what is encoded anew has a gradient, what stands in has none; drift is 0 for weights at rest."""
    model = build(resolve(4, "newsroom-tiny", device="cpu", dropout=0.0), tiny)
    reuse, ids = VectorReuse(model.items, items=len(tiny.items), steps=2, patience=1e-9), torch.arange(1, 9)
    fresh, first = reuse(ids), []
    assert reuse.encoded == 8 and fresh.requires_grad
    for step in range(4):
        vectors = reuse(ids)
        first.append((reuse.encoded, vectors.requires_grad))
        assert torch.allclose(vectors, fresh, atol=1e-6), step
    assert first == [(0, False), (0, False), (8, True), (0, False)]
    reuse.steps = 0
    reuse(ids)
    reuse.steps = 99
    assert np.isnan(VectorReuse(model.items, items=9, steps=1, patience=1).drift)


def test_reuse_learns_and_says_its_drift(place):
    """Training with vectors that stand in encodes fewer items, learns, and logs how stale they were."""
    plain, reused = train(small(name="plain")), train(small(name="reused", reuse_steps=5))
    assert reused.record["encoded"] < 0.95 * plain.record["encoded"] and reused.record["samples"] == plain.record["samples"]
    drifts = [json.loads(line)["drift"] for line in (reused.folder / "history.jsonl").read_text().splitlines()]
    assert any(d > 0 for d in drifts if d == d)
