"""Which finished run does somebody mean, and what is its model? By name to its folder, by its folder to the weights that it kept.

A run that is not done, that holds no model, or whose data have been prepared anew since is refused: its scores would not be those that were judged.
"""

import hashlib
import re
from pathlib import Path

import torch

from nrms import NrmsError
from nrms.config.names import nearest
from nrms.config.parameters import GRAPHS, LEARNING, ROLES, Experiment
from nrms.config.params_files import load_dataset, validate
from nrms.config.resolved import Config
from nrms.data.prepare import Tables, load
from nrms.models.build import build
from nrms.models.recommender import Recommender
from nrms.runtime.checkpoints import load_checkpoint, read_state
from nrms.runtime.run_record import Run, run_folders


def check_fits(path: Path, state: dict, config: Config, tables: Tables) -> None:
    """Raises NrmsError when the checkpoint with the header `state` was not trained as `config` has it, on encoders that these data do not have, or
    when it has vectors of items or users that are not those of the data and the log that are there now."""
    if not isinstance(state.get("config", {}).get("data"), dict):
        raise NrmsError(f"{path} holds no finished model (it may be a last.safetensors, to go on from): give a best.safetensors.")
    source, same_content = state["config"], state.get("content") == tables.content_digest
    wrong = [k for k, field in Experiment.model_fields.items() if k not in LEARNING and source.get(k, field.default) != getattr(config, k)]
    if wrong:
        differences = ", ".join(f"{k} {source.get(k)!r}, here {getattr(config, k)!r}" for k in wrong)
        values = " ".join(f"-p {k} {source.get(k)}" for k in wrong)
        raise NrmsError(
            f"{path} does not fit {config.exp} on {config.dataset}. It was trained with {differences}. Choose its experiment, or give: {values}"
        )
    for role in {getattr(config, m) for m in config.modalities} & set(ROLES):
        there, here = source["data"].get(role), getattr(config.data, role)
        if "local" in (there, here) and (there != here or not same_content):
            raise NrmsError(
                f"{path} does not fit {config.dataset}: its `{role}` was {there!r} of {source['dataset']}, here it is "
                f"{here!r}. A model pre-trained on one data set's own content is another one elsewhere."
            )
    bound = ["ids"] if config.ids else []
    bound += [m for m in config.modalities if m in config.data.given and config.tuning_of(m) == "frozen"]
    if bound and not same_content:
        raise NrmsError(
            f"{path} does not fit {config.dataset}: its {' and '.join(bound)} are those of the items of {source['dataset']} as they were then, "
            "not of these."
        )
    if config.users in GRAPHS and state.get("log") != tables.log_digest:
        raise NrmsError(f"{path} does not fit {config.dataset}: users {config.users} learns a vector for each user, and its log was another.")


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Puts the weights of a checkpoint into `model`. Raises NrmsError when names or shapes differ."""
    tensors, _ = load_checkpoint(path)
    weights = model.state_dict()
    wrong = sorted(k for k in weights.keys() | tensors.keys() if k not in weights or k not in tensors or weights[k].shape != tensors[k].shape)
    if wrong:
        raise NrmsError(
            f"{path} does not fit the model: {len(wrong)} of its tensors have another name or shape, {wrong[0]} among them. "
            "The encoder behind a role may be another than the one it was trained with."
        )
    model.load_state_dict(tensors)


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
        experiments = {model.split("/")[0] for model in models}
        hint = nearest(name, [*models, *experiments] if "/" in name else experiments) if models else f": no model has been judged on {dataset}."
        raise NrmsError(f"There is no run `{text}` on {dataset}{hint} `python -m nrms run EXP --dataset {dataset}` makes one.")
    run = next((run for run in meant if run.status == "done"), meant[0])
    if run.status in ("done", "trained") and not holds_model(run):
        raise NrmsError(f"{run.folder} holds no model of its own but a baseline, a ceiling or an ensemble: give the run of an experiment.")
    config = run.record.get("config", {})
    if config.get("dataset", dataset) != dataset:
        raise NrmsError(f"{run.folder} is a run on {config['dataset']}, not on {dataset}: give `--dataset {config['dataset']}`.")
    if run.status != "done":
        again = f"python -m nrms run {config.get('exp', 'EXP')} --dataset {dataset} --seeds {config.get('seed', 0)}"
        raise NrmsError(f"{run.folder} is not finished (its status is {run.status}): `{again}` first.")
    return run


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
    check_fits(path, read_state(path), config, tables)
    model = build(config, tables, "cuda" if torch.cuda.is_available() and config.device != "cpu" else "cpu")
    load_weights(model, path)
    return config, tables, model.eval()
