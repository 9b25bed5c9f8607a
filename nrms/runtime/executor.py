"""Where do tasks run? Side by side on this machine, as many at a time as there are slots; a task is a name, what it waits for, and a callable.

Nothing here knows what a task does. Another place to run them is another class with the same `run`.
"""

import contextlib
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nrms import NrmsError


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
