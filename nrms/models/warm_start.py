"""What does a recommender bring along from elsewhere, and what of it learns here? Two lists: weights that are taken, weights that train.

Weights go by name and shape. What is bound to items (a table of ids, clusters) or users (their vectors) is left behind: those of one data set are
not those of another. What neither came along nor learns here would stay as it was drawn, noise in every score, and is refused.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from nrms import NrmsError
from nrms.config.parameters import GRAPHS
from nrms.config.resolved import Config, check_start
from nrms.models.items.encoders import Frozen
from nrms.models.recommender import Recommender
from nrms.runtime.checkpoints import load_checkpoint

MADE = ("users.lookup", "users.prototypes", "items.encoders.*.table")  # names of what a data set's own items make
BOUND = (*MADE, "*.ids.table.weight", "users.user.weight")  # of what belongs to a data set's items or users
COUNTED = ("*.running_*", "*.num_batches_tracked")  # of what training counts by itself
ALWAYS = ("repeats",)  # of what says something of a data set, whatever the model: it learns under any `trains`
SIZES = ("users", "dim", "layers", "wide", "history", "query_dim", "depth")  # settings that names and shapes follow from
NO_HEADS = (*GRAPHS, "gru4rec", "nextitnet", "dssm")  # user encoders without attention
MOST = 8  # names that are written out


@dataclass(frozen=True)
class WarmStart:
    """What became of the weights of a recommender that starts from a checkpoint, and of those of the checkpoint, by name.

    bound, unfit: left there, as they belong to items or users of other data, or as nothing here has their name and shape.
    """

    origin: str
    stays: list[str]  # taken, and stays as it came
    learns: list[str]  # taken, and learns on
    fresh: list[str]  # not taken, and learns: from nothing, or from where its encoder came pre-trained
    bound: list[str]
    unfit: list[str]

    def facts(self) -> dict[str, Any]:
        """For run.json: where from, and of each kind the number of tensors and the first names."""
        kinds = {name: names for name, names in asdict(self).items() if name != "origin"}
        return {"origin": self.origin} | {kind: {"tensors": len(names), "names": names[:MOST]} for kind, names in kinds.items()}


def warm_start(model: Recommender, config: Config) -> WarmStart | None:
    """Gives a `model` as it was built the weights of `config.start`, and lets those learn that `config.trains` names. None where there is no start.

    Raises NrmsError when `trains` has no `start`, when nothing fits, when what fits was learned to be read otherwise, and when a weight would neither
    be taken nor learn.
    """
    check_start(config)
    if not config.start:
        return None
    path = Path(config.start)
    tensors, state = load_checkpoint(path)
    theirs = state.get("config", {})
    taken = take(model, tensors, path)
    check_read(model, taken, theirs, config)
    own, rested = model.state_dict(), resting(model)  # what rests before `trains` is read came pre-trained, or is meant to be as it is
    if config.trains:
        narrow(model, config.trains)
    learn = {name for name, _ in model.named_parameters(remove_duplicate=False)} - resting(model)
    idle = [name for name in own if name not in {*taken, *learn, *rested} and not matches(name, MADE + COUNTED)]
    if idle:
        raise NrmsError(refusal(idle, {name: tensor.shape for name, tensor in own.items()}, tensors, theirs, config))
    left = [name for name in tensors if name not in taken]
    return WarmStart(
        origin=origin_of(path, theirs),
        stays=[name for name in taken if name not in learn],
        learns=[name for name in taken if name in learn],
        fresh=[name for name in own if name in learn and name not in taken],
        bound=[name for name in left if matches(name, BOUND)],
        unfit=[name for name in left if not matches(name, BOUND)],
    )


begin = warm_start  # as notebooks of 0.1 say it


def resting(model: torch.nn.Module) -> set[str]:
    """Names of the parameters that do not learn; two names of one tensor are both there."""
    return {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def take(model: Recommender, tensors: dict[str, torch.Tensor], path: Path) -> list[str]:
    """Takes all `tensors` of the checkpoint at `path` that fit, a bias only beside its weight, and returns their names.

    Raises NrmsError when there are none.
    """
    own = model.state_dict()
    fits = {name for name, tensor in tensors.items() if name in own and own[name].shape == tensor.shape and not matches(name, BOUND)}
    alone = {name for name in fits if name.endswith("bias") and f"{name.removesuffix('bias')}weight" in own.keys() - fits}
    taken = [name for name in tensors if name in fits - alone]
    if not taken:
        raise NrmsError(f"None of the weights in {path} fits this experiment by name and shape: were `users`, `dim` or the encoders others?")
    model.load_state_dict({name: tensors[name] for name in taken}, strict=False)
    return taken


def narrow(model: torch.nn.Module, patterns: Sequence[str]) -> None:
    """Lets learn only the weights whose names match one of the patterns, as of files: `*` is anything; what ALWAYS learns goes on.

    Raises NrmsError for a pattern that no weight that could learn has.
    """
    names = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise NrmsError(f"`trains` has the pattern {pattern!r}, which no weight matches. They are: {', '.join(sorted(names)[:8])}, ...")
    for name, parameter in names.items():
        parameter.requires_grad_(matches(name, (*patterns, *ALWAYS)))


def check_read(model: Recommender, taken: Sequence[str], theirs: dict[str, Any], config: Config) -> None:
    """Raises NrmsError when weights that were taken are read otherwise here than where they learned, though names and shapes are the same."""
    users = any(name.startswith("users.") for name in taken)
    looked_up = tuple(f"items.encoders.{name}." for name, encoder in model.items.encoders.items() if isinstance(encoder, Frozen))
    frozen = any(name.startswith(looked_up) for name in taken)
    asked = {"users": users, "heads": users and config.users not in NO_HEADS, "standardise": frozen}
    for name, matters in asked.items():
        if matters and theirs.get(name, getattr(config, name)) != getattr(config, name):
            raise NrmsError(
                f"The weights in {config.start} were learned with {name} {theirs[name]}, here it is {getattr(config, name)}: they would fit in name "
                f"and shape, and mean something else. Give `-p {name} {str(theirs[name]).lower()}`, or another `start`."
            )


def refusal(idle: list[str], own: dict[str, torch.Size], tensors: dict[str, torch.Tensor], theirs: dict[str, Any], config: Config) -> str:
    """Which weights would stay as they were drawn, why, and what to do."""

    def why(name: str) -> str:
        if matches(name, BOUND):
            return f"{name} (bound to the items or users of its data, never taken)"
        there = f"{shape(tensors[name].shape)} there, {shape(own[name])} here" if name in tensors else "not there"
        return f"{name} ({there})"

    listed = [*map(why, idle[:3]), *([f"and {len(idle) - 3} more"] if len(idle) > 3 else [])]
    apart = [name for name in SIZES if theirs.get(name, getattr(config, name)) != getattr(config, name)]
    same = f"Give {' '.join(f'`-p {name} {theirs[name]}`' for name in apart)}, as there, or let it learn" if apart else "Let it learn"
    return (
        f"What neither comes from {config.start} nor learns here would stay as it was drawn, noise in every score: {', '.join(listed)}. "
        f"{same}: name it in `trains`."
    )


def shape(size: torch.Size) -> str:
    return " x ".join(map(str, size)) or "one number"


def origin_of(path: Path, theirs: dict[str, Any]) -> str:
    """Which experiment on which data a checkpoint is of, as far as it says so."""
    return f"{theirs['exp']} on {theirs['dataset']}, seed {theirs['seed']}" if {"exp", "dataset", "seed"} <= theirs.keys() else str(path)
