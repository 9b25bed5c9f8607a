"""How do many experiments get done? papermill executes the notebooks, one folder per run; what is done is skipped, what fails is shown.

A notebook's own record is not believed (a killed kernel leaves its cells marked as completed): a run is done when its run.json says so.
"""

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from nrms import ROOT, NrmsError, home
from nrms.config.parameters import ROLES
from nrms.config.params_files import resolve
from nrms.config.resolved import Config, check_start
from nrms.evaluation.protocols import PROTOCOLS
from nrms.report.pages.notebook_page import render
from nrms.runtime.environment import has_nvidia
from nrms.runtime.errors import meaning, sentence
from nrms.runtime.executor import Outcome, Task, call_in_process, executor_for, is_stopping, stopped_by, thread_variables
from nrms.runtime.files import read_json
from nrms.runtime.locks import locked
from nrms.runtime.progress import relayed
from nrms.runtime.run_record import Run, data_folder, run_folder, run_folders


def execute(name: str, folder: Path, parameters: dict[str, Any], label: str, threads: int | None = None) -> None:
    """Executes notebooks/<name>.ipynb into `folder` as .ipynb and .html, with the kernel's own progress line shown here.

    threads: with how many threads the libraries of the kernel compute, None: as they choose. Raises NrmsError with the error of the notebook, which
    then stands in <name>.failed.ipynb; earlier pages stay as they were.
    """
    import papermill
    from jupyter_client import AsyncKernelManager
    from jupyter_core.utils import ensure_event_loop
    from papermill.exceptions import PapermillExecutionError

    class Kernel(AsyncKernelManager):
        shutdown_wait_time = 600.0  # seconds in which a kernel that is told to end can save, before it is killed; 5 are too few for a large model

        async def start_kernel(self, **options: Any) -> None:
            own = {"NRMS_HOME": str(home())} | thread_variables(threads) | variables  # of this kernel alone, for others may be starting
            await super().start_kernel(**options | {"cwd": str(ROOT), "env": os.environ | own})

    folder.mkdir(parents=True, exist_ok=True)
    output, attempt = folder / f"{name}.ipynb", folder / f"{name}.failed.ipynb"  # until all of it has been executed
    with relayed(label) as variables, stopped_by(partial(cancel_all, ensure_event_loop())):
        try:
            papermill.execute_notebook(
                str(ROOT / "notebooks" / f"{name}.ipynb"),
                str(attempt),
                parameters,
                progress_bar=False,
                kernel_manager_class=Kernel,
                extra_arguments=["--log-level=50", "--InlineBackend.figure_formats=svg"],  # the kernel writes to our terminal; figures are drawings
            )
        except (Exception, asyncio.CancelledError) as error:
            if is_stopping():
                raise KeyboardInterrupt from None
            if isinstance(error, PapermillExecutionError):
                raise failure(label, error.ename, error.evalue) from None
            raise failure(label, type(error).__name__, str(error)) from None  # the kernel died, or could not be started
    render(attempt, output.with_suffix(".html"))
    attempt.replace(output)


def cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    """Breaks off what waits for a kernel in another thread, where papermill then tells the kernel to end."""
    loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])


def failure(label: str, kind: str, text: str) -> NrmsError:
    return NrmsError(f"{label}: {meaning(kind, text) or f'{kind}: {text}'}")


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
            execute(name, record.folder, parameters, f"{label}: {name}", config.encoding_threads)
    except NrmsError as error:
        if record.status not in ("dead", "stopped", "running"):  # running: by a process that was started otherwise, and goes on
            record.update(status="failed", error=str(error), kind="model")
        raise


@dataclass(frozen=True)
class Job:
    folder: Path  # of the run
    is_done: Callable[[], bool]
    work: Callable[[], object]
    members: tuple[str, ...] = ()  # names of the jobs that an ensemble comes after

    @property
    def name(self) -> str:
        return "/".join(self.folder.parts[-3:])


def jobs_of(configs: Sequence[Config], together: Sequence[Sequence[Config]], *, force: bool, **given: Any) -> list[Job]:
    """What is to be done, in this order: every experiment, then the ensemble of each of `together`. Raises NrmsError for one that cannot be."""
    jobs = {}
    for c in configs:
        folder = run_folder(c.dataset, c.name, c.seed)
        jobs[c.name, c.seed] = Job(folder, partial(is_current, c), partial(run_one, c, "/".join(folder.parts[-3:]), force=force, **given))
    if together:
        from nrms.evaluation import ensemble
    for members in together:
        first, name = members[0], ensemble.named(members)
        done, work = partial(ensemble.is_current, members, name), partial(ensemble.ensemble, members, name)
        names = tuple(jobs[c.name, c.seed].name for c in members if (c.name, c.seed) in jobs)
        jobs[name, first.seed] = Job(run_folder(first.dataset, name, first.seed), done, work, names)
    return list(jobs.values())


def do(job: Job, *, force: bool, say: Callable[[str], object]) -> bool | None:
    """Does a job and says so: True; None where it was done already and need not be; False where it failed."""
    began = time.perf_counter()
    try:
        with locked(job.folder, wait=False):
            if job.is_done() and not force:
                say(f"done    {job.name} (nothing changed)")
                return None
            job.work()
    except Exception as error:
        text = sentence(error)
        if text is None:
            raise
        say(f"FAILED  {text}")
        return False
    say(f"done    {job.name} in {time.perf_counter() - began:.0f} s")
    return True


def shared_tasks(configs: Sequence[Config], tables: dict[str, str]) -> list[Task]:
    """What several experiments would wait for if one of them made it: local encoders, and the baselines. What seems to be there is left to them.

    tables: digests of the data set.
    """
    first, tasks = configs[0], {}
    values = {"exp": first.exp, "dataset": first.dataset, "seed": first.seed, "given": first.given}

    def add(name: str, function: str, needs: Sequence[str] = (), **options: Any) -> None:
        label = f"{first.dataset}: {name}"
        work = partial(call_in_process, function, values | options, label, first.encoding_threads)
        tasks[name] = Task(label, work, tuple(tasks[need].name for need in needs if need in tasks))

    for role in sorted({role for config in configs for role in config.local_roles}, key=ROLES.index):
        if not any((data_folder(first.dataset) / "models").glob(f"{role}-*")):
            add(role, "nrms.models.build:make_local_model", ("bert", "vit") if role == "blip" else (), role=role)
    baseline = Run(run_folder(first.dataset, "random", 0))
    if baseline.status != "done" or baseline.record["data"] != tables:
        add("baselines", "nrms.evaluate:make_references")
    return list(tasks.values())


MEMORY = 2 << 30  # bytes that a run may need: small models, and the libraries that they are made with


def slots_for(configs: Sequence[Config], tasks: int) -> int:
    """How many tasks run side by side: each has the threads it computes with. One, where a GPU is used or a run has several processes itself."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if any(config.processes > 1 or (config.device != "cpu" and has_nvidia()) for config in configs):
        return 1
    threads = max(config.encoding_threads or cores for config in configs)
    return max(1, min(cores // threads, tasks, psutil.virtual_memory().available // MEMORY))


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
    scores = {}
    for run in map(Run, run_folders(dataset)):
        about, minutes = run.record.get("config", {}), run.record.get("evaluation_minutes", OPENING)
        if run.status != "done" or "exp" not in about or about.get("given") != given or about.get("checkpoint", True) or minutes >= OPENING:
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
    exps: Sequence[object],
    dataset: str,
    seeds: Sequence[int],
    *,
    together: Sequence[object] = (),
    force: bool = False,
    on: str = "auto",
    say: Callable[[str], object] = tqdm.write,
    **given: Any,
) -> int:
    """Runs every experiment with every seed on one data set, then the analysis, a page of one user, and the report. Returns the number of failures.

    All values are checked before anything starts. `given` values go to every experiment. together: experiments that are run too, and, seed by seed,
    the ensemble of them. on: where: `local:N`, N tasks side by side.
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
    executor = executor_for(on, lambda: slots_for(configs, len(jobs) + 1))
    from nrms.data.prepare import load

    manifest = load(dataset, configs[0].data).manifest
    folder, failures, fresh, by_name = home() / "reports" / dataset, 0, [], {job.name: job for job in jobs}
    threads = None if any(config.encoding_threads is None for config in configs) else 1

    def about_all(name: str, parameters: Callable[[], dict[str, Any]]) -> Task:
        """Executes a notebook on the whole data set, where there are parameters for it; who comes second waits, and asks again."""

        def work() -> None:
            with locked(folder / name):
                if values := parameters():
                    execute(name, folder, values, f"{dataset}: {name}", threads)

        return Task(f"{dataset}: {name}", work)

    def report(outcome: Outcome) -> None:
        nonlocal failures
        name, error = outcome.task.name, outcome.error
        failures += bool(error) or outcome.value is False
        if name in by_name and outcome.value:
            fresh.append(by_name[name].folder)
        if error and sentence(error) is None:
            raise error
        if error:
            say(f"FAILED  {sentence(error)}")
            if name in by_name:  # it could not begin
                Run(by_name[name].folder).update(status="failed", error=sentence(error), kind="model")

    def outdated(name: str) -> bool:
        return bool(fresh) or not (folder / f"{name}.html").exists()

    pending = [config for config, job in zip(configs, jobs, strict=False) if force or not job.is_done()]
    shared = shared_tasks(pending, manifest["tables"]) if len(pending) > 1 else []
    tasks = [*shared, about_all("data_prep", lambda: {"dataset": dataset} if force or older(folder / "data_prep.html", manifest["made"]) else {})]
    made = {task.name.split(": ")[1]: task.name for task in shared}
    for i, job in enumerate(jobs):
        roles = configs[i].local_roles if i < len(configs) else ()
        tasks.append(Task(job.name, partial(do, job, force=force, say=say), (*job.members, *(made[role] for role in roles if role in made))))
    if pending:
        say(f"{executor}: {executor.slots} of {len(tasks)} tasks at a time, with {threads or 'all'} thread{'' if threads == 1 else 's'} each")
    executor.run(tasks, report)
    whole = [about_all("analysis", lambda: {"dataset": dataset} if outdated("analysis") else {})]
    executor.run([*whole, about_all("browse", lambda: best_pair(dataset, given) if outdated("browse") else {})], report)
    from nrms.report.pages import index_page

    for path in index_page.write():
        say(f"wrote   {path.relative_to(home())}")
    render_again([folder / "data_prep", folder / "analysis", folder / "browse", *fresh] if fresh else [])
    return failures
