"""How do many experiments get done? papermill executes the notebooks, one folder per run; what is done is skipped, what fails is shown.

A notebook's own record is not believed (a killed kernel leaves its cells marked as completed): a run is done when its run.json says so.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
from nrms.report.pages import layout
from nrms.report.pages.notebook_page import render
from nrms.runtime.child_processes import call_in_process, import_ahead
from nrms.runtime.environment import has_nvidia
from nrms.runtime.errors import sentence
from nrms.runtime.executor import Outcome, Task, executor_for
from nrms.runtime.files import read_json
from nrms.runtime.jupyter_kernels import execute_notebook
from nrms.runtime.locks import locked
from nrms.runtime.run_record import Run, data_folder, run_folder, run_folders


def execute(name: str, folder: Path, parameters: dict[str, Any], label: str, threads: int | None = None) -> None:
    """Executes notebooks/<name>.ipynb into `folder` as .ipynb and .html, with the kernel's own progress line shown here.

    threads: with how many threads the libraries of the kernel compute, None: as they choose. Raises NrmsError with the error of the notebook, which
    then stands in <name>.failed.ipynb; earlier pages stay as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    output, attempt = folder / f"{name}.ipynb", folder / f"{name}.failed.ipynb"  # until all of it has been executed
    execute_notebook(ROOT / "notebooks" / f"{name}.ipynb", attempt, parameters, label, threads)
    render(attempt, output.with_suffix(".html"))
    attempt.replace(output)


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
    """Whether a page that is there was made before `moment`."""
    return page.exists() and moment > time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(page.stat().st_mtime))


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
    config: Config | None = None  # None for an ensemble
    members: tuple[str, ...] = ()  # names of the jobs that an ensemble comes after

    @property
    def name(self) -> str:
        return "/".join(self.folder.parts[-3:])


def jobs_of(configs: Sequence[Config], together: Sequence[Sequence[Config]], *, force: bool, **given: Any) -> list[Job]:
    """What is to be done, in this order: every experiment, then the ensemble of each of `together`. Raises NrmsError for one that cannot be."""
    jobs = {}  # the same one asked for twice is done once
    for config in configs:
        folder = run_folder(config.dataset, config.name, config.seed)
        work = partial(run_one, config, "/".join(folder.parts[-3:]), force=force, **given)
        jobs[folder] = Job(folder, partial(is_current, config), work, config)
    if together:
        from nrms.evaluation import ensemble
    for members in together:
        first, name = members[0], ensemble.named(members)
        done, work = partial(ensemble.is_current, members, name), partial(ensemble.ensemble, members, name)
        folder, folders = run_folder(first.dataset, name, first.seed), [run_folder(c.dataset, c.name, c.seed) for c in members]
        jobs[folder] = Job(folder, done, work, members=tuple(jobs[f].name for f in folders if f in jobs))
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


def shared_tasks(configs: Sequence[Config], tables: dict[str, str]) -> dict[str, Task]:
    """{role or `baselines`: task} of what several experiments would wait for if one of them made it. What seems to be there is left to them.

    tables: digests of the data set.
    """
    first, tasks = configs[0], {}
    values = {"exp": first.exp, "dataset": first.dataset, "seed": first.seed, "given": first.given}

    def task(name: str, function: str, needs: Sequence[str] = (), **options: Any) -> Task:
        label = f"{first.dataset}: {name}"
        work = partial(call_in_process, function, values | options, label, first.encoding_threads)
        return Task(label, work, tuple(tasks[need].name for need in needs if need in tasks))

    for role in (role for role in ROLES if any(role in config.local_roles for config in configs)):
        if not any((data_folder(first.dataset) / "models").glob(f"{role}-*")):
            tasks[role] = task(role, "nrms.models.build:make_local_model", ("bert", "vit") if role == "blip" else (), role=role)
    baseline = Run(run_folder(first.dataset, "random", 0))
    if baseline.status != "done" or baseline.record["data"] != tables:
        tasks["baselines"] = task("baselines", "nrms.evaluate:make_references")
    return tasks


def notebook_task(name: str, dataset: str, parameters: Callable[[], dict[str, Any]], threads: int | None) -> Task:
    """A notebook on the whole data set, executed where there are parameters for it; who comes second waits, and asks again."""

    def work() -> None:
        folder = home() / "reports" / dataset
        with locked(folder / name):
            if values := parameters():
                execute(name, folder, values, f"{dataset}: {name}", threads)

    return Task(f"{dataset}: {name}", work)


def job_task(job: Job, config: Config | None, shared: dict[str, Task], *, force: bool, say: Callable[[str], object]) -> Task:
    """`do` as a task, which comes after what is `shared`. config: of an experiment that is not done yet."""
    roles = config.local_roles if config else []
    needs = (*job.members, *(shared[role].name for role in roles if role in shared))
    return Task(job.name, partial(do, job, force=force, say=say), needs)


def in_order(jobs: Sequence[Task], configs: dict[str, Config], others: Sequence[Task]) -> list[Task]:
    """All tasks, those first that take long: experiments whose encoders learn, more of them before fewer; what these need is before them.

    configs: of the experiments that are not done yet, by name.
    """
    weights = {name: len(config.tuned) for name, config in configs.items()}
    long = sorted((job for job in jobs if weights.get(job.name)), key=lambda job: -weights[job.name])
    needed = {name for job in long for name in job.needs}
    return [*(o for o in others if o.name in needed), *long, *(o for o in others if o.name not in needed), *(job for job in jobs if job not in long)]


@dataclass
class Results:
    """What became of the tasks so far."""

    folders: dict[str, Path]  # of runs, by the names of their tasks
    say: Callable[[str], object]
    failures: int = 0
    fresh: list[Path] = field(default_factory=list)  # folders of the runs that were made now

    def add(self, outcome: Outcome) -> None:
        folder, error = self.folders.get(outcome.task.name), outcome.error
        if error and sentence(error) is None:
            raise error
        self.failures += bool(error) or outcome.value is False
        if error:
            self.say(f"FAILED  {sentence(error)}")
        if folder and error:  # it could not begin
            Run(folder).update(status="failed", error=sentence(error), kind="model")
        elif folder and outcome.value:
            self.fresh.append(folder)


MEMORY = 2 << 30  # bytes that a run may need: small models, and the libraries that they are made with


def slots_for(configs: Sequence[Config], tasks: int) -> int:
    """How many tasks run side by side: each has the threads it computes with. One, where a GPU is used or a run has several processes itself."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if any(config.processes > 1 or (config.device != "cpu" and has_nvidia()) for config in configs):
        return 1
    threads = max(config.encoding_threads or cores for config in configs)
    return max(1, min(cores // threads, tasks, psutil.virtual_memory().available // MEMORY))


def link_again(places: Sequence[Path]) -> None:
    """Links pages to those that were made after them: of runs, or of notebooks on a whole data set. Those that somebody is at are left alone."""
    for place in places:
        with contextlib.suppress(NrmsError), locked(place, wait=False):
            for page in place.glob("*.html") if place.is_dir() else [place.with_suffix(".html")]:
                if page.exists():
                    layout.link_again(page, home() / "reports")


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
    if force or not all(job.is_done() for job in jobs):
        import_ahead()
    from nrms.data.prepare import load

    manifest, folder = load(dataset, configs[0].data).manifest, home() / "reports" / dataset
    threads = None if any(config.encoding_threads is None for config in configs) else 1
    results = Results({job.name: job.folder for job in jobs}, say)

    def notebook(name: str, is_old: Callable[[], bool], parameters: Callable[[], dict[str, Any]] = lambda: {"dataset": dataset}) -> Task:
        return notebook_task(name, dataset, lambda: parameters() if is_old() or not (folder / f"{name}.html").exists() else {}, threads)

    pending = {job.name: job.config for job in jobs if job.config and (force or not job.is_done())}
    shared = shared_tasks(list(pending.values()), manifest["tables"]) if len(pending) > 1 else {}
    data_prep = notebook("data_prep", lambda: force or older(folder / "data_prep.html", manifest["made"]))
    tasks = in_order([job_task(job, pending.get(job.name), shared, force=force, say=say) for job in jobs], pending, [*shared.values(), data_prep])
    if pending:
        say(f"{executor}: {executor.slots} of {len(tasks)} tasks at a time, with {threads or 'all'} thread{'' if threads == 1 else 's'} each")
    executor.run(tasks, results.add)
    whole = [notebook("analysis", lambda: bool(results.fresh)), notebook("browse", lambda: bool(results.fresh), lambda: best_pair(dataset, given))]
    executor.run(whole, results.add)
    from nrms.report.pages import index_page

    for path in index_page.write():
        say(f"wrote   {path.relative_to(home())}")
    link_again([folder / "data_prep", folder / "analysis", folder / "browse", *results.fresh] if results.fresh else [])
    return results.failures
