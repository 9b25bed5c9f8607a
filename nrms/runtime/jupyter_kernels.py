"""How is a notebook executed? papermill, in a kernel: a process with variables of its own, which is told to end and saves when we are."""

import asyncio
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nrms import NrmsError
from nrms.runtime.child_processes import Child
from nrms.runtime.errors import meaning
from nrms.runtime.executor import is_stopping, stopped_by
from nrms.runtime.progress import relayed


def execute_notebook(source: Path, output: Path, parameters: dict[str, Any], label: str, threads: int | None = None) -> None:
    """Executes a notebook and writes it to `output`; its kernel's own progress line is shown here. The kernel is one of this interpreter, whatever
    others the name of the notebook's kernel may stand for on this machine.

    threads: with how many threads the libraries of the kernel compute, None: as they choose. Raises NrmsError with the error of the notebook.
    """
    import papermill
    from jupyter_client import AsyncKernelManager, LocalProvisioner
    from jupyter_core.utils import ensure_event_loop
    from papermill.exceptions import PapermillExecutionError

    class Provisioner(LocalProvisioner):
        async def launch_kernel(self, cmd: list[str], **options: Any) -> dict[str, Any]:
            arguments = cmd[cmd.index("-f") :]  # python -m ipykernel_launcher -f FILE ...
            self.process = Child(kernel, arguments, threads=threads, variables=options["env"] | variables)
            self.pid = self.pgid = self.process.pid
            return self.connection_info

    class Kernel(AsyncKernelManager):
        shutdown_wait_time = 600.0  # seconds in which a kernel that is told to end can save, before it is killed; 5 are too few for a large model

        async def start_kernel(self, **options: Any) -> None:
            self.provisioner = Provisioner(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)
            await super().start_kernel(**options)

    with relayed(label) as variables, stopped_by(partial(cancel_all, ensure_event_loop())):
        try:
            papermill.execute_notebook(
                str(source),
                str(output),
                parameters,
                progress_bar=False,
                kernel_manager_class=Kernel,
                extra_arguments=["--log-level=50", "--InlineBackend.figure_formats=svg"],  # the kernel writes to our terminal; figures are drawings
            )
        except (Exception, asyncio.CancelledError) as error:
            if is_stopping():
                raise KeyboardInterrupt from None
            told = isinstance(error, PapermillExecutionError)  # else the kernel died, or could not be started
            kind, text = (error.ename, error.evalue) if told else (type(error).__name__, str(error))
            raise NrmsError(f"{label}: {meaning(kind, text) or f'{kind}: {text}'}") from None


def kernel(arguments: Sequence[str]) -> None:
    """What a process does that is a kernel, as `python -m ipykernel_launcher` does."""
    from ipykernel import kernelapp

    if "matplotlib" in sys.modules:  # imported before there was a kernel that shows figures
        sys.modules["matplotlib"].rcParams["backend"] = "module://matplotlib_inline.backend_inline"
    os.environ["JPY_PARENT_PID"] = str(os.getppid())  # a kernel ends with its parent
    kernelapp.launch_new_instance(list(arguments))


def cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    """Breaks off what waits for a kernel in another thread, where papermill then tells the kernel to end."""
    loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
