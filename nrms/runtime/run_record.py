"""Where is a run, and what has become of it? Its folder, and its record.

Truth is in files: a run is done when its run.json says so, and run.json says so last. Nothing here knows what is trained.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nrms import NrmsError, Stopped, home
from nrms.runtime.environment import environment
from nrms.runtime.errors import sentence
from nrms.runtime.files import process_started, read_json, write_json, write_text
from nrms.runtime.locks import locked


def members_of(record: dict) -> tuple[str, ...]:
    """The experiments that an ensemble is the mean of, by its run.json, in the order of the alphabet; () for any other run.

    Records of 0.1 have them as `a + b` among the values given by hand.
    """
    older = record.get("config", {}).get("given", {}).get("of")
    return tuple(sorted(record.get("members") or (older.split(" + ") if older else ())))


def data_folder(dataset: str) -> Path:
    return home() / "data" / dataset


def run_folder(dataset: str, name: str, seed: int) -> Path:
    return home() / "reports" / dataset / name / f"seed{seed}"


def run_folders(dataset: str = "*") -> list[Path]:
    """Every folder <dataset>/<experiment>/seed<number> of reports/ with a run.json, by data set (or of one alone), experiment and seed."""
    folders = [path.parent for path in (home() / "reports").glob(f"{dataset}/*/seed*/run.json") if path.parent.name[4:].isdecimal()]
    return sorted(folders, key=lambda folder: (folder.parent, int(folder.name[4:])))


# the record of a run -------------------------------------------------------------------------------------------------


SILENCE = 2 * 3600  # seconds without a sign after which a run on another machine is taken for dead


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

    def begin(self, **facts: Any) -> None:
        """Writes run.json with status `running` and removes the results of an earlier run. Refuses a run that another process is busy with."""
        with locked(self.folder.with_name(f"{self.folder.name}.begin")):  # what is checked is still so when it is written
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
        write_text(path, "".join(line + "\n" for line in lines))


class Bystander(Run):
    """The folder of a run for a process that takes part in it, while another one keeps its record."""

    def begin(self, **facts: Any) -> None: ...
    def update(self, **facts: Any) -> None: ...
    def log(self, **values: Any) -> None: ...
    def rewind(self, step: int) -> None: ...


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@contextlib.contextmanager
def recorded(run: Run) -> Iterator[None]:
    """What goes wrong within is kept in run.json, and goes on: `failed`, or `stopped` where the process was told to end, and why."""
    try:
        yield
    except BaseException as error:
        status = "stopped" if isinstance(error, KeyboardInterrupt | Stopped) else "failed"
        run.update(status=status, error=sentence(error) or f"{type(error).__name__}: {error}".removesuffix(": "))
        raise
