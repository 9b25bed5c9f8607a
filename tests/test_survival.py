"""When the machine gives out (no room, no right, no memory), tells us to stop, or has two of us at once: a sentence; what was there stays valid."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from nrms import ROOT, STOPPED, NrmsError, Stopped, pipeline, runtime
from nrms.config import resolve
from nrms.data.prepare import load, prepare, read_manifest
from nrms.report.pages import index_page
from nrms.runtime import Run, checkpoints, data_folder, errors, files, locks, run_folder, signals, terminal
from nrms.runtime.files import new_table, write_json
from nrms.runtime.locks import locked
from nrms.train import train

learning = sys.modules["nrms.train"]


def small(**given):
    return resolve(4, "newsroom-tiny", device="cpu", epochs=1, **given)


def start(*words, home, limit=None, **variables):
    """`python -m WORDS` in a process of its own, at home in `home`."""
    env = os.environ | {"NRMS_HOME": str(home), "PYTHONPATH": str(ROOT)} | variables
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", *words], env=env, cwd=ROOT, preexec_fn=limit, **pipes)


def until(true, process=None, seconds=120):
    """Waits for `true()`; fails where it does not come, or the process ends before."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end and (process is None or process.poll() is None), process and process.communicate()
        time.sleep(0.05)


def at_the_command_line(main):
    """What `command` says of the error that `main` raises."""
    with pytest.raises(SystemExit) as ended:
        terminal.command(main)
    return str(ended.value)


def raising(error):
    def main():
        raise error

    return main


# no room -------------------------------------------------------------------------------------------------------------


def full_disk(path, flags="r", *rest, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_a_full_disk_ends_training_in_a_sentence(place, monkeypatch):
    """The checkpoint finds no room: run.json says failed, the best weights of before are still whole, and the same run goes on when there is room."""
    run, real = Run(run_folder("newsroom-tiny", "full", 0)), checkpoints.save_checkpoint

    def second_is_too_much(path, *rest):
        if path.stem == "best" and path.exists():
            full_disk(path)
        real(path, *rest)

    monkeypatch.setattr("nrms.training.resume.save_checkpoint", second_is_too_much)
    text = at_the_command_line(lambda: train(small(name="full", validations=4)))
    assert text.startswith("nrms: The disk with") and "is full" in text and "NRMS_HOME" in text
    assert run.status == "failed" and checkpoints.load_checkpoint(run.folder / "checkpoint" / "best.safetensors")[0]
    monkeypatch.undo()
    monkeypatch.setenv("NRMS_HOME", str(place))
    assert train(small(name="full", validations=4)).status == "trained"


@pytest.mark.parametrize("at", ["write_json", "write_store"])
def test_a_full_disk_leaves_the_old_data_set(place, monkeypatch, at):
    """Preparing anew finds no room: a sentence, the data set of before, and nothing left over."""
    before = read_manifest("newsroom-tiny")
    monkeypatch.setattr("nrms.data.prepare.write_json" if at == "write_json" else "nrms.data.images.write_store", full_disk)
    text = at_the_command_line(lambda: prepare("newsroom-tiny", small().data))
    assert "is full" in text and read_manifest("newsroom-tiny") == before and len(load("newsroom-tiny", small().data).items)
    assert [p.name for p in (place / "data").iterdir() if p.suffix != ".lock"] == ["newsroom-tiny"]


def test_a_full_disk_leaves_the_old_report(home, monkeypatch):
    """Rebuilding the report finds no room: a sentence, and the page of before."""
    before = [path.read_text() for path in index_page.write()]
    monkeypatch.setattr(Path, "write_text", full_disk)
    assert "is full" in at_the_command_line(index_page.write)
    assert [(home / "reports" / name).read_text() for name in ("leaderboard.csv", "index.html")] == before


def test_a_full_disk_is_found_before_a_table_is_filled(tmp_path, monkeypatch):
    """Writing through a memory map to a full disk would kill the process (SIGBUS): room is taken first, and its lack is an error like others."""
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: full_disk(tmp_path), raising=False)
    with pytest.raises(OSError, match="No space left"):
        new_table(tmp_path / "x.npy", "float32", (10, 4))
    assert files.new_table is new_table and files.new_table is new_table


@pytest.fixture
def little(tmp_path):
    """A disk of 3 MB; where this machine lets us have one."""
    folder = tmp_path / "little"
    folder.mkdir()
    if not shutil.which("mount") or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", folder], capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here; that takes root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_really_full_disk(little, monkeypatch, tiny):
    """A data set, a table and a record that do not fit on a disk of 3 MB: errors, no death, and what was written stays."""
    monkeypatch.setenv("NRMS_HOME", str(little))
    write_json(little / "kept.json", {"a": 1})
    with pytest.raises(OSError, match="No space left"), files.atomic(little / "x.npy") as part:
        new_table(part, "float32", (1 << 20, 4))
    assert "is full" in at_the_command_line(lambda: prepare("newsroom-tiny", small().data))
    assert "is full" in at_the_command_line(lambda: write_json(little / "kept.json", {"a": "x" * (4 << 20)}))
    assert files.read_json(little / "kept.json") == {"a": 1} and not list((little / "data").glob("*.part"))


def test_a_limit_on_files_is_a_sentence(place):
    """A process that may write files of 40 kB only: its checkpoint does not fit, it says why, and run.json says failed."""
    words = ("nrms.train", "4", "--dataset", "newsroom-tiny", "-p", "epochs", "1")
    process = start(*words, home=place, limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)))
    out, err = process.communicate()
    assert process.returncode == 1 and err.splitlines()[-1].startswith("nrms: A file in") and "ulimit" in err and "Traceback" not in err, err
    assert Run(run_folder("newsroom-tiny", "exp4-epochs1", 0)).status == "failed" and not out


# no right, no memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_home_that_may_not_be_written_is_a_sentence(home, monkeypatch, code):
    """Not ours, or mounted to be read: what may not be written is named, with what to do."""

    def refuse(self, *_, **__):
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    for main in (index_page.write, lambda: prepare("newsroom-tiny", small().data)):
        text = at_the_command_line(main)
        assert "may not be written" in text and str(home) in text and "NRMS_HOME" in text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_without_rights_is_a_sentence(home):
    """A folder whose rights were taken away."""
    home.chmod(0o500)
    try:
        assert "may not be written" in at_the_command_line(index_page.write)
    finally:
        home.chmod(0o700)


def test_what_is_there_can_be_read_without_rights(place, monkeypatch):
    """Where no lock file may be made, data that are ready are used."""
    real = Path.open

    def refuse(self, mode="r", *rest, **options):
        if "a" in mode or "w" in mode:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        return real(self, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with locked(data_folder("newsroom-tiny")):
        assert len(load("newsroom-tiny", small().data).items)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 800 bytes."),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
    ids=lambda e: type(e).__name__,
)
def test_no_memory_is_a_sentence(error):
    """However it is said, the sentence names the knobs."""
    text = at_the_command_line(raising(error))
    assert text.startswith("nrms: There was not enough memory") and all(
        knob in text for knob in ("batch_size", "encode_at_once", "tuning top", "frozen")
    )


def test_really_no_memory_is_a_sentence():
    """torch asked for more than there is says so in words that are understood."""
    assert "not enough memory" in at_the_command_line(lambda: torch.empty(1 << 48, dtype=torch.float64))


def test_other_errors_keep_their_traceback():
    """What is not the machine's is not dressed up: a wrong shape, a file that is not there."""
    for error in (RuntimeError("shapes do not fit"), FileNotFoundError(errno.ENOENT, "No such file", "/x"), NrmsError("can't allocate memory")):
        assert errors.meaning(type(error).__name__, str(error)) is None
    with pytest.raises(RuntimeError, match="shapes"):
        terminal.command(raising(RuntimeError("shapes do not fit")))


def test_an_error_in_a_notebook_is_the_same_sentence(place, monkeypatch):
    """What papermill hands on from a kernel is said as at the command line, and run.json says it too."""
    from papermill.exceptions import PapermillExecutionError

    class DeadKernelError(RuntimeError):
        """As jupyter says it when the system has killed the kernel."""

    errors = [PapermillExecutionError(1, 1, "", "OutOfMemoryError", "CUDA out of memory.", []), DeadKernelError("Kernel died")]

    def fail(*_, **__):
        raise errors.pop(0)

    monkeypatch.setattr("papermill.execute_notebook", fail)
    for words in ("There was not enough memory", "process of the notebook was killed"):
        with pytest.raises(NrmsError, match=f"{words}.*encode_at_once"):
            pipeline.run_one(small(name="large"), "large", force=False)
        assert words in Run(run_folder("newsroom-tiny", "large", 0)).record["error"]


# told to stop --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_is_told_to_stop_goes_on(place):
    """SIGTERM in the middle of an epoch: the kernel saves the step it is at, the run is `stopped`, no process is left; started again it goes on."""
    given = {"epochs": 8, "validations": 1, "name": "long", "device": "cpu"}
    words = ["nrms", "run", "4", "--dataset", "newsroom-tiny", *(word for k, v in given.items() for word in ("-p", k, str(v)))]
    folder = run_folder("newsroom-tiny", "long", 0)
    last, log = folder / "checkpoint" / "last.safetensors", folder / "history.jsonl"
    write_json(place / "reports" / "newsroom-tiny" / "data_prep.html", {})  # that page is another matter
    process = start(*words, home=place)
    until(last.exists, process)
    saved = checkpoints.read_state(last)["step"]
    until(lambda: json.loads(log.read_text().splitlines()[-1])["step"] > saved, process)
    kernels = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == STOPPED and "nrms: stopped" in err and Run(folder).status == "stopped", err
    assert kernels and not psutil.wait_procs(kernels, timeout=20)[1]
    reached = checkpoints.read_state(last)["step"]
    assert reached > saved
    kept = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= reached]
    out, err = (again := start(*words, home=place)).communicate()
    assert again.returncode == 0 and Run(folder).status == "done" and (folder / "eval.html").exists(), out + err
    lines = log.read_text().splitlines()
    assert 0 < len(kept) < len(lines) and lines[: len(kept)] == kept, "times stand in the lines: these were not made anew"


@pytest.mark.slow
def test_two_runs_that_are_told_to_stop(place):
    """SIGTERM while two experiments train side by side: both kernels save and are `stopped`, and no process is left."""
    words = ["nrms", "run", "4", "2", "--dataset", "newsroom-tiny", "--on", "local:2", "-p", "epochs", "200", "-p", "device", "cpu"]
    process = start(*words, home=place)
    logs = place / "reports" / "newsroom-tiny"
    until(lambda: len(list(logs.glob("exp*/seed0/history.jsonl"))) == 2, process, seconds=300)
    kernels = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == STOPPED and "nrms: stopped" in err and "FAILED" not in out, out + err
    assert len(kernels) >= 2 and not psutil.wait_procs(kernels, timeout=20)[1]
    runs = [Run(path.parent) for path in logs.glob("exp*/seed0/run.json")]
    assert [run.status for run in runs] == ["stopped"] * 2 and all((run.folder / "checkpoint" / "last.safetensors").exists() for run in runs)


@pytest.fixture
def heard():
    """SIGINT as a terminal has it; in the background of a shell it is ignored, and stays so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_who_is_told_to_end_while_validating_does_not_wait(name, place, monkeypatch, heard):
    """The validation is broken off and the weights are saved unjudged; the same run judges them first, and ends as one that was left alone."""
    plain, told, real, begun = small(name="plain", validations=3), small(name="told", validations=3), learning.validate, []

    def validate(*args):
        begun.append(True)
        if len(begun) == 2:
            os.kill(os.getpid(), getattr(signal, name))
            time.sleep(60)
        return real(*args)

    monkeypatch.setattr(learning, "validate", validate)
    before = time.monotonic()
    with pytest.raises(Stopped, match="asked to end and saved step"):
        train(told)
    run = Run(run_folder("newsroom-tiny", "told", 0))
    assert time.monotonic() - before < 50 and run.status == "stopped" and len(begun) == 2
    assert "valid" not in checkpoints.read_state(run.folder / "checkpoint" / "last.safetensors")["unjudged"]
    monkeypatch.undo()
    monkeypatch.setenv("NRMS_HOME", str(place))
    ends = [train(config) for config in (told, plain)]
    found = [[{k: v for k, v in json.loads(line).items() if "second" not in k} for line in (r.folder / "history.jsonl").open()] for r in ends]
    assert found[0] == found[1] and sum("valid" in line for line in found[0]) == 3
    first, second = (checkpoints.load_checkpoint(r.folder / "checkpoint" / "best.safetensors")[0] for r in ends)
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_a_second_interrupt_does_not_wait(heard):
    """SIGINT asks; SIGINT again is a KeyboardInterrupt; afterwards signals are heard as before."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), signals.stop_request() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert asked.is_set()
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_urgency_ends_with_its_block():
    """However early in it this process is told to end: what comes after the block is not broken off."""

    class Early(signals.StopRequest):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "urgent" and value:
                raise signals.Interrupted

    asked = Early()
    with pytest.raises(signals.Interrupted), asked.at_once():
        pass
    assert not asked.urgent


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_is_like_ctrl_c(name, capsys):
    """Each ends a command in the same sentence, with the status of what can go on."""
    before = signal.signal(getattr(signal, name), signal.SIG_DFL)  # under nohup it would be ignored
    try:
        assert at_the_command_line(lambda: os.kill(os.getpid(), getattr(signal, name))) == str(STOPPED)
        assert capsys.readouterr().err.startswith("nrms: stopped")
    finally:
        signal.signal(getattr(signal, name), before)


# two at once ---------------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from nrms.runtime.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(path):
    """A process that holds the lock of `path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_waits_and_says_for_whom(tmp_path, monkeypatch, capsys):
    """While another process holds a lock we wait and name it; when it is killed (SIGKILL) the lock is free."""
    monkeypatch.setattr(locks, "LOCK_WAIT_SECONDS", 0)
    holder, entered = hold(tmp_path / "x"), []
    thread = threading.Thread(target=lambda: entered.append(locked(tmp_path / "x").__enter__()), daemon=True)
    thread.start()
    err = ""

    def said():
        nonlocal err
        err += capsys.readouterr().err
        return f"waiting for process {holder.pid} on" in err

    try:
        until(said)
        assert str(tmp_path / "x") in err and not entered
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    thread.join(60)
    assert entered


def test_a_lock_that_is_not_waited_for_is_refused(tmp_path):
    """wait=False: a sentence that names the holder; nothing is locked by it, other paths are free, and after the holder's end so is this one."""
    holder = hold(tmp_path / "x")
    try:
        with pytest.raises(NrmsError, match=f"process {holder.pid} on .*wait for it or stop it"), locked(tmp_path / "x", wait=False):
            pass
        with locked(tmp_path / "y", wait=False):
            pass
    finally:
        holder.kill()
        holder.wait()
    with locked(tmp_path / "x", wait=False):
        pass


def test_one_at_a_time(tmp_path):
    """Threads that read, pause and write lose no count under a lock."""
    count = tmp_path / "count"
    count.write_text("0")

    def add():
        for _ in range(5):
            with locked(count):
                n = int(count.read_text())
                time.sleep(0.002)
                count.write_text(str(n + 1))

    threads = [threading.Thread(target=add) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count.read_text() == "30"


BEGIN = """
import sys
from pathlib import Path
from nrms import NrmsError
from nrms.runtime import Run
print("ready", flush=True)
sys.stdin.readline()
try:
    Run(Path(sys.argv[1])).begin()
    print("began", flush=True)
except NrmsError as error:
    print(error, flush=True)
sys.stdin.readline()  # alive until all have tried
"""


def test_only_one_of_many_begins_a_run(tmp_path):
    """Processes that begin the same run at the same moment: one does, the others are told who is at it."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
    processes = [subprocess.Popen([sys.executable, "-c", BEGIN, str(tmp_path / "seed0")], **pipes) for _ in range(4)]
    assert [p.stdout.readline() for p in processes] == ["ready\n"] * 4
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    said = [p.stdout.readline() for p in processes]
    winner = processes[said.index("began\n")].pid
    for process in processes:
        process.communicate("\n")
    assert said.count("began\n") == 1 and sum(f"process {winner}" in text for text in said) == 3, said


def test_a_data_set_is_made_once(home):
    """Threads that need a generated world at once all get it; it was made by one of them."""
    config, found, real, made = small(), [], runtime.now, []
    threads = [threading.Thread(target=lambda: found.append(load("newsroom-tiny", config.data).manifest)) for _ in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nrms.data.prepare.now", lambda: made.append(1) or real())
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 3 and len(made) == 1 and all(manifest == found[0] for manifest in found)


def test_the_same_run_twice_is_refused(place, monkeypatch):
    """While one process executes a run, another that is told to execute it refuses, and leaves it as it is."""
    monkeypatch.setattr(pipeline, "execute", lambda name, *_: None if name in ("data_prep", "analysis") else pytest.fail(name))
    folder, said = run_folder("newsroom-tiny", "twice", 0), []
    holder = hold(folder)
    try:
        assert pipeline.run([4], "newsroom-tiny", [0], say=said.append, name="twice", epochs=1) == 1
    finally:
        holder.kill()
        holder.wait()
    assert any(text.startswith("FAILED") and f"process {holder.pid}" in text for text in said) and not folder.exists()


def test_a_failing_run_leaves_the_record_of_another(place, monkeypatch):
    """Where a notebook is refused because another process is at the run, the record stays that of the other."""
    run = Run(run_folder("newsroom-tiny", "busy", 0))

    def refused(*_):
        run.begin(kind="model")
        run.update(pid=1, process_started=files.process_started(1))
        raise NrmsError("is being written by process 1")

    monkeypatch.setattr(pipeline, "execute", refused)
    with pytest.raises(NrmsError, match="process 1"):
        pipeline.run_one(small(name="busy"), "busy", force=False)
    assert run.record["status"] == "running" and "error" not in run.record


@pytest.mark.slow
def test_two_experiments_at_once_from_nothing(home):
    """Two commands started together on a data set that is not there: both end well, one waited for the other, and what they share was made once."""
    words = ("nrms", "run", "4", "--dataset", "newsroom-tiny", "-p", "epochs", "1", "-p", "device", "cpu", "-p", "name")
    processes = [start(*words, name, home=home) for name in ("one", "two")]
    ends = [(*process.communicate(), process.returncode) for process in processes]
    assert [code for *_, code in ends] == [0, 0], ends
    assert all(Run(run_folder("newsroom-tiny", name, 0)).status == "done" for name in ("one", "two"))
    assert any(f"waiting for process {other.pid}" in err for (_, err, _), other in zip(ends, reversed(processes), strict=True)), ends
    left = [p for p in home.rglob("*") if p.name.endswith((".part", ".old", ".failed.ipynb"))]
    assert not left and len([p for p in (data_folder("newsroom-tiny") / "models").glob("bert-*") if p.is_dir()]) == 1
    assert {p.parent.parent.name for p in (home / "reports" / "newsroom-tiny").glob("*/seed0/metrics.json")} >= {"one", "two", "random", "content"}


# the same again ------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_numbers(place):
    """Two processes of two threads, told apart by all that Python makes random, train the same run side by side: bit-equal weights and validation."""
    homes = [place, place.with_name(f"{place.name}-again")]
    shutil.copytree(*homes)
    words = ("nrms.train", "4", "--dataset", "newsroom-tiny", "-p", "epochs", "1", "-p", "device", "cpu")
    processes = [start(*words, home=home, PYTHONHASHSEED=str(seed), OMP_NUM_THREADS="2") for seed, home in enumerate(homes, 1)]
    ends = [(*process.communicate(), process.returncode) for process in processes]
    assert [code for *_, code in ends] == [0, 0], ends
    runs = [Run(home / "reports" / "newsroom-tiny" / "exp4-epochs1" / "seed0") for home in homes]
    first, second = (checkpoints.load_checkpoint(run.folder / "checkpoint" / "best.safetensors")[0] for run in runs)
    assert first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())
    assert runs[0].record["best_valid"] == runs[1].record["best_valid"]
