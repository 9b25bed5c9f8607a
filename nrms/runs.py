"""Which finished run does somebody mean, and what is its model? By name to its folder, by its folder to the weights that it kept.

A run that is not done, that holds no model, or whose data have been prepared anew since is refused: what it would say is not what was judged.
"""

import hashlib
import re
from pathlib import Path

import torch

from nrms import NrmsError
from nrms.checks import nearest
from nrms.config import Config, load_dataset, validate
from nrms.data.prepare import Tables, load
from nrms.evaluate import check_fits, check_users, load_weights
from nrms.files import read_state
from nrms.recommender import Recommender, build
from nrms.runtime import Run, run_folders


def runs_of(dataset: str) -> dict[str, Run]:
    """{`exp3/seed0`: run} of every folder with a run.json under reports/<dataset>, by name, then by seed."""
    return {f"{folder.parent.name}/{folder.name}": Run(folder) for folder in run_folders(dataset)}


def holds_model(run: Run) -> bool:
    """Whether one trained model was judged in this run: not so of baselines, ceilings and ensembles."""
    return run.record.get("kind") == "model" and "exp" in run.record.get("config", {})


def models_of(dataset: str) -> dict[str, Run]:
    """{`exp3/seed0`: run} of the finished runs of a data set that hold a model."""
    return {name: run for name, run in runs_of(dataset).items() if holds_model(run) and run.status == "done"}


def find_run(text: str, dataset: str) -> Run:
    """The finished run on `dataset` that `text` means: a folder, `exp3/seed0`, or `exp3` (or 3), of which the lowest seed that is done is taken.

    Raises NrmsError for an unknown name, with the nearest valid one; for a run that is not done, that holds no model or is of other data.
    """
    load_dataset(dataset)  # for its error
    text, runs = str(text).rstrip("/"), runs_of(dataset)
    name = re.sub(r"^(\d+)(?=$|/)", r"exp\1", text)
    meant = [run for known, run in runs.items() if name in (known, known.split("/")[0])]
    if not meant and (Path(text) / "run.json").is_file():
        meant = [Run(Path(text).resolve())]
    if not meant:
        models = models_of(dataset)
        known = [*models, *(model.split("/")[0] for model in models)]
        says = nearest(name, known if "/" in name else {k for k in known if "/" not in k}) if models else f": no model has been judged on {dataset}."
        raise NrmsError(f"There is no run `{text}` on {dataset}{says} `python -m nrms run EXP --dataset {dataset}` makes one.")
    run = next((run for run in meant if run.status == "done"), meant[0])
    check_model(run, dataset)
    return run


def check_model(run: Run, dataset: str) -> None:
    """Raises NrmsError unless `run` is done, holds a model, and was judged on `dataset`."""
    if run.status in ("done", "trained") and not holds_model(run):
        raise NrmsError(f"{run.folder} holds no model of its own but a baseline, a ceiling or an ensemble: give the run of an experiment.")
    config = run.record.get("config", {})
    if config.get("dataset", dataset) != dataset:
        raise NrmsError(f"{run.folder} is a run on {config['dataset']}, not on {dataset}: give `--dataset {config['dataset']}`.")
    if run.status != "done":
        again = f"python -m nrms run {config.get('exp', 'EXP')} --dataset {dataset} --seeds {config.get('seed', 0)}"
        raise NrmsError(f"{run.folder} is not finished (its status is {run.status}): `{again}` first.")


def load_run(run: Run) -> tuple[Config, Tables, Recommender]:
    """What a finished run did, on which data, and its model: the weights that validated best, in eval mode, on a GPU if it may use one.

    Raises NrmsError when the data have been prepared anew since, or when the weights do not fit.
    """
    if not holds_model(run):
        raise NrmsError(f"{run.folder} holds no model of its own: give the run of an experiment.")
    config: Config = validate(Config, run.record["config"], str(run.folder / "run.json"))
    tables = load(config.dataset, config.data)
    if run.record.get("data") != tables.manifest["tables"]:
        raise NrmsError(
            f"The data set {config.dataset} has been prepared anew since {run.folder} was judged on it: "
            f"`python -m nrms run {config.exp} --dataset {config.dataset} --seeds {config.seed}` again."
        )
    path = Path(config.checkpoint or run.folder / "checkpoint" / "best.safetensors")
    if not path.is_file():
        raise NrmsError(f"The weights of {run.folder} are gone: there is no {path}. Bring them back, or train again with `--force`.")
    if config.checkpoint and hashlib.sha256(path.read_bytes()).hexdigest() != run.record.get("sha256"):
        raise NrmsError(f"{path} is not what {run.folder} was judged with; `python -m nrms evaluate` judges it as it is now.")
    state = read_state(path)
    check_fits(path, state, config, tables)
    check_users(path, state, config, tables)
    model = build(config, tables, "cuda" if torch.cuda.is_available() and config.device != "cpu" else "cpu")
    load_weights(model, path)
    return config, tables, model.eval()
