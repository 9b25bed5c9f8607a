"""What does a recommender bring along from elsewhere, and what of it learns here? Two lists: weights that are taken, weights that train.

Weights go by name and shape. What is bound to items (a table of ids, clusters) or users (their vectors) is left behind: those of one data set are
not those of another.
"""

from fnmatch import fnmatchcase
from pathlib import Path

import torch

from nrms import NrmsError
from nrms.files import load_checkpoint
from nrms.recommender import Recommender

BOUND = ("*.ids.table.weight", "users.user.weight", "users.lookup", "users.prototypes")  # names of what belongs to a data set's items or users


def take(model: Recommender, path: Path) -> list[str]:
    """Takes all weights of a checkpoint that fit, and returns their names. Raises NrmsError when there are none."""
    if not path.is_file():
        raise NrmsError(f"`start` is {path}, which is no file: give the checkpoint/best.safetensors of a run.")
    tensors, _ = load_checkpoint(path)
    own = model.state_dict()
    taken = [
        name
        for name, tensor in tensors.items()
        if name in own and own[name].shape == tensor.shape and not any(fnmatchcase(name, pattern) for pattern in BOUND)
    ]
    if not taken:
        raise NrmsError(f"None of the weights in {path} fits this experiment by name and shape: were `users`, `dim` or the encoders others?")
    model.load_state_dict({name: tensors[name] for name in taken}, strict=False)
    return taken


def narrow(model: torch.nn.Module, patterns: list[str]) -> None:
    """Lets learn only the weights whose names match one of the patterns, as of files: `*` is anything.

    Raises NrmsError for a pattern that no weight that could learn has.
    """
    names = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise NrmsError(f"`trains` has the pattern {pattern!r}, which no weight matches. They are: {', '.join(sorted(names)[:8])}, ...")
    for name, parameter in names.items():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in patterns))
