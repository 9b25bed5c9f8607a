"""How does a process of ours begin with its libraries imported? It is forked from one that has imported them, by multiprocessing's forkserver.

They take ten times as long as this package, which every process reads anew: it may have been changed since. A process that computes with several
threads, or may use a GPU, begins anew: to fork one that has threads, or has touched a GPU, is not safe.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nrms import ROOT, NrmsError, home
from nrms.runtime.environment import has_nvidia
from nrms.runtime.executor import is_stopping, stopped_by
from nrms.runtime.progress import relayed
from nrms.runtime.terminal import command

LIBRARIES = (
    *("torch", "accelerate", "peft", "scipy.stats", "pandas", "pyarrow.parquet", "PIL.Image", "pydantic", "matplotlib.pyplot", "seaborn"),
    *(f"transformers.models.{name}.modeling_{name}" for name in ("auto", "bert", "vit", "blip", "clip")),
    *("jinja2", "ipywidgets", "ipykernel.kernelapp"),
)
FORKS = multiprocessing.get_context("forkserver")
ONE_AT_A_TIME = threading.Lock()  # multiprocessing's list of children is not made for several threads


def thread_variables(threads: int | None) -> dict[str, str]:
    """Environment variables of a process whose libraries are to compute with so many threads; None: with as many as they choose."""
    return {} if threads is None else dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def import_ahead() -> None:
    """Begins to import what processes of one thread will have imported. Returns at once; a second call changes nothing."""
    FORKS.set_forkserver_preload(list(LIBRARIES))
    with ONE_AT_A_TIME, variables_of_ours(thread_variables(1)):
        forkserver.ensure_running()


@contextlib.contextmanager
def variables_of_ours(variables: Mapping[str, str]) -> Iterator[None]:
    """In the block our environment has these variables too."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """In the block multiprocessing finds no script to run again in a child: ours need none, and not every script minds being run again."""
    main, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class Child:
    """A process that calls `function` with `arguments`, in the project's folder; with as much of subprocess.Popen as Jupyter needs.

    threads: with how many its libraries compute, None: as they choose. variables: of its environment, beside ours. errors: the file that its
    stderr goes to, else ours.
    """

    stdin = stdout = stderr = None

    def __init__(
        self, function: Callable[..., object], *arguments: Any, threads: int | None, variables: Mapping[str, str], errors: Path | None = None
    ):
        environment = os.environ | {"NRMS_HOME": str(home())} | thread_variables(threads) | variables
        context = FORKS if threads == 1 and not has_nvidia() else multiprocessing.get_context("spawn")
        self.process = context.Process(target=enter, args=(dict(environment), errors, function, arguments))
        with ONE_AT_A_TIME, without_main():
            self.process.start()
        self.pid = self.process.pid

    def poll(self) -> int | None:
        """The status with which the process has ended; None while it runs."""
        with ONE_AT_A_TIME:
            return self.process.exitcode

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.05)
        return self.poll()

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def enter(environment: dict[str, str], errors: Path | None, function: Callable[..., object], arguments: Sequence[Any]) -> None:
    """What a child does."""
    os.setsid()  # who ends it is the process that began it, whatever keys are pressed
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    if errors:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    function(*arguments)


def call_in_process(function: str, values: Mapping[str, Any], label: str, threads: int | None = None) -> None:
    """Calls `package.module:function` with `values` in a process of its own. Its progress is shown here.

    Raises NrmsError with its last words where it fails.
    """
    with relayed(label) as variables, TemporaryDirectory() as folder:
        errors = Path(folder) / "errors"
        child = Child(call, function, dict(values), threads=threads, variables=variables, errors=errors)
        try:
            with stopped_by(child.terminate):
                status = child.wait()
        except BaseException:
            child.terminate()
            child.wait()
            raise
        text = errors.read_text() if errors.exists() else ""
    if is_stopping():
        raise KeyboardInterrupt
    if status:
        lines = [line.removeprefix("nrms: ") for line in text.splitlines() if line.startswith("nrms: ")]
        raise NrmsError(f"{label}: {' '.join(lines) or text[-2000:] or f'its process ended with status {status}'}")


def call(function: str, values: Mapping[str, Any]) -> None:
    """In the child: calls a function of this package, which is imported here and not by whoever asks for it."""
    module, name = function.split(":")
    if not module.startswith("nrms."):
        raise ValueError(f"{module} is no file of this package")
    command(lambda: getattr(importlib.import_module(module), name)(**values))
