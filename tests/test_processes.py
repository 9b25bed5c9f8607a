"""Several processes: the same losses, gradients and metrics as one; one that dies takes the others with it, and the run goes on afterwards."""

import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import warm
from conftest import copy
from safetensors.torch import load_file

from nrms import ROOT, NrmsError
from nrms.config import resolve
from nrms.data.batches import Batch
from nrms.runtime import Run, distributed
from nrms.train import train

TWO = ("--standalone", "--nproc-per-node", "2")
VALUES = {"dim": 16, "heads": 2, "query_dim": 8, "dropout": 0.1, "batch_size": 7, "epochs": 16, "device": "cpu"}
TRAIN = ["-m", "nrms.train", "idrec_sasrec", "--dataset", "movies", *(str(word) for k, v in VALUES.items() for word in ("-p", k, v))]


@pytest.fixture(scope="module")
def place(tiny, board, tmp_path_factory):
    """A home with the smallest demo world and the checkerboard."""
    folder = tmp_path_factory.mktemp("several")
    copy(tiny.folder, folder / "data" / "newsroom-tiny")
    copy(board[0] / "data" / "movies", folder / "data" / "movies")
    return folder


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"NRMS_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def start(home: Path, count: int, words: list[str]) -> list[warm.Process]:
    """`count` processes that find each other as those that torchrun starts do."""
    group = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    ranks = [group | {"RANK": str(i), "LOCAL_RANK": str(i)} if count > 1 else {} for i in range(count)]
    return [warm.Process(words, environment(home) | rank, ROOT) for rank in ranks]


def torchrun(home: Path, *words: str, python: Path | str = sys.executable) -> warm.Process:
    """torchrun, whose processes are started by `python`."""
    return warm.Process(["-m", "torch.distributed.run", *words], environment(home) | {"PYTHON_EXEC": str(python)}, ROOT)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def finish(processes: list) -> None:
    ends = [process.communicate(timeout=600) for process in processes]
    assert all(process.returncode == 0 for process in processes), ends


@pytest.fixture(scope="module")
def alone(place):
    """What one process finds."""
    finish(start(place, 1, ["tests/several.py", str(place / "alone.safetensors")]))
    return load_file(place / "alone.safetensors")


@pytest.mark.parametrize("count", [2, 3])
def test_several_find_what_one_finds(count, place, alone):
    """Losses by part, gradients of all weights, metrics and ranks of every experiment's kind, also where rows do not divide evenly: to 1e-6."""
    path = place / f"several{count}.safetensors"
    finish(start(place, count, ["tests/several.py", str(path)]))
    together = load_file(path)
    assert together.keys() == alone.keys() and len(alone) > 300
    for name, value in alone.items():
        both = together[name].double(), value.double()
        assert torch.equal(*(x.isnan() for x in both)), name
        here, there = (x.nan_to_num() for x in both)
        assert (here - there).norm() <= 1e-6 * max(1.0, there.norm()), name


def test_shares_are_whole_and_even(monkeypatch):
    """All of n things, each once, in order; no process has two more than another."""
    monkeypatch.setattr(distributed, "process_count", lambda: 3)
    for n in range(12):
        shares = [distributed.share(n, of) for of in range(3)]
        assert [i for share in shares for i in share] == list(range(n)) and max(map(len, shares)) - min(map(len, shares)) <= 1


def test_rows_of_readers_are_a_batch():
    """Of two histories the second alone: its rows, counted from 0 again; candidates that all share stay."""
    batch = Batch(
        history=torch.tensor([[1, 2], [3, 0]]),
        history_mask=torch.tensor([[True, True], [True, False]]),
        history_id=torch.tensor([1, 0, 1]),
        candidates=torch.tensor([4, 5]),
        candidate_mask=torch.ones(3, 2, dtype=torch.bool),
        clicked=torch.tensor([[True, False], [False, True], [False, True]]),
        position=torch.tensor([0, 1, 1]),
    )
    part, rows = batch.of_histories(1, 2)
    assert rows.tolist() == [0, 2] and part.history.tolist() == [[3, 0]] and part.history_id.tolist() == [0, 0]
    assert part.candidates.tolist() == [4, 5] and part.target.tolist() == [4, 5] and part.position.tolist() == [0, 1] and part.hidden is None


def run_of(home: Path) -> Path:
    return next(home.glob("reports/movies/*/seed0"))


def weights(home: Path) -> dict[str, torch.Tensor]:
    return load_file(run_of(home) / "checkpoint" / "best.safetensors")


def record(home: Path) -> dict:
    return json.loads((run_of(home) / "run.json").read_text())


def log(home: Path) -> list[dict]:
    return [json.loads(line) for line in (run_of(home) / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def homes(board, tmp_path_factory):
    """Makes homes of their own with the checkerboard."""

    def make():
        home = tmp_path_factory.mktemp("home")
        copy(board[0] / "data", home / "data")
        return home

    return make


@pytest.fixture(scope="module")
def two(homes):
    """The home of a run of two processes that nobody disturbed."""
    home = homes()
    finish(start(home, 2, TRAIN))
    return home


def test_a_run_of_two_learns_as_a_run_of_one(homes):
    """Without dropout the same losses and validations at every step that is logged; one record, one log."""
    one, both, still = homes(), homes(), ["-p", "dropout", "0.0", "-p", "epochs", "3"]
    finish(start(one, 1, TRAIN + still))
    finish(start(both, 2, TRAIN + still))
    assert (record(one)["processes"], record(both)["processes"]) == (1, 2) and len(log(one)) == len(log(both)) > 10
    for here, there in zip(log(both), log(one), strict=True):
        assert here["loss"]["listwise"] == pytest.approx(there["loss"]["listwise"], rel=1e-4) and here["step"] == there["step"]
        assert here.get("valid", 0.0) == pytest.approx(there.get("valid", 0.0), rel=1e-4)


def until_it_learns(home: Path, process: warm.Process) -> None:
    while not list(home.glob("reports/movies/*/seed0/checkpoint/last.safetensors")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_one_that_is_killed_takes_the_others_with_it(rank, homes, two):
    """SIGKILL to one of two: the other says why it stops, all are gone within a minute, and the same command ends with the same weights."""
    home = homes()
    process = torchrun(home, *TWO, "--monitor-interval", "3", *TRAIN)  # the other one sees it before torchrun does, and tells it to end
    until_it_learns(home, process)
    workers = [p for p in psutil.Process(process.pid).children(recursive=True) if p.environ().get("RANK") in ("0", "1")]
    next(p for p in workers if p.environ()["RANK"] == rank).kill()
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0 and "Another process of this run has ended" in error, error
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in workers)
    assert Run(run_of(home)).status == ("dead" if rank == "0" else "failed")
    finish(start(home, 2, TRAIN))
    assert record(home)["status"] == "trained" and all(torch.equal(v, weights(home)[k]) for k, v in weights(two).items())


@pytest.mark.parametrize("count", [1, 2])
def test_who_is_asked_to_end_saves_and_goes_on(count, homes, two):
    """SIGTERM: the run is stopped at the step it was at, all processes are gone, and the same command ends as if nothing had been."""
    home = homes()
    (process,) = start(home, 1, TRAIN) if count == 1 else [torchrun(home, *TWO, *TRAIN, python=warm.executable())]
    until_it_learns(home, process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75 if count == 1 else process.returncode != 0
    assert "saved step" in error and record(home)["status"] == "stopped" and (run_of(home) / "checkpoint" / "last.safetensors").exists()
    finish(start(home, count, TRAIN))
    assert record(home)["status"] == "trained"
    if count == 2:
        assert all(torch.equal(v, weights(home)[k]) for k, v in weights(two).items())


SLOW = """
import sys, time
from pathlib import Path
from nrms import train
from nrms.runtime import distributed
from nrms.runtime.terminal import command

real, begun = train.validate, Path(sys.argv.pop(1))

def validate(*args):
    begun.touch()
    if not distributed.process_index():
        time.sleep(120)
    return real(*args)

train.validate = validate
command(train.main)
"""


def test_a_validation_of_two_is_broken_off(homes, two, tmp_path):
    """SIGTERM while process 0 validates and process 1 waits for it: both end at once, and the same command judges what was saved."""
    home, script = homes(), tmp_path / "slow.py"
    script.write_text(SLOW)
    processes = start(home, 2, [str(script), str(tmp_path / "validating"), *TRAIN[2:]])
    while not (tmp_path / "validating").exists():
        assert all(process.poll() is None for process in processes), [process.communicate() for process in processes]
        time.sleep(0.1)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert all("saved step" in error for error in errors) and record(home)["status"] == "stopped"
    finish(start(home, 2, TRAIN))
    assert all(torch.equal(v, weights(home)[k]) for k, v in weights(two).items())


def test_processes_can_be_started_from_one(homes, two, monkeypatch):
    """`processes` 2, as a notebook has it: the run of two, under its own name and with its own record; a failure is the sentence they said."""
    home = homes()
    monkeypatch.setenv("NRMS_HOME", str(home))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHON_EXEC", str(warm.executable()))
    run = train(resolve("idrec_sasrec", "movies", **VALUES, processes=2))
    assert run.status == "trained" and run.record["processes"] == 2 and run_of(home) == run.folder
    assert run.record["hash"] == resolve("idrec_sasrec", "movies", **VALUES).hash
    assert all(torch.equal(v, weights(home)[k]) for k, v in weights(two).items())
    with pytest.raises(NrmsError, match="try a smaller learning rate"):
        train(resolve("idrec_sasrec", "movies", **VALUES | {"epochs": 1, "lr": 1e30}, processes=2))


def test_two_judge_as_one(homes, two):
    """The test part, shared out: the same metrics to 1e-6, every question once."""
    both, one = homes(), homes()
    for home, count in ((both, 2), (one, 1)):
        shutil.copytree(two / "reports", home / "reports")
        finish(start(home, count, ["-m", "nrms.evaluate", *TRAIN[2:]]))
    theirs, ours = (json.loads((run_of(home) / "metrics.json").read_text())["all"] for home in (one, both))
    assert theirs.keys() == ours.keys() and record(both)["status"] == "done"
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-6)


def test_two_machines_are_two_agents(homes, two):
    """Two agents of torchrun that find each other by an address, as on two machines with one folder: the weights of two processes on one machine."""
    home = homes()
    meet = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "nrms", "--rdzv-endpoint", f"localhost:{free_port()}"]
    finish([torchrun(home, *meet, *TRAIN, python=warm.executable()) for _ in range(2)])
    assert record(home)["processes"] == 2 and all(torch.equal(v, weights(home)[k]) for k, v in weights(two).items())
