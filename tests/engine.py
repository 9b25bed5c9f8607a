"""Executes notebooks for papermill in this process: the same cells make the same pages, without a kernel, whose imports take longer than they."""

import contextlib
import importlib
import io
import sys
import threading
import traceback

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.pylabtools import select_figure_formats
from nbformat.v4 import new_output
from papermill.engines import Engine
from traitlets import Type
from traitlets.config import Config


class Values(DisplayHook):
    """Values of last lines are kept where `display` keeps what it is given."""

    def write_output_prompt(self):
        pass

    def write_format_data(self, data, metadata=None):
        self.shell.display_pub.publish(data, metadata)


class Shell(InteractiveShell):
    displayhook_class = Type(Values)
    display_pub_class = Type(CapturingDisplayPublisher)

    def showtraceback(self, *_, **__):
        """The error is an output of its cell."""


ONE_AT_A_TIME = threading.Lock()  # a process has one shell, one stdout, one __main__


def call(function, values, *_):
    """What `call_in_process` does, without a process: nothing else is computed meanwhile."""
    module, name = function.split(":")
    with ONE_AT_A_TIME:
        getattr(importlib.import_module(module), name)(**values)


class InThisProcess(Engine):
    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, **options):
        with ONE_AT_A_TIME:
            cls.execute_cells(nb_man)

    @classmethod
    def execute_cells(cls, nb_man):
        main = sys.modules["__main__"]  # a shell takes its place
        shell = Shell.instance(config=Config({"HistoryManager": {"enabled": False}}))
        select_figure_formats(shell, {"svg"})
        try:
            for index, cell in enumerate(nb_man.nb.cells):
                if cell.cell_type == "code":
                    nb_man.cell_start(cell, index)
                    if not execute(shell, cell):
                        nb_man.cell_exception(cell, index)
                        return
                    nb_man.cell_complete(cell, index)
        finally:
            Shell.clear_instance()
            sys.modules["__main__"] = main


def execute(shell, cell):
    """Executes a cell and puts into it what a kernel would: what was printed, what was shown, an error. Returns whether there was none."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as error:
        result = shell.run_cell(cell.source, store_history=True)
    streams = [new_output("stream", name=name, text=file.getvalue()) for name, file in (("stdout", out), ("stderr", error)) if file.getvalue()]
    cell.outputs = streams + [new_output("display_data", data=o["data"], metadata=o["metadata"] or {}) for o in shell.display_pub.outputs]
    shell.display_pub.outputs.clear()
    cell.execution_count = result.execution_count
    failure = result.error_before_exec or result.error_in_exec
    if failure:
        lines = traceback.format_exception(failure)
        cell.outputs.append(new_output("error", ename=type(failure).__name__, evalue=str(failure), traceback=lines))
    return not failure
