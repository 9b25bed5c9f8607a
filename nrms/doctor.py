"""Is everything there that a run needs, and are data and runs whole? One line for each check, in seconds, with what to do about what is wrong.

Nothing is changed. `ok` is as it should be, `note` is good to know, `wrong` will stop something.
"""

import os
import re
import shlex
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from nrms import ROOT, NrmsError, home
from nrms.config.parameters import Dataset
from nrms.config.params_files import PARAMS, default_name, load_dataset, reads_a_log, resolve
from nrms.report.experiments import status_of
from nrms.runtime import files
from nrms.runtime.environment import has_nvidia
from nrms.runtime.files import read_json
from nrms.runtime.run_record import Run, members_of, run_folders

HASHED = 200 << 20  # bytes; larger files are not read whole
ROOM = 2 << 30  # bytes; less is little
INSTALL = "`pip install -r requirements.txt`"


@dataclass(frozen=True)
class Finding:
    state: str  # ok, note or wrong
    text: str

    def __str__(self) -> str:
        return f"{self.state:5}  {self.text}"


ok, note, wrong = partial(Finding, "ok"), partial(Finding, "note"), partial(Finding, "wrong")


def examine() -> Iterator[Finding]:
    """All findings, one after the other. A check that fails itself is a finding too."""
    for check in CHECKS:
        try:
            yield from check()
        except Exception as error:
            remedy = f": {INSTALL}" if isinstance(error, ImportError) else ""
            yield wrong(f"the check of {check.__name__.replace('_', ' ')} itself failed ({type(error).__name__}: {error}){remedy}")


# the installation ----------------------------------------------------------------------------------------------------


def python() -> Iterator[Finding]:
    from packaging.specifiers import SpecifierSet

    wanted = re.search(r'requires-python = "(.+?)"', (ROOT / "pyproject.toml").read_text())[1]
    here = ".".join(map(str, sys.version_info[:3]))
    if SpecifierSet(wanted).contains(here):
        yield ok(f"Python {here} at {sys.executable}")
    else:
        yield wrong(f"Python is {here}, but pyproject.toml asks for {wanted}: make an environment with such a Python, and there {INSTALL}")


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def requirements() -> Iterator[Finding]:
    """What requirements.txt lists, in the versions it asks for; what only development needs is a note."""
    from packaging.requirements import Requirement

    fault, satisfied = wrong, 0
    if installed("nrms") is None:
        yield wrong(f"nrms itself is not installed, so notebooks find it only from {ROOT}: `pip install -e {ROOT}`")
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        fault = note if line.startswith("# development") else fault
        line = line.split("#")[0].strip()
        if not line or line.startswith("-"):
            continue
        requirement = Requirement(line)
        present = installed(requirement.name)
        if present is not None and requirement.specifier.contains(present, prereleases=True):
            satisfied += 1
            continue
        why = "is not installed" if present is None else f"is installed as {present}, but requirements.txt asks for {requirement.specifier}"
        yield fault(f"{requirement.name} {why}{', for development alone' if fault is note else ''}: `pip install {shlex.quote(str(requirement))}`")
    yield ok(f"{satisfied} packages are as requirements.txt asks for them")


def torch() -> Iterator[Finding]:
    """torch computes, and knows the GPU if there is one."""
    try:
        import torch

        assert torch.ones(2, 2).matmul(torch.ones(2, 2)).sum() == 8
    except Exception as error:
        yield wrong(f"torch cannot compute ({type(error).__name__}: {error}): `pip install --force-reinstall torch=={installed('torch')}`")
        return
    if torch.cuda.is_available():
        try:
            torch.ones(2, 2, device="cuda").matmul(torch.ones(2, 2, device="cuda")).sum().item()
            yield ok(f"torch {torch.__version__} computes, on {torch.cuda.get_device_name()} too")
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            yield wrong(f"torch {torch.__version__} does not compute on the GPU ({reason}): install a build for it, or give `-p device cpu`")
    elif has_nvidia() and torch.version.cuda is None:
        yield note(f"there is a GPU, but torch {torch.__version__} is built without CUDA: install another build (https://pytorch.org) to use it")
    elif has_nvidia():
        yield note(f"there is a GPU, but torch {torch.__version__}, built for CUDA {torch.version.cuda}, cannot use it: its driver may be too old")
    else:
        yield ok(f"torch {torch.__version__} computes with {torch.get_num_threads()} threads; there is no NVIDIA GPU")


def kernel() -> Iterator[Finding]:
    """The Jupyter kernel that papermill would start has this Python."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    remedy = f"`{sys.executable} -m ipykernel install --sys-prefix`"
    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        yield wrong(f"there is no Jupyter kernel `python3`, which the notebooks ask for: {remedy}")
        return
    command = spec.argv[0]
    plain = command in ("python", "python3", f"python3.{sys.version_info[1]}")  # Jupyter takes its own Python for these
    if plain or Path(command).parent.resolve() == Path(sys.executable).parent.resolve():
        yield ok(f"the Jupyter kernel `python3` of {spec.resource_dir} is this Python")
    else:
        yield wrong(f"the Jupyter kernel `python3` of {spec.resource_dir} is another Python, {command}: delete that folder, then {remedy}")


def pages() -> Iterator[Finding]:
    """Notebooks can become HTML."""
    try:
        from nbconvert import HTMLExporter

        HTMLExporter().template  # noqa: B018 (it is looked up now)
        yield ok("notebooks can be rendered as HTML")
    except Exception as error:
        yield wrong(f"nbconvert cannot render HTML ({type(error).__name__}: {error}): `pip install --force-reinstall nbconvert`")


# places --------------------------------------------------------------------------------------------------------------


def places() -> Iterator[Finding]:
    """There is room at home, and the right to write."""
    refused = None
    for folder in (home(), home() / "data", home() / "reports"):
        try:
            with tempfile.TemporaryFile(dir=nearest(folder)) as file:
                file.write(b"x")
        except OSError as error:
            refused = error.strerror or error
            yield wrong(f"{folder} cannot be written ({refused}): give yourself the right to, or let NRMS_HOME name a folder of your own")
    if not refused:
        yield ok(f"{home()}, its data and its reports can be written")
    free = shutil.disk_usage(nearest(home())).free
    space = f"{free / 2**30:,.1f} GB are free at {home()}"
    if free < ROOM:
        yield note(f"{space}, which is little (pictures of MIND-small alone take 10): free some, or let NRMS_HOME name a folder on another disk")
    else:
        yield ok(space)


def nearest(folder: Path) -> Path:
    """The folder itself, or the first above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def params() -> Iterator[Finding]:
    """Every file in params is valid."""
    paths, valid = [*sorted(PARAMS.glob("*.yaml")), *sorted((PARAMS / "data").glob("*.yaml"))], 0
    for path in paths:
        try:
            if path.parent == PARAMS:
                resolve(path.stem, "movies" if reads_a_log(path.stem) else "newsroom-tiny")
            else:
                load_dataset(path.stem)
            valid += 1
        except NrmsError as error:
            yield wrong(f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}: {error}")
    yield ok(f"{valid} of {len(paths)} files in params are valid")


# data ----------------------------------------------------------------------------------------------------------------


def data() -> Iterator[Finding]:
    """Every prepared data set is whole, and of the values its file has now."""
    folders = sorted(p for p in (home() / "data").glob("*") if p.is_dir() and not p.name.startswith("."))
    if not folders:
        yield ok("no data set is prepared yet; the demo worlds are made when they are used")
    for folder in folders:
        try:
            values = load_dataset(folder.name)
        except NrmsError as error:
            yield note(f"data/{folder.name} belongs to no data set: {error}")
            continue
        source = "" if values.source == "newsroom" else " --from FOLDER"
        remedy = f"`python -m nrms prepare {folder.name}{source}` makes it anew"
        faults = [wrong(f"data/{folder.name} {fault}: {remedy}") for fault in damage(folder)] or outdated(folder, values, remedy)
        yield from faults or [ok(f"data/{folder.name} is whole{unread(folder)}")]


def damage(folder: Path) -> Iterator[str]:
    """What a data set lacks, as the end of a sentence that begins with its name."""
    from nrms.data.images import file_digest

    try:
        manifest = read_json(folder / "manifest.json")
        listed = dict(manifest["tables"])
    except FileNotFoundError:
        yield "has no manifest.json, so it is no data set"
        return
    except (ValueError, TypeError, KeyError) as error:
        yield f"has a manifest.json that cannot be read ({type(error).__name__}: {error})"
        return
    if "images" in manifest:
        listed |= {"images.npy": manifest["images"].get("sha256"), "images.present.npy": None}
    for name, digest in listed.items():
        path = folder / name
        if not path.exists():
            yield f"lacks {name}, which its manifest lists"
        elif (why := unreadable(path)) or (digest and path.stat().st_size < HASHED and file_digest(path) != digest):
            yield f"has another {name} than its manifest says ({why or 'its SHA-256 differs'})"


def unreadable(path: Path) -> str | None:
    """Why a table cannot be opened, judged by its head and its size; None where it can."""
    try:
        if path.suffix == ".npy":
            np.load(path, mmap_mode="r")
        else:
            import pyarrow.parquet as pq

            pq.ParquetFile(path).close()
        return None
    except Exception as error:
        return " ".join(str(error).split())[:200]


def unread(folder: Path) -> str:
    """Names what was too large to be hashed."""
    large = [p.name for p in sorted(folder.iterdir()) if p.is_file() and p.stat().st_size >= HASHED]
    return f" (not hashed, being over {HASHED >> 20} MB: {', '.join(large)})" if large else ""


def outdated(folder: Path, data: Dataset, remedy: str) -> list[Finding]:
    """Whether a whole data set is of another format, or other values, than its file has now."""
    from nrms.data.prepare import FORMAT, preparation_digest

    manifest = read_json(folder / "manifest.json")
    if manifest.get("source") == data.source and manifest.get("format") == FORMAT and manifest.get("key") == preparation_digest(data):
        return []
    why = "another format" if manifest.get("format") != FORMAT else "other values than its file in params/data has now"
    if data.source == "newsroom":
        return [note(f"data/{folder.name} is of {why}: it is made anew when it is used next, and its runs are stale then")]
    return [wrong(f"data/{folder.name} is of {why}: {remedy}")]


def left_over() -> Iterator[Finding]:
    """What processes that died left lying."""
    for path in (*unfinished(home() / "data"), *unfinished(home() / "reports")):
        match = files.left_over(path)
        if not match:
            continue
        target, name = path.with_name(match["name"]), path.relative_to(home())
        if match["kind"] == "old" and not target.exists():
            yield wrong(f"{name} is all there is of {target.relative_to(home())}: `mv {shlex.quote(str(path))} {shlex.quote(str(target))}`")
        else:
            yield note(f"{name} was left by a process that is gone and can be deleted: `rm -r {shlex.quote(str(path))}`")


def unfinished(top: Path) -> Iterator[Path]:
    """Files and folders that were being written, at any depth; pictures of raw data, which are many, are passed over."""
    for folder, below, names in os.walk(top):
        yield from (Path(folder) / name for name in sorted([*below, *names]) if files.LEFT_OVER.fullmatch(name))
        below[:] = [name for name in below if name != "raw" and not files.LEFT_OVER.fullmatch(name)]


# runs ----------------------------------------------------------------------------------------------------------------


def runs() -> Iterator[Finding]:
    """Every run can be read; what did not end well is counted, with the command that goes on."""
    counts, unfinished_runs = Counter(), defaultdict(list)  # of a data set, an experiment and a status: (seed, record) of each
    for folder in run_folders():
        dataset, name, seed = folder.parts[-3], folder.parts[-2], folder.name.removeprefix("seed")
        try:
            record, status = Run(folder).record, status_of(Run(folder), dataset)
        except (ValueError, KeyError, TypeError, OSError) as error:
            path = (folder / "run.json").relative_to(home())
            yield wrong(f"{path} cannot be read ({type(error).__name__}: {error}): delete {folder} and run it again")
            continue
        counts[status] += 1
        if status == "incomplete":
            lacks = " and ".join(file for file in ("metrics.json", "rows.parquet") if not (folder / file).exists())
            yield wrong(f"{folder.relative_to(home())} is said to be done, but has no {lacks}: `{again(dataset, record, [seed], force=True)}`")
        if status in ("dead", "failed", "stopped") or (status == "stale" and record.get("kind") == "model"):  # others are made anew unasked
            unfinished_runs[dataset, name, status].append((int(seed), record))
    for (dataset, name, status), members in unfinished_runs.items():
        seeds, first = sorted(seed for seed, _ in members), members[0][1]
        why = f" ({str(first['error'])[:120]})" if status == "failed" and first.get("error") else ""
        subject = f"reports/{dataset}/{name} is {status}, seeds {', '.join(map(str, seeds))}{why}"
        yield note(f"{subject}: `{again(dataset, first, seeds)}` {'makes it anew' if status == 'stale' else 'goes on'}")
    yield ok(f"{counts.total()} runs can be read" + "".join(f", {n} {status}" for status, n in sorted(counts.items())))


def again(dataset: str, record: dict[str, Any], seeds: Iterable[Any], *, force: bool = False) -> str:
    """The command that makes a run of `record`, whatever is there already if `force`."""
    config, target = record.get("config") or {}, ["--dataset", dataset, "--seeds", *map(str, seeds)]
    overrides, forced = dict(config.get("given") or {}), ["--force"] if force else []
    if members := members_of(record):  # which is made anew whenever it is asked for
        return shlex.join(["python", "-m", "nrms", "ensemble", *members, *target])
    if "exp" not in config:  # a baseline
        return " ".join(["python -m nrms run EXP --dataset", dataset, *forced])
    if config.get("name") != default_name(config["exp"], overrides, config.get("trains")):
        overrides["name"] = config.get("name")
    words = [word for key, value in overrides.items() for word in ("-p", key, str(value))]
    return shlex.join(["python", "-m", "nrms", "run", config["exp"], *target, *words, *forced])


def report() -> Iterator[Finding]:
    """index.html knows the newest run."""
    index = home() / "reports" / "index.html"
    stamps = [(folder / "run.json").stat().st_mtime for folder in run_folders()]
    if not stamps:
        yield ok("there are no runs yet: `python -m nrms demo` makes the first")
    elif not index.exists() or index.stat().st_mtime < max(stamps):
        yield note(f"{index.relative_to(home())} is {'older than the newest run' if index.exists() else 'missing'}: `python -m nrms report`")
    else:
        yield ok(f"{index} shows all runs")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (python, requirements, torch, kernel, pages, places, params, data, left_over, runs, report)


def main() -> int:
    """Prints every finding; 1 if anything is wrong."""
    n = 0
    for finding in examine():
        print(finding, flush=True)
        n += finding.state == "wrong"
    print("Nothing is wrong." if not n else f"{n} {'thing is' if n == 1 else 'things are'} wrong.")
    return int(n > 0)
