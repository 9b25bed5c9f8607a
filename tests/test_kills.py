"""Killed anywhere, started again: nothing is torn, nothing lies, and in the end all is as if nothing had been.

pytest tests/test_kills.py                  a few kills
pytest -m slow tests/test_kills.py          sixty of them
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import warm
from conftest import write_log
from safetensors.torch import load_file

from nrms import ROOT
from nrms.config import load_dataset
from nrms.data.prepare import load, prepare
from nrms.runtime import Run, data_folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log") / "in"
    write_log(folder)
    return folder


def start(home: Path, source: Path, *words: str) -> warm.Process:
    surroundings = os.environ | {"NRMS_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return warm.Process([ROOT / "tests" / "killed.py", source, *words], surroundings, ROOT)


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory):
    """Its home, how often it touched a file there, and how long it took."""
    home, began = tmp_path_factory.mktemp("undisturbed"), time.perf_counter()
    process = start(home, source)
    out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    return home, int(out.split()[-1]), time.perf_counter() - began


def check_nothing_is_torn(home: Path) -> None:
    """Every file that is not hidden reads to its end, and a run that is said to be done has all its results."""
    readers = {".json": lambda p: json.loads(p.read_text()), ".parquet": pq.read_table, ".safetensors": load_file, ".npy": np.load}
    for path in home.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(home).parts)
        if path.is_file() and path.suffix in readers and not hidden:
            readers[path.suffix](path)
        if path.name == "index.html":
            assert path.read_text().rstrip().endswith("</html>")
    for path in home.rglob("run.json"):
        if Run(path.parent).status == "done":
            assert (path.parent / "metrics.json").exists() and (path.parent / "rows.parquet").exists()


def same(home: Path, other: Path) -> None:
    """Bit-equal weights, equal metrics of every run, the same log, and no checkpoint to go on from."""
    folder = "reports/movies/killed/seed0"
    here, there = (load_file(h / folder / "checkpoint" / "best.safetensors") for h in (home, other))
    assert here.keys() == there.keys() and all(torch.equal(here[k], v) for k, v in there.items())
    assert not (home / folder / "checkpoint" / "last.safetensors").exists()
    found = [{p.relative_to(h): json.loads(p.read_text()) for p in h.rglob("metrics.json")} for h in (home, other)]
    assert found[0] == found[1] and len(found[0]) > 3
    logs = [[json.loads(line) for line in (h / folder / "history.jsonl").read_text().splitlines()] for h in (home, other)]
    assert [(line["step"], line["loss"], line.get("valid")) for line in logs[0]] == [
        (line["step"], line["loss"], line.get("valid")) for line in logs[1]
    ]
    assert Run(home / folder).status == "done"
    assert not list(home.rglob(".*.old"))


def kill_and_go_on(kills: int, source: Path, undisturbed: tuple[Path, int, float], folder: Path, seed: int) -> int:
    """Starts, kills at a random moment or at a random touch of a file, checks, starts again; a run that ends well is compared. Returns the kills."""
    whole, touches, seconds = undisturbed
    rng, done, homes = random.Random(seed), 0, 0
    while done < kills:
        home, homes, ended = folder / f"home{homes}", homes + 1, False
        home.mkdir()
        here = 0
        while not ended:
            by_touch = rng.random() < 0.5
            if done >= kills or here >= 8:  # this one may end
                process = start(home, source)
            else:
                process = start(home, source, *([str(rng.randint(1, touches // 2))] if by_touch else []))
            if by_touch or done >= kills or here >= 8:
                _, error = process.communicate(timeout=600)
            else:
                try:
                    _, error = process.communicate(timeout=rng.uniform(0.3, 0.8) * seconds)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    _, error = process.communicate()
            ended = process.returncode == 0
            assert ended or process.returncode == -signal.SIGKILL, error
            done, here = done + (not ended), here + (not ended)
            check_nothing_is_torn(home)
        same(home, whole)
    return done


def test_killed_a_few_times(source, undisturbed, tmp_path):
    """SIGKILL at random moments and at random touches of files: whole files after each, bit-equal weights and equal metrics in the end."""
    assert kill_and_go_on(5, source, undisturbed, tmp_path, seed=0) >= 5


def test_a_data_set_that_was_put_aside_is_put_back(source, home):
    """Killed between the two renames of a new data set: the old one is read, and what the dead process had half made is cleared away."""
    data = load_dataset("movies")
    prepare("movies", data, source)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    aside, half = (data_folder("movies").with_name(f".movies.{socket.gethostname()}.{process.pid}.{kind}") for kind in ("old", "part"))
    data_folder("movies").rename(aside)
    half.mkdir()
    assert len(load("movies", data).items) == 25 and not aside.exists() and not half.exists()


@pytest.mark.slow
def test_killed_sixty_times(source, undisturbed, tmp_path):
    """The same, sixty times in a row."""
    assert kill_and_go_on(60, source, undisturbed, tmp_path, seed=time.time_ns()) >= 60


@pytest.mark.slow
def test_killed_at_every_kind_of_touch(source, undisturbed, tmp_path):
    """Killed once in each sixtieth of all touches of files, every time from nothing or from what the one before left."""
    whole, touches, _ = undisturbed
    for i in range(60):
        home = tmp_path / f"home{i // 10}"
        home.mkdir(exist_ok=True)
        process = start(home, source, str(1 + i * touches // 60))
        _, error = process.communicate(timeout=600)
        assert process.returncode in (0, -signal.SIGKILL), error
        check_nothing_is_torn(home)
        if i % 10 == 9:
            finish = start(home, source)
            _, error = finish.communicate(timeout=600)
            assert finish.returncode == 0, error
            same(home, whole)
