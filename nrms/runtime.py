"""Where and how does a run happen? Folders, seeds, hardware, signals, and the record of a run.

Truth is in files: a run is done when its run.json says so, and run.json says so last. Nothing here knows what is trained.
"""

import contextlib
import functools
import json
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nrms import ROOT, NrmsError, home
from nrms.files import atomic, locked, process_started, read_json, write_json


def data_folder(dataset: str) -> Path:
    return home() / "data" / dataset


def run_folder(dataset: str, name: str, seed: int) -> Path:
    return home() / "reports" / dataset / name / f"seed{seed}"


def run_folders(dataset: str = "*") -> list[Path]:
    """Every folder <dataset>/<experiment>/seed<number> of reports/ with a run.json, by data set (or of one alone), experiment and seed."""
    found = [path.parent for path in (home() / "reports").glob(f"{dataset}/*/seed*/run.json") if path.parent.name[4:].isdecimal()]
    return sorted(found, key=lambda folder: (folder.parent, int(folder.name[4:])))


# randomness and hardware ---------------------------------------------------------------------------------------------


def seed_everything(seed: int) -> None:
    """Seeds torch (weights, dropout). Data order and negatives draw from generators of their own, made from (seed, epoch)."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # must be set before CUDA starts
    torch.manual_seed(seed)


def peak_mb() -> int:
    """Most memory this process has held so far: on the GPU if one is used, else resident. In MB (2**20 bytes)."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() >> 20
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return rss >> 20 if sys.platform == "darwin" else rss >> 10


def environment() -> dict[str, Any]:
    """What produced a result: code, versions, hardware."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None
    return {
        "commit": git("rev-parse", "--short=12", "HEAD") or None,
        "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        "versions": {"python": platform.python_version()}
        | {p: version(p) for p in ("torch", "transformers", "accelerate", "numpy", "pandas", "pyarrow")},
        "hardware": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "gpu": gpu},
    }


# the record of a run -------------------------------------------------------------------------------------------------


SILENCE = 2 * 3600  # seconds without a sign after which a run on another machine is taken for dead


def alive(record: dict[str, Any], folder: Path) -> bool:
    """Whether the process that wrote this record still works: it is there, or, on another machine, has lately written something."""
    if record["host"] == socket.gethostname():
        began = process_started(record["pid"])
        return began is not None and abs(began - (record.get("process_started") or 0)) < 2
    return time.time() - max(p.stat().st_mtime for p in folder.iterdir()) < SILENCE


def exclusive(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a Run that one process at a time may be in: what it checks is still so when it writes."""

    @functools.wraps(method)
    def alone(run: "Run", *args: Any, **facts: Any) -> Any:
        with locked(run.folder.with_name(f"{run.folder.name}.begin")):
            return method(run, *args, **facts)

    return alone


class Run:
    """The folder of one run and its run.json: status `running` first, `trained` after training, `done` written last."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def record(self) -> dict[str, Any]:
        """run.json, or {} where there is none."""
        path = self.folder / "run.json"
        return read_json(path) if path.exists() else {}

    @property
    def status(self) -> str:
        """missing, running, trained, done, failed, stopped by hand, or dead: said to be running by a process that is gone."""
        record = self.record
        if not record:
            return "missing"
        return "dead" if record["status"] == "running" and not alive(record, self.folder) else record["status"]

    def check_free(self) -> None:
        """Raises NrmsError where another process is busy with this run."""
        if self.status == "running" and self.record["pid"] != os.getpid():
            raise NrmsError(f"{self.folder} is being written by process {self.record['pid']} on {self.record['host']}; wait for it or stop it first.")

    @exclusive
    def begin(self, **facts: Any) -> None:
        """Writes run.json with status `running` and removes the results of an earlier run. Refuses a run that another process is busy with."""
        self.check_free()
        process = {"pid": os.getpid(), "process_started": process_started(os.getpid()), "host": socket.gethostname()}
        write_json(self.folder / "run.json", {"status": "running", **process, "started": now()} | environment() | facts)
        for name in ("metrics.json", "rows.parquet", "beyond.json"):
            (self.folder / name).unlink(missing_ok=True)

    def update(self, **facts: Any) -> None:
        """Adds facts (status among them) to run.json."""
        write_json(self.folder / "run.json", self.record | facts)

    def log(self, **values: Any) -> None:
        """Adds one line to history.jsonl."""
        with (self.folder / "history.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")

    def rewind(self, step: int) -> None:
        """Forgets the lines of history.jsonl after `step`: they are about to be written again."""
        path = self.folder / "history.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() and step else []  # a line that a kill cut off has no end
        lines = [line for line in lines if json.loads(line)["step"] <= step]
        with atomic(path) as part:
            part.write_text("".join(line + "\n" for line in lines))


class Bystander(Run):
    """The folder of a run for a process that takes part in it, while another one keeps its record."""

    def begin(self, **facts: Any) -> None: ...
    def update(self, **facts: Any) -> None: ...
    def log(self, **values: Any) -> None: ...
    def rewind(self, step: int) -> None: ...


class Interrupted(BaseException):
    """This process is told to end while it does what may be broken off."""


class Asked(threading.Event):
    """Set when this process has been told to end."""

    urgent = False

    @contextlib.contextmanager
    def at_once(self, allowed: bool = True) -> Iterator[None]:
        """What is in the block may be broken off: to be told to end raises Interrupted in it, if `allowed`."""
        try:
            self.urgent = allowed
            if allowed and self.is_set():
                raise Interrupted
            yield
        finally:
            self.urgent = False


@contextlib.contextmanager
def told_to_end() -> Iterator[Asked]:
    """An event that is set when this process is told to end: by a scheduler (SIGTERM), a person, or whoever executes the notebook (SIGINT).

    A second SIGINT is a KeyboardInterrupt. Heard in a main thread alone; what is ignored (as under nohup) stays so.
    """
    asked = Asked()

    def hear(number: int, _: object) -> None:
        if number == signal.SIGINT and asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        if asked.urgent:
            raise Interrupted

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    heard = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, hear) for number in heard}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
