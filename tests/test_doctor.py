"""The doctor: what is sound is ok, and each fault made on purpose is found, in a line that says what to do."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch
import warm
from conftest import copy_world

from nrms import ROOT, doctor
from nrms.config import PARAMS, params_files, resolve
from nrms.report.pages import index_page
from nrms.runtime import Run, data_folder, run_folder
from nrms.runtime.files import write_json

HOST = socket.gethostname()
DEAD = 2**22 + 1  # no process has such a number


@pytest.fixture
def place(home):
    """A home with the tiny world, and one finished run on it."""
    copy_world(home)
    run = Run(run_folder("newsroom-tiny", "exp4", 0))
    run.begin(kind="model", protocol="impressions", config=resolve(4, "newsroom-tiny").model_dump(), family="a")
    write_json(run.folder / "metrics.json", {"all": {}})
    (run.folder / "rows.parquet").touch()
    run.update(status="done")
    write_json(home / "reports" / "index.html", {})
    return home


def lines(check, state):
    return [finding.text for finding in check() if finding.state == state]


def only(check, state):
    """The one line of a check that is not ok."""
    (line,) = [finding for finding in check() if finding.state != "ok"]
    assert line.state == state, line
    return line.text


@pytest.fixture(scope="module")
def command():
    """How `python -m nrms doctor` ends at a home."""

    def doctor(home):
        env = os.environ | {"NRMS_HOME": str(home), "PYTHONPATH": str(ROOT)}
        process = warm.Process(["-m", "nrms", "doctor"], env, ROOT)
        out, error = process.communicate()
        return subprocess.CompletedProcess("doctor", process.returncode, out, error)

    return doctor


def test_what_is_sound_is_ok(place, command):
    """An installation with a data set and a run: a line for each check, none of them wrong or a note but about the machine; status 0."""
    done = command(place)
    said = done.stdout.splitlines()
    assert done.returncode == 0 and said[-1] == "Nothing is wrong." and not done.stderr, done.stdout + done.stderr
    assert all(line.startswith("ok ") or " GPU" in line or "GB are free" in line for line in said[:-1]), done.stdout
    assert any("data/newsroom-tiny is whole" in line for line in said) and any("1 runs can be read, 1 done" in line for line in said)


def test_what_is_wrong_ends_with_1(place, command):
    """One damaged table: its line, and status 1. Nothing is changed."""
    path = data_folder("newsroom-tiny") / "news.parquet"
    path.unlink()
    done = command(place)
    assert (
        done.returncode == 1 and done.stdout.splitlines()[-1] == "1 thing is wrong." and "wrong  data/newsroom-tiny lacks news.parquet" in done.stdout
    )
    assert not path.exists()


def test_a_place_that_is_new_is_ok(home, monkeypatch):
    """Nothing prepared, nothing run, a folder that does not exist yet."""
    monkeypatch.setenv("NRMS_HOME", str(home / "new" / "place"))
    for check in (doctor.places, doctor.data, doctor.left_over, doctor.runs, doctor.report):
        assert not lines(check, "wrong")
    assert "prepared yet" in lines(doctor.data, "ok")[0] and "nrms demo" in lines(doctor.report, "ok")[0] and not (home / "new").exists()


def test_packages(monkeypatch):
    """One too old, one not there, one not there that only development needs; each with its pip line."""
    versions = {"scipy": "1.1", "peft": None, "ruff": None, "nrms": None}
    real = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda name: versions.get(name, real(name)) if name in versions else real(name))
    own, *bad = lines(doctor.requirements, "wrong")
    assert "pip install -e" in own and len(bad) == 2
    assert "peft is not installed: `pip install 'peft>=0.17'`" in bad[0] and "scipy is installed as 1.1" in bad[1] and "'scipy>=1.15'" in bad[1]
    assert "ruff is not installed, for development alone" in lines(doctor.requirements, "note")[0]


def test_a_package_that_is_not_there_is_known(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    assert doctor.installed("numpy") == np.__version__
    monkeypatch.setattr(doctor, "version", missing)
    assert doctor.installed("numpy") is None


def test_another_python(monkeypatch, tmp_path):
    (tmp_path / "pyproject.toml").write_text('requires-python = ">=3.99"\n')
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    assert "asks for >=3.99" in only(doctor.python, "wrong") and "pip install -r" in only(doctor.python, "wrong")


def test_a_gpu_that_torch_does_not_know(monkeypatch):
    """A card beside a torch without CUDA, or with one that cannot use it: a note each; a torch that computes nothing is wrong."""
    monkeypatch.setattr(doctor, "has_nvidia", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA: install another build" in only(doctor.torch, "note")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "driver" in only(doctor.torch, "note")
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.zeros(2, 2))
    assert "torch cannot compute" in only(doctor.torch, "wrong") and "--force-reinstall torch==" in only(doctor.torch, "wrong")


def test_a_gpu_that_does_not_compute(monkeypatch):
    """torch lists a card, but has no code for it."""
    real = torch.ones

    def no_kernel(*shape, device="cpu"):
        if device == "cuda":
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")
        return real(*shape)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", no_kernel)
    assert "no kernel image" in only(doctor.torch, "wrong") and "-p device cpu" in only(doctor.torch, "wrong")


def test_a_kernel_of_another_python(monkeypatch, tmp_path):
    """A kernel that stands before ours and starts another Python; no kernel at all."""
    write_json(tmp_path / "kernels" / "python3" / "kernel.json", {"argv": ["/opt/other/bin/python", "-m", "ipykernel_launcher"], "display_name": "x"})
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    text = only(doctor.kernel, "wrong")
    assert "/opt/other/bin/python" in text and str(tmp_path) in text and "ipykernel install --sys-prefix" in text
    monkeypatch.setattr("jupyter_client.kernelspec.KernelSpecManager._find_spec_directory", lambda *_: None)
    monkeypatch.setattr("jupyter_client.kernelspec.KernelSpecManager.ensure_native_kernel", False)
    assert "no Jupyter kernel" in only(doctor.kernel, "wrong")


def test_no_template(monkeypatch):
    monkeypatch.setattr("nbconvert.HTMLExporter.template_name", "nowhere")
    assert "pip install --force-reinstall nbconvert" in only(doctor.pages, "wrong")


def test_a_home_without_room_or_rights(home, monkeypatch):
    """Little room is a note; what may not be written is wrong, and named."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("usage", "free")(1 << 30))
    assert "1.0 GB are free" in only(doctor.places, "note") and "NRMS_HOME" in only(doctor.places, "note")
    monkeypatch.undo()
    monkeypatch.setenv("NRMS_HOME", str(home))
    (home / "reports").mkdir()

    def refuse(dir):
        if dir == home / "reports":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return open(os.devnull, "wb")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    (text,) = lines(doctor.places, "wrong")
    assert text.startswith(f"{home / 'reports'} cannot be written (Read-only file system)") and "NRMS_HOME" in text


def test_a_wrong_params_file(monkeypatch, tmp_path):
    """A misspelt parameter of an experiment, a data set's file that is not YAML: each is named with its fault."""
    shutil.copytree(PARAMS, tmp_path / "params")
    with (tmp_path / "params" / "exp4.yaml").open("a") as file:
        file.write("\nepoch: 3\n")
    (tmp_path / "params" / "data" / "movies-random.yaml").write_text("a: [")
    for module in (doctor, params_files):
        monkeypatch.setattr(module, "PARAMS", tmp_path / "params")
        monkeypatch.setattr(module, "ROOT", tmp_path)
    first, second = lines(doctor.params, "wrong")
    assert first.startswith("params/exp4.yaml: `epoch`") and "did you mean `epochs`" in first and "not YAML" in second


def spoil(path):
    """Changes one byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "harm, words",
    [
        (lambda f: (f / "manifest.json").unlink(), "has no manifest.json"),
        (lambda f: (f / "manifest.json").write_text('{"tables"'), "cannot be read (JSONDecodeError"),
        (lambda f: (f / "manifest.json").write_text("[]"), "cannot be read (TypeError"),
        (lambda f: (f / "dev.parquet").unlink(), "lacks dev.parquet"),
        (lambda f: spoil(f / "news.parquet"), "its SHA-256 differs"),
        (lambda f: spoil(f / "images.npy"), "has another images.npy"),
        (lambda f: os.truncate(f / "train.parquet", 100), "has another train.parquet"),
        (lambda f: os.truncate(f / "images.npy", 1000), "has another images.npy"),
    ],
)
def test_a_damaged_data_set(place, harm, words):
    """What is missing, cut off or altered is named, with the command that makes it anew."""
    harm(data_folder("newsroom-tiny"))
    text = only(doctor.data, "wrong")
    assert words in text and text.startswith("data/newsroom-tiny") and "`python -m nrms prepare newsroom-tiny` makes it anew" in text


def test_a_large_file_is_not_read_whole(place, monkeypatch):
    """Above a size a file is opened, not hashed, and that is said; cut off, it is found all the same."""
    folder = data_folder("newsroom-tiny")
    monkeypatch.setattr(doctor, "HASHED", 1000)
    spoil(folder / "images.npy")
    assert "not hashed" in lines(doctor.data, "ok")[0] and "images.npy" in lines(doctor.data, "ok")[0]
    os.truncate(folder / "images.npy", 5000)
    assert "has another images.npy" in only(doctor.data, "wrong")


def test_an_outdated_data_set(place, board):
    """A demo world is made anew by itself, so it is a note; a log must be prepared again by hand; a folder without a file in params is a note."""
    path = data_folder("newsroom-tiny") / "manifest.json"
    before = json.loads(path.read_text())
    for change in ({"key": "0"}, {"format": 1}):
        write_json(path, before | change)
        assert "made anew when it is used next" in only(doctor.data, "note")
    write_json(path, before)
    shutil.copytree(board[0] / "data" / "movies", data_folder("movies"))
    assert not lines(doctor.data, "wrong") + lines(doctor.data, "note")
    write_json(data_folder("movies") / "manifest.json", json.loads((data_folder("movies") / "manifest.json").read_text()) | {"key": "0"})
    assert "`python -m nrms prepare movies --from FOLDER` makes it anew" in only(doctor.data, "wrong")
    shutil.rmtree(data_folder("movies"))
    data_folder("mine").mkdir()
    assert "data/mine belongs to no data set" in only(doctor.data, "note")


def test_what_dead_processes_left(place):
    """Unfinished files of the dead may be deleted, those of the living are theirs; a data set that was being replaced can be had back."""
    folder = data_folder("newsroom-tiny")
    (folder / f".x.npy.{HOST}.{DEAD}.part").touch()
    (folder / f".y.npy.{HOST}.{os.getpid()}.part").touch()
    text = only(doctor.left_over, "note")
    assert text.startswith("data/newsroom-tiny/.x.npy") and f"rm -r {folder}/.x.npy.{HOST}.{DEAD}.part" in text
    (folder / f".x.npy.{HOST}.{DEAD}.part").unlink()
    old = folder.with_name(f".newsroom-tiny.{HOST}.{DEAD}.old")
    folder.rename(old)
    text = only(doctor.left_over, "wrong")
    assert f"`mv {old} {folder}`" in text
    subprocess.run(text.split("`")[1], shell=True, check=True)
    assert not lines(doctor.left_over, "wrong") and not lines(doctor.data, "wrong")


def test_what_makes_a_run_again():
    """An experiment by `run`, with its values; an ensemble by its members, which needs no force; a baseline beside any experiment."""
    own = {"config": {"exp": "exp4", "name": "exp4-epochs1", "given": {"epochs": 1}}}
    assert doctor.again("movies", own, [0, 1], force=True) == "python -m nrms run exp4 --dataset movies --seeds 0 1 -p epochs 1 --force"
    both = {"config": {"given": {"of": "lightgcn + vbpr"}}}
    assert doctor.again("movies", both, [2], force=True) == "python -m nrms ensemble lightgcn vbpr --dataset movies --seeds 2"
    assert doctor.again("movies", {"config": {}}, [0]) == "python -m nrms run EXP --dataset movies"


def test_runs_that_did_not_end_well(place):
    """Dead, failed and stopped runs are notes with the command that goes on, seeds together; an unreadable one, or one without numbers, is wrong."""
    facts = {"kind": "model", "config": resolve(4, "newsroom-tiny", name="mine", epochs=1).model_dump()}
    for seed, change in ((0, {"pid": DEAD}), (1, {"pid": DEAD}), (2, {"status": "failed", "error": "the cat sat on it"}), (3, {"status": "stopped"})):
        run = Run(run_folder("newsroom-tiny", "mine", seed))
        run.begin(**facts)
        run.update(**change)
    dead, failed, stopped = lines(doctor.runs, "note")
    assert "mine is dead, seeds 0, 1: `python -m nrms run exp4 --dataset newsroom-tiny --seeds 0 1 -p epochs 1 -p name mine` goes on" in dead
    assert "is failed, seeds 2 (the cat sat on it)" in failed and "is stopped, seeds 3" in stopped and not lines(doctor.runs, "wrong")
    (run.folder / "run.json").write_text("{")
    assert "cannot be read" in lines(doctor.runs, "wrong")[0] and f"delete {run.folder}" in lines(doctor.runs, "wrong")[0]
    shutil.rmtree(run.folder)
    other = Run(run_folder("newsroom-tiny", "exp4", 0))
    other.update(data={"news.parquet": "of other news"})
    (stale,) = [line for line in lines(doctor.runs, "note") if "stale" in line]
    assert "exp4 is stale, seeds 0: `python -m nrms run exp4 --dataset newsroom-tiny --seeds 0` makes it anew" in stale
    (other.folder / "metrics.json").unlink()
    assert "`python -m nrms run exp4 --dataset newsroom-tiny --seeds 0 --force`" in lines(doctor.runs, "wrong")[0]


def test_a_report_that_is_old(place):
    """A run that is newer than the page, or no page: a note until the report is rebuilt."""
    index = place / "reports" / "index.html"
    os.utime(index, (0, 0))
    assert "older than the newest run" in only(doctor.report, "note")
    index.unlink()
    assert "`python -m nrms report`" in only(doctor.report, "note")
    shutil.rmtree(run_folder("newsroom-tiny", "exp4", 0).parent)
    index_page.write()
    assert not lines(doctor.report, "note")


def test_a_check_that_fails_is_a_finding(monkeypatch):
    """The other checks go on."""

    def broken_check():
        raise ImportError("no module named packaging")

    monkeypatch.setattr(doctor, "CHECKS", (broken_check, doctor.params))
    first, second = doctor.examine()
    assert first.state == "wrong" and "broken check" in first.text and "pip install -r requirements.txt" in first.text and second.state == "ok"


def test_without_its_packages_a_command_says_what_to_install():
    """Before anything is installed `python -m nrms doctor` is one sentence."""
    code = "import sys, runpy; sys.modules['pydantic'] = None; sys.argv = ['nrms', 'doctor']; runpy.run_module('nrms', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("nrms: pydantic is not installed: `pip install -r requirements.txt`"), done.stderr
