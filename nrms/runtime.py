"""Where and how does a run happen? Folders, atomic files, seeds, device, progress, and the record of a run.

Truth is in files: a run is done when its run.json says so, and run.json says so last. Nothing here knows what is trained.
"""

import contextlib
import errno
import fcntl
import functools
import glob
import io
import json
import os
import platform
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil
from tqdm import tqdm

from nrms import ROOT, NrmsError

warnings.filterwarnings("ignore", message="IProgress not found")  # our progress needs no widgets


def home() -> Path:
    """Folder that holds data/ and reports/: the repository, or NRMS_HOME where results belong on another disk."""
    return Path(os.environ.get("NRMS_HOME") or ROOT).resolve()


def data_folder(dataset: str) -> Path:
    return home() / "data" / dataset


def run_folder(dataset: str, name: str, seed: int) -> Path:
    return home() / "reports" / dataset / name / f"seed{seed}"


# files ---------------------------------------------------------------------------------------------------------------


def beside(path: Path, kind: str) -> Path:
    """Where what is to stand at `path` is made (`part`), or what stood there is kept for a moment (`old`); hidden, and named after this process."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{kind}")


def sweep(path: Path) -> None:
    """Clears away what processes of this machine that were killed left beside `path`; a folder killed between its two renames is put back."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        host, pid, kind = ["", "", *left.name.removeprefix(f".{path.name}.").rsplit(".", 2)][-3:]
        if host != socket.gethostname() or kind not in ("part", "old") or not pid.isdigit() or process_started(int(pid)) is not None:
            continue
        if kind == "old" and not path.exists():
            left.rename(path)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Hands what was written there to the disk: a rename that survives a power cut must not stand for bytes that do not."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():  # some file systems cannot do so with folders
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; when the block ends well it is flushed to disk and renamed to `path`, else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = beside(path, "part")
    sweep(path)
    try:
        yield part
        flush(part)
        os.replace(part, path)
        flush(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside `path`; when the block ends well it takes the place of `path`, else it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part, old = beside(path, "part"), beside(path, "old")
    sweep(path)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        for file in part.rglob("*"):
            flush(file)
        if path.exists():
            path.rename(old)
        part.rename(path)
        flush(path.parent)
    finally:
        if old.exists() and not path.exists():  # the second rename failed
            old.rename(path)
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


PATIENCE = 2  # seconds of waiting for another process before it is said


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """While the block runs nobody else is in a block of the same `path`, which need not exist: the second waits, and says for whom.

    wait=False: raises NrmsError instead. A lock falls with its process, however that ends. Not reentrant. Where nothing may be written nothing is
    made, so nothing is locked.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f".{path.name}.lock").open("a+")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        yield
        return
    with file:
        if not take_lock(file, PATIENCE if wait else 0):
            holder = f"process {holder_of(file)}"
            if not wait:
                raise NrmsError(f"{path} is being worked on by {holder}; wait for it or stop it first.")
            say_waiting(f"nrms: waiting for {holder}, which is busy with {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(OSError):  # on a full disk the lock holds without a name in it
            file.truncate(0)
            file.write(f"{os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield


def take_lock(file: IO[str], seconds: float) -> bool:
    """Whether the lock could be had within `seconds`. Where the disk knows no locks it is had at once."""
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.05)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):
                raise
            return True


def holder_of(file: IO[str]) -> str:
    file.seek(0)
    return file.read() or "that has not said its name"


def say_waiting(text: str) -> None:
    """One line on stderr or, where a notebook is executed for a terminal, in the place of its progress."""
    if in_notebook() and (shown := os.environ.get("NRMS_PROGRESS")):
        with contextlib.suppress(OSError):
            Path(shown).write_text(text)
    else:
        print(text, file=sys.stderr, flush=True)


def exclusive(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a Run that one process at a time may be in: what it checks is still so when it writes."""

    @functools.wraps(method)
    def alone(run: "Run", *args: Any, **facts: Any) -> Any:
        with locked(run.folder.with_name(f"{run.folder.name}.begin")):
            return method(run, *args, **facts)

    return alone


def new_table(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """A .npy file of zeros, memory-mapped, whose room on the disk is taken now: a full disk is an OSError here, and not the end of the process
    (SIGBUS) where a value is set."""
    table = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return table


def write_json(path: Path, value: Any) -> None:
    with atomic(path) as part:
        part.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


# progress ------------------------------------------------------------------------------------------------------------


def in_notebook() -> bool:
    """True inside a Jupyter kernel."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return bool(shell) and hasattr(shell, "kernel")


class Bar(tqdm):
    """tqdm that shows as one line updated in place: on a terminal as usual, in a notebook as one output, and in the file named by
    NRMS_PROGRESS for whoever executes the notebook. Nothing is shown in the first second."""

    handle = None

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        text = msg if msg is not None else str(self)
        if file := os.environ.get("NRMS_PROGRESS"):
            with contextlib.suppress(OSError):  # a full disk must not end a run for the sake of a bar
                Path(file).write_text(text)
        if not in_notebook():
            super().display(msg, pos)
        elif text:
            from IPython.display import display

            line = {"text/plain": text}
            if self.handle is None:
                self.handle = display(line, raw=True, display_id=True)
            else:
                self.handle.update(line, raw=True)


def progress(iterable=None, what: str = "", **options) -> Bar:
    """`iterable` with a progress bar named `what`."""
    alone = os.environ.get("RANK", "0") == "0"  # of several processes the first one shows what it does
    silent = None if not in_notebook() and not os.environ.get("NRMS_PROGRESS") else False  # None: silent unless a terminal looks on
    if in_notebook():
        options.setdefault("file", io.StringIO())  # shown by `display` alone
    options = {"delay": 1, "mininterval": 0.5, "leave": in_notebook(), "ascii": " =", "ncols": 100, "disable": silent if alone else True} | options
    return Bar(iterable, desc=what, **options)


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


def process_started(pid: int) -> float | None:
    """When this process began, in seconds since 1970; None if there is none. Tells a process from a later one with the same number."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def alive(record: dict[str, Any], folder: Path) -> bool:
    """Whether the process that wrote this record still works: it is there, or, on another machine, has lately written something."""
    if record["host"] == socket.gethostname():
        began = process_started(record["pid"])
        return began is not None and abs(began - (record.get("process_started") or 0)) < 2
    return time.time() - max(p.stat().st_mtime for p in folder.iterdir()) < SILENCE


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
        for name in ("metrics.json", "rows.parquet"):
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


@contextlib.contextmanager
def on_sigterm() -> Iterator[threading.Event]:
    """An event that is set when a scheduler asks this process to end (SIGTERM), in place of ending at once. Heard in a main thread alone."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


# checkpoints ---------------------------------------------------------------------------------------------------------


def save_checkpoint(path: Path, tensors: dict[str, Any], state: dict[str, Any]) -> None:
    """One safetensors file: tensors by name, and `state` as JSON in its header. Complete or not there at all."""
    from safetensors.torch import save_file

    with atomic(path) as part:
        save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, part, {"state": json.dumps(state)})


def read_state(path: Path) -> dict[str, Any]:
    """The state of a file written by `save_checkpoint`, without its tensors. Raises NrmsError for anything else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            state = json.loads((file.metadata() or {})["state"])
        if not (isinstance(state, dict) and isinstance(state.get("config", {}), dict)):
            raise ValueError("its state is none")
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise NrmsError(f"{path} is not a checkpoint of this project ({error}); give the path of a best.safetensors or last.safetensors.") from None
    return state


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(tensors, state) of a file written by `save_checkpoint`. Raises NrmsError for anything else; never unpickles."""
    from safetensors.torch import load_file

    state = read_state(path)
    return load_file(path), state
