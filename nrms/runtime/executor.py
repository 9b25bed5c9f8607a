"""Where do tasks run? Side by side on this machine, as many at a time as there are slots; a task is a name, what it waits for, and a callable.

Nothing here knows what a task does. Another place to run them is another class with the same `run`.
"""

import contextlib
import importlib
import json
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nrms import ROOT, NrmsError, home
from nrms.runtime.progress import relayed
from nrms.runtime.terminal import command


@dataclass(frozen=True)
class Task:
    name: str
    work: Callable[[], Any]
    needs: tuple[str, ...] = ()  # names of tasks that must have been done before


@dataclass(frozen=True)
class Outcome:
    """What became of a task: the value of its callable, or the error that it raised."""

    task: Task
    value: Any = None
    error: BaseException | None = None


class Local:
    """Tasks in threads of this process; what computes starts processes of its own."""

    def __init__(self, slots: int):
        self.slots = slots
        self.stopping = threading.Event()
        self.stops: dict[threading.Thread, Callable[[], object]] = {}  # what ends the work that is under way
        self.lock = threading.Lock()

    def __str__(self) -> str:
        return f"local:{self.slots}"

    def run(self, tasks: Sequence[Task], report: Callable[[Outcome], object]) -> None:
        """Does all tasks, the first ones first, and reports each. One that fails does not stop the others, but those that need it fail with it.

        An error of `report`, or to be told to end, stops what is under way; the error goes on when all of it has ended.
        """
        waiting, outcomes, ends, threads = list(tasks), {}, queue.SimpleQueue(), {}
        try:
            while waiting or threads:
                for task in ready(waiting, outcomes, self.slots - len(threads)):
                    waiting.remove(task)
                    threads[task.name] = threading.Thread(target=self.do, args=(task, ends), daemon=True)
                    threads[task.name].start()
                outcome = refused(waiting, outcomes)
                if outcome:
                    waiting.remove(outcome.task)
                elif threads:
                    outcome = ends.get()
                    threads.pop(outcome.task.name).join()
                else:
                    raise RuntimeError(f"{waiting[0].name} needs {' and '.join(waiting[0].needs)}, which nobody does before it")
                outcomes[outcome.task.name] = outcome
                report(outcome)
        except BaseException:
            for thread in self.stop():
                thread.join()
            raise

    def do(self, task: Task, ends: queue.SimpleQueue) -> None:
        CURRENT.executor = self
        try:
            outcome = Outcome(task, task.work())
        except BaseException as error:
            outcome = Outcome(task, error=error)
        ends.put(outcome)

    def stop(self) -> list[threading.Thread]:
        """Ends what is under way, in these threads; one that only waits for something ends with the process."""
        with self.lock:
            self.stopping.set()
            for stop in self.stops.values():
                stop()
            return list(self.stops)


def executor_for(where: str, slots: Callable[[], int]) -> Local:
    """The executor that `local:N` names, N tasks at a time; `auto` leaves their number to `slots`."""
    if where != "auto" and not re.fullmatch(r"local:[1-9]\d*", where):
        raise NrmsError(f"`--on` is {where}; it must be auto or local:N, which runs N tasks side by side on this machine.")
    return Local(slots() if where == "auto" else int(where.removeprefix("local:")))


CURRENT = threading.local()  # its `executor` is that in whose thread one is


def ready(waiting: Sequence[Task], outcomes: Mapping[str, Outcome], slots: int) -> list[Task]:
    """The first of those whose needs are done, as many as there are slots."""
    return [task for task in waiting if all(name in outcomes and not outcomes[name].error for name in task.needs)][:slots]


def refused(waiting: Sequence[Task], outcomes: Mapping[str, Outcome]) -> Outcome | None:
    """The outcome of a task that needs one that has failed; None where there is none."""
    for task in waiting:
        for name in task.needs:
            if name in outcomes and (error := outcomes[name].error):
                return Outcome(task, error=NrmsError(f"{task.name} needs {name}, which failed: {error}"))
    return None


@contextlib.contextmanager
def stopped_by(stop: Callable[[], object]) -> Iterator[None]:
    """While the block runs, `stop` is called when the tasks are told to end; at once where they were before. In the main thread, which hears
    signals itself, it is not."""
    executor = getattr(CURRENT, "executor", None)
    if executor is None:
        yield
        return
    with executor.lock:
        if executor.stopping.is_set():
            raise KeyboardInterrupt
        executor.stops[threading.current_thread()] = stop
    try:
        yield
    finally:
        with executor.lock:
            del executor.stops[threading.current_thread()]


def is_stopping() -> bool:
    """Whether the tasks, of which this thread does one, are told to end."""
    executor = getattr(CURRENT, "executor", None)
    return executor is not None and executor.stopping.is_set()


def thread_variables(threads: int | None) -> dict[str, str]:
    """Environment variables of a process whose libraries are to compute with so many threads; None: with as many as they choose."""
    return {} if threads is None else dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def call_in_process(function: str, values: Mapping[str, Any], label: str, threads: int | None = None) -> None:
    """Calls `package.module:function` with `values`, which JSON can hold, in a process of its own. Its progress is shown here.

    Raises NrmsError with its last words where it fails.
    """
    code = f"from {__name__} import called; called()"
    with relayed(label) as variables:
        process = subprocess.Popen(
            [sys.executable, "-c", code, function, json.dumps(values)],
            cwd=ROOT,
            env=os.environ | {"NRMS_HOME": str(home())} | thread_variables(threads) | variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # who ends it is this process alone, whatever keys are pressed
        )
        try:
            with stopped_by(process.terminate):
                _, errors = process.communicate()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if is_stopping():
        raise KeyboardInterrupt
    if process.returncode:
        lines = [line.removeprefix("nrms: ") for line in errors.splitlines() if line.startswith("nrms: ")]
        raise NrmsError(f"{label}: {' '.join(lines) or errors[-2000:] or f'its process ended with status {process.returncode}'}")


def called() -> None:
    """The process that `call_in_process` starts: calls what its arguments say, a function of this package."""
    module, function = sys.argv[1].split(":")
    if not module.startswith("nrms."):
        raise ValueError(f"{module} is no file of this package")
    values = json.loads(sys.argv[2])
    command(lambda: getattr(importlib.import_module(module), function)(**values))
