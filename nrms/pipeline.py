"""How do many experiments get done? papermill executes the notebooks, one folder per run; what is done is skipped, what fails is shown.

A notebook's own record is not believed (a killed kernel leaves its cells marked as completed): a run is done when its run.json says so.
"""

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nrms import ROOT, NrmsError, home
from nrms.config.params_files import resolve
from nrms.config.resolved import Config, check_start
from nrms.evaluation.protocols import PROTOCOLS
from nrms.report.pages.notebook_page import render
from nrms.runtime.errors import meaning, sentence
from nrms.runtime.files import read_json
from nrms.runtime.locks import locked
from nrms.runtime.run_record import Run, run_folder


def execute(name: str, folder: Path, parameters: dict[str, Any], label: str) -> None:
    """Executes notebooks/<name>.ipynb into `folder` as .ipynb and .html, with the kernel's own progress line shown here.

    Raises NrmsError with the error of the notebook, which then stands in <name>.failed.ipynb; earlier pages stay as they were.
    """
    import papermill
    from jupyter_client import AsyncKernelManager
    from papermill.exceptions import PapermillExecutionError

    class Patient(AsyncKernelManager):
        shutdown_wait_time = 600.0  # seconds in which a kernel that is told to end can save, before it is killed; 5 are too few for a large model

    folder.mkdir(parents=True, exist_ok=True)
    output, attempt = folder / f"{name}.ipynb", folder / f"{name}.failed.ipynb"  # until all of it has been executed
    with Relay(label):
        try:
            papermill.execute_notebook(
                str(ROOT / "notebooks" / f"{name}.ipynb"),
                str(attempt),
                parameters,
                cwd=str(ROOT),
                progress_bar=False,
                kernel_manager_class=Patient,
                extra_arguments=["--log-level=50", "--InlineBackend.figure_formats=svg"],  # the kernel writes to our terminal; figures are drawings
            )
        except PapermillExecutionError as error:
            raise failure(label, error.ename, error.evalue) from None
        except Exception as error:  # the kernel died, or could not be started
            raise failure(label, type(error).__name__, str(error)) from None
    render(attempt, output.with_suffix(".html"))
    attempt.replace(output)


def failure(label: str, kind: str, text: str) -> NrmsError:
    return NrmsError(f"{label}: {meaning(kind, text) or f'{kind}: {text}'}")


class Relay:
    """Shows on this terminal, as one line, the progress that the kernel writes into the file named by NRMS_PROGRESS."""

    def __init__(self, label: str):
        self.bar = tqdm(desc=label, bar_format="{desc} {elapsed} {postfix}", disable=None, ncols=120, leave=False)
        self.stop = threading.Event()

    def __enter__(self) -> "Relay":
        self.folder = tempfile.TemporaryDirectory()
        self.file = Path(self.folder.name) / "progress"
        os.environ["NRMS_PROGRESS"] = str(self.file)
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def watch(self) -> None:
        while not self.stop.wait(0.5):
            text = self.file.read_text() if self.file.exists() else ""
            self.bar.set_postfix_str(text[:70], refresh=False)
            self.bar.refresh()

    def __exit__(self, *_: object) -> None:
        os.environ.pop("NRMS_PROGRESS", None)
        self.stop.set()
        self.thread.join()
        self.bar.close()
        self.folder.cleanup()


def is_current(config: Config) -> bool:
    """True when the run of `config` is done, with the same values, on the data that are there now, and its pages are rendered."""
    run = Run(run_folder(config.dataset, config.name, config.seed))
    manifest = home() / "data" / config.dataset / "manifest.json"
    pages = all((run.folder / f"{n}.html").exists() for n in ("train", "eval"))
    return (
        run.status == "done"
        and run.record["hash"] == config.hash
        and manifest.exists()
        and run.record["data"] == read_json(manifest)["tables"]
        and pages
    )


def older(page: Path, moment: str) -> bool:
    """Whether a page is missing, or was made before `moment`."""
    return not page.exists() or moment > time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(page.stat().st_mtime))


def run_one(config: Config, label: str, *, force: bool, **given: Any) -> None:
    """Executes the notebooks of one experiment with one seed. Raises NrmsError when they fail, which run.json then says too."""
    record = Run(run_folder(config.dataset, config.name, config.seed))
    if record.status == "running":
        raise NrmsError(f"{label}: process {record.record['pid']} on {record.record['host']} is busy with it; wait for it or stop it first.")
    if force:
        shutil.rmtree(record.folder, ignore_errors=True)
    parameters = {"exp": config.exp, "dataset": config.dataset, "seed": config.seed} | given
    try:
        for name in ("train", "eval"):
            execute(name, record.folder, parameters, f"{label}: {name}")
    except NrmsError as error:
        if record.status not in ("dead", "stopped", "running"):  # running: by a process that was started otherwise, and goes on
            record.update(status="failed", error=str(error), kind="model")
        raise


Job = tuple[Path, Callable[[], bool], Callable[[], object]]  # the folder of a run; whether it is done already; does it


def jobs_of(configs: Sequence[Config], together: Sequence[Sequence[Config]], *, force: bool, **given: Any) -> list[Job]:
    """What is to be done, in this order: every experiment, then the ensemble of each of `together`. Raises NrmsError for one that cannot be."""
    jobs: list[Job] = []
    for c in configs:
        work = partial(run_one, c, f"{c.dataset}/{c.name}/seed{c.seed}", force=force, **given)
        jobs.append((run_folder(c.dataset, c.name, c.seed), partial(is_current, c), work))
    if together:
        from nrms.evaluation import ensemble
    for members in together:
        first, name = members[0], ensemble.named(members)
        done, work = partial(ensemble.is_current, members, name), partial(ensemble.ensemble, members, name)
        jobs.append((run_folder(first.dataset, name, first.seed), done, work))
    return jobs


def do(job: Job, *, force: bool, say: Callable[[str], object]) -> bool | None:
    """Does a job and says so: True; None where it was done already and need not be; False where it failed."""
    (place, is_done, work), began = job, time.perf_counter()
    label = "/".join(place.parts[-3:])
    try:
        with locked(place, wait=False):
            if is_done() and not force:
                say(f"done    {label} (nothing changed)")
                return None
            work()
    except Exception as error:
        text = sentence(error)
        if text is None:
            raise
        say(f"FAILED  {text}")
        return False
    say(f"done    {label} in {time.perf_counter() - began:.0f} s")
    return True


def render_again(places: Sequence[Path]) -> None:
    """Renders finished notebooks once more, so that their pages link to those that were made after them; those that somebody is at are left alone."""
    for place in places:
        with contextlib.suppress(NrmsError), locked(place, wait=False):
            inside = place.glob("*.ipynb") if place.is_dir() else [place.with_suffix(".ipynb")]
            for notebook in inside:
                if notebook.exists() and not notebook.stem.endswith(".failed"):
                    render(notebook, notebook.with_suffix(".html"))


OPENING = 1.0  # minutes that evaluating a model may have taken for its items to be encoded once more, for a page to look at


def best_pair(dataset: str, given: dict[str, Any]) -> dict[str, Any]:
    """Parameters of browse.ipynb: the best finished experiment of the data set with these values, and the second best of the same seed, if any.

    Nothing where there is none, or none that opens in reasonable time.
    """
    from nrms.models.load import models_of

    scores = {}
    for run in models_of(dataset).values():
        about, minutes = run.record["config"], run.record.get("evaluation_minutes", OPENING)
        if about.get("given") != given or about.get("checkpoint", True) or minutes >= OPENING:
            continue
        with contextlib.suppress(NrmsError):  # of one whose file of parameters is no more, or not the same
            config = resolve(about["exp"], dataset, about["seed"], **given)
            if run_folder(dataset, config.name, config.seed) == run.folder and is_current(config):
                main = PROTOCOLS[config.data.protocol].main
                scores[config.exp, config.seed] = read_json(run.folder / "metrics.json")["all"][main]["mean"]
    order = sorted(scores, key=lambda key: scores[key], reverse=True)
    if not order:
        return {}
    others = [exp for exp, seed in order[1:] if seed == order[0][1] and exp != order[0][0]]
    return {"exp": order[0][0], "other": others[0] if others else None, "dataset": dataset, "seed": order[0][1]} | given


def run(
    exps: Sequence[object], dataset: str, seeds: Sequence[int], *, together: Sequence[object] = (), force: bool = False, say=print, **given: Any
) -> int:
    """Runs every experiment with every seed on one data set, then the analysis, a page of one user, and the report. Returns the number of failures.

    All values are checked before anything starts. `given` values go to every experiment. together: experiments that are run too, and, seed by seed,
    the ensemble of them.
    """
    exps = list(dict.fromkeys([*exps, *together]))
    if "name" in given and len(exps) > 1:
        raise NrmsError(f"`name` names one run folder, and cannot be given to {len(exps)} experiments at once.")
    configs = [resolve(exp, dataset, seed, **given) for exp in exps for seed in seeds]
    averaged = [[resolve(exp, dataset, seed, **given) for exp in together] for seed in seeds if together]
    for config in configs:
        check_start(config)
    given |= configs[0].given  # with the whole path of `start`
    jobs = jobs_of(configs, averaged, force=force, **given)
    from nrms.data.prepare import load

    folder, failures, fresh = home() / "reports" / dataset, 0, []
    made = load(dataset, configs[0].data).manifest["made"]

    def about_all(name: str, parameters: Callable[[], dict[str, Any]]) -> None:
        """Executes a notebook on the whole data set, where there are parameters for it; who comes second waits, and asks again."""
        nonlocal failures
        try:
            with locked(folder / name):
                if values := parameters():
                    execute(name, folder, values, f"{dataset}: {name}")
        except NrmsError as error:
            failures += 1
            say(f"FAILED  {error}")

    def outdated(name: str) -> bool:
        return bool(fresh) or not (folder / f"{name}.html").exists()

    about_all("data_prep", lambda: {"dataset": dataset} if force or older(folder / "data_prep.html", made) else {})
    results = [do(job, force=force, say=say) for job in jobs]
    failures += results.count(False)
    fresh.extend(place for (place, *_), result in zip(jobs, results, strict=True) if result)
    about_all("analysis", lambda: {"dataset": dataset} if outdated("analysis") else {})
    about_all("browse", lambda: best_pair(dataset, given) if outdated("browse") else {})
    from nrms.report.pages import index_page

    for path in index_page.write():
        say(f"wrote   {path.relative_to(home())}")
    render_again([folder / "data_prep", folder / "analysis", folder / "browse", *fresh] if fresh else [])
    return failures
