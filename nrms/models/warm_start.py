"""What does a recommender bring along from elsewhere, and what of it learns here? Two lists: weights that are copied, weights that train.

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

DERIVED = ("users.lookup", "users.prototypes", "items.encoders.*.table")  # names of what a data set's own items make
BOUND = (*DERIVED, "*.ids.table.weight", "users.user.weight")  # of what belongs to a data set's items or users
COUNTED = ("*.running_*", "*.num_batches_tracked")  # of what training counts by itself
ALWAYS = ("repeats",)  # of what says something of a data set, whatever the model: it learns under any `trains`
SIZES = ("users", "dim", "layers", "wide", "history", "query_dim", "depth")  # settings that names and shapes follow from
NO_HEADS = (*GRAPHS, "gru4rec", "nextitnet", "dssm")  # user encoders without attention
MAX_NAMES_SHOWN = 8


@dataclass(frozen=True)
class WarmStart:
    """What became of the weights of a recommender that starts from a checkpoint, and of those of the checkpoint, by name.

    bound, unfit: left there, as they belong to items or users of other data, or as nothing here has their name and shape.
    """

    origin: str  # which experiment on which data the checkpoint is of, as far as it says so
    stays: list[str]  # copied, and stays as it came
    learns: list[str]  # copied, and learns on
    fresh: list[str]  # not copied, and learns: from nothing, or from where its encoder came pre-trained
    bound: list[str]
    unfit: list[str]

    def facts(self) -> dict[str, Any]:
        """For run.json: where from, and of each kind the number of tensors and the first names."""
        kinds = asdict(self)
        origin = kinds.pop("origin")
        return {"origin": origin} | {kind: {"tensors": len(names), "names": names[:MAX_NAMES_SHOWN]} for kind, names in kinds.items()}


def warm_start(model: Recommender, config: Config) -> WarmStart | None:
    """Gives a `model` as it was built the weights of `config.start`, and lets those learn that `config.trains` names. None where there is no start.

    Raises NrmsError when `trains` has no `start`, when nothing fits, when what fits was learned to be read otherwise, and when a weight would neither
    be copied nor learn.
    """
    check_start(config)
    if not config.start:
        return None
    path = Path(config.start)
    tensors, state = load_checkpoint(path)
    source = state.get("config", {})
    copied = copy_weights(model, tensors, path)
    check_read(model, copied, source, config)
    weights, frozen = model.state_dict(), frozen_names(model)  # what is frozen before `trains` is read came pre-trained, or is meant to stay as it is
    if config.trains:
        narrow(model, config.trains)
    learning = {name for name, _ in model.named_parameters(remove_duplicate=False)} - frozen_names(model)
    idle = [name for name in weights if name not in {*copied, *learning, *frozen} and not matches(name, DERIVED + COUNTED)]
    if idle:
        raise NrmsError(refusal(idle, {name: tensor.shape for name, tensor in weights.items()}, tensors, source, config))
    left = [name for name in tensors if name not in copied]
    said = {"exp", "dataset", "seed"} <= source.keys()
    return WarmStart(
        origin=f"{source['exp']} on {source['dataset']}, seed {source['seed']}" if said else str(path),
        stays=[name for name in copied if name not in learning],
        learns=[name for name in copied if name in learning],
        fresh=[name for name in weights if name in learning and name not in copied],
        bound=[name for name in left if matches(name, BOUND)],
        unfit=[name for name in left if not matches(name, BOUND)],
    )


begin = warm_start  # as notebooks of 0.1 say it


def frozen_names(model: torch.nn.Module) -> set[str]:
    """Names of the parameters that do not learn; two names of one tensor are both there."""
    return {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def copy_weights(model: Recommender, tensors: dict[str, torch.Tensor], path: Path) -> list[str]:
    """Copies all `tensors` of the checkpoint at `path` that fit, a bias only beside its weight, and returns their names.

    Raises NrmsError when there are none.
    """
    weights = model.state_dict()
    fits = {name for name, tensor in tensors.items() if name in weights and weights[name].shape == tensor.shape and not matches(name, BOUND)}
    alone = {name for name in fits if name.endswith("bias") and f"{name.removesuffix('bias')}weight" in weights.keys() - fits}
    copied = [name for name in tensors if name in fits - alone]
    if not copied:
        raise NrmsError(f"None of the weights in {path} fits this experiment by name and shape: were `users`, `dim` or the encoders others?")
    model.load_state_dict({name: tensors[name] for name in copied}, strict=False)
    return copied


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


def differing(names: Iterable[str], source: dict[str, Any], config: Config) -> list[str]:
    """Those of the settings that the source of a checkpoint knows and had otherwise."""
    return [name for name in names if source.get(name, getattr(config, name)) != getattr(config, name)]


def check_read(model: Recommender, copied: Sequence[str], source: dict[str, Any], config: Config) -> None:
    """Raises NrmsError when weights that were copied are read otherwise here than where they learned, though names and shapes are the same."""
    looked_up = tuple(f"items.encoders.{name}." for name, encoder in model.items.encoders.items() if isinstance(encoder, Frozen))
    settings = []
    if any(name.startswith("users.") for name in copied):
        settings += ["users"] if config.users in NO_HEADS else ["users", "heads"]
    if any(name.startswith(looked_up) for name in copied):
        settings.append("standardise")
    for name in differing(settings, source, config):
        raise NrmsError(
            f"The weights in {config.start} were learned with {name} {source[name]}, here it is {getattr(config, name)}: they would fit in name "
            f"and shape, and mean something else. Give `-p {name} {str(source[name]).lower()}`, or another `start`."
        )


def refusal(idle: list[str], shapes: dict[str, torch.Size], tensors: dict[str, torch.Tensor], source: dict[str, Any], config: Config) -> str:
    """Which weights would stay as they were drawn, why, and what to do."""

    def why(name: str) -> str:
        if matches(name, BOUND):
            return f"{name} (bound to the items or users of its data, never taken)"
        if name not in tensors:
            return f"{name} (not there)"
        return f"{name} ({shape(tensors[name].shape)} there, {shape(shapes[name])} here)"

    listed = ", ".join(map(why, idle[:3])) + (f", and {len(idle) - 3} more" if len(idle) > 3 else "")
    values = " ".join(f"`-p {name} {source[name]}`" for name in differing(SIZES, source, config))
    advice = f"Give {values}, as there, or let it learn" if values else "Let it learn"
    return (
        f"What neither comes from {config.start} nor learns here would stay as it was drawn, noise in every score: {listed}. "
        f"{advice}: name it in `trains`."
    )


def shape(size: torch.Size) -> str:
    return " x ".join(map(str, size)) or "one number"
