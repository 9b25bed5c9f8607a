"""How does one see that something is going on? One line, updated in place: on a terminal, in a notebook, and wherever that is executed from."""

import contextlib
import io
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

warnings.filterwarnings("ignore", message="IProgress not found")  # our progress needs no widgets


def in_notebook() -> bool:
    """True inside a Jupyter kernel."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return bool(shell) and hasattr(shell, "kernel")


def is_live() -> bool:
    """Whether somebody looks on: JupyterLab, and what is made of it, says which cell it executes; papermill, nbconvert and nbval do not."""
    kernel = getattr(sys.modules["IPython"].get_ipython(), "kernel", None) if "IPython" in sys.modules else None
    return kernel is not None and "cellId" in (kernel.get_parent("shell") or {}).get("metadata", {})


EVERY = 10  # seconds between lines in a log, at least; a twentieth of the time that has passed, where that is more


class Bar(tqdm):
    """tqdm that shows as one line updated in place: on a terminal as usual, in a notebook as one output, and in the file named by
    NRMS_PROGRESS for whoever executes the notebook. Nothing is shown in the first second.

    Updates of an output never reach the log of a papermill that was started by hand. There the line is printed again now and then, each time over
    the one before, so that a saved notebook shows the last.
    """

    handle = None
    printed, due = False, 0.0  # seconds after the start

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        text = msg if msg is not None else str(self)
        if file := os.environ.get("NRMS_PROGRESS"):
            with contextlib.suppress(OSError):  # a full disk must not end a run for the sake of a bar
                Path(file).write_text(text)
        if not in_notebook():
            super().display(msg, pos)
        elif text and not (is_live() or file):
            self.print_over(text)
        elif text:
            from IPython.display import display

            line = {"text/plain": text}
            if self.handle is None:
                self.handle = display(line, raw=True, display_id=True)
            else:
                self.handle.update(line, raw=True)

    def print_over(self, text: str) -> None:
        passed = self.format_dict["elapsed"]
        if passed >= self.due:
            self.printed, self.due = True, passed + max(EVERY, passed / 20)
            print(f"\r{text}", end="", flush=True)

    def close(self) -> None:
        self.due = 0.0  # how it ended is shown
        super().close()
        if self.printed:
            self.printed = False
            print(flush=True)


def progress(iterable=None, what: str = "", **options) -> Bar:
    """`iterable` with a progress bar named `what`."""
    silent = None if not in_notebook() and not os.environ.get("NRMS_PROGRESS") else False  # None: silent unless a terminal looks on
    silent = silent if os.environ.get("RANK", "0") == "0" else True  # of several processes the first one shows what it does
    file = {"file": io.StringIO()} if in_notebook() else {}  # shown by `display` alone
    shape = {"delay": 1, "mininterval": 0.5, "leave": in_notebook(), "ascii": " =", "ncols": 100, "disable": silent}
    return Bar(iterable, desc=what, **shape | file | options)


@contextlib.contextmanager
def relayed(label: str) -> Iterator[dict[str, str]]:
    """Shows on this terminal, as one line, the progress of a process that is started with these environment variables. Several have a line each."""
    bar, ended = tqdm(desc=label, bar_format="{desc} {elapsed} {postfix}", disable=None, ncols=120, leave=False), threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "progress"

        def watch() -> None:
            while not ended.wait(0.5):
                bar.set_postfix_str(file.read_text()[:70] if file.exists() else "", refresh=False)
                bar.refresh()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield {"NRMS_PROGRESS": str(file)}
        finally:
            ended.set()
            thread.join()
            bar.close()


def say_waiting(text: str) -> None:
    """One line on stderr or, where a notebook is executed for a terminal, in the place of its progress."""
    if in_notebook() and (file := os.environ.get("NRMS_PROGRESS")):
        with contextlib.suppress(OSError):
            Path(file).write_text(text)
    else:
        print(text, file=sys.stderr, flush=True)
