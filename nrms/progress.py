"""How does one see that something is going on? One line, updated in place: on a terminal, in a notebook, and wherever that is executed from."""

import contextlib
import io
import os
import sys
import warnings
from pathlib import Path

from tqdm import tqdm

warnings.filterwarnings("ignore", message="IProgress not found")  # our progress needs no widgets


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


def say_waiting(text: str) -> None:
    """One line on stderr or, where a notebook is executed for a terminal, in the place of its progress."""
    if in_notebook() and (shown := os.environ.get("NRMS_PROGRESS")):
        with contextlib.suppress(OSError):
            Path(shown).write_text(text)
    else:
        print(text, file=sys.stderr, flush=True)
