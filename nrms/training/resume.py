"""What must be kept of a run so that it goes on as if nothing had happened? Weights, optimizer, the random states of all processes, and counts.

checkpoint/last.safetensors is what training goes on from, and goes when it has ended; checkpoint/best.safetensors is what is evaluated.
"""

import random

import numpy as np
import torch

from nrms.runtime import distributed
from nrms.runtime.checkpoints import load_checkpoint, save_checkpoint
from nrms.runtime.run_record import Run
from nrms.training.gradients import random_state, set_random_state

Tensors = dict[str, torch.Tensor]


def random_states() -> Tensors:
    """The random states of torch, and of Python and numpy, which nothing here draws from, but a library may."""
    numpy_state = np.random.get_state(legacy=False)["state"]
    others = {"python": random.getstate()[1], "numpy": [*numpy_state["key"].tolist(), numpy_state["pos"]]}
    return random_state() | {name: torch.tensor(state, dtype=torch.int64) for name, state in others.items()}


def set_random_states(states: Tensors) -> None:
    set_random_state(states)
    random.setstate((3, tuple(states["python"].tolist()), None))
    *key, position = states["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(key, np.uint32), position))


def pack(model: torch.nn.Module, optimizer: torch.optim.Optimizer, rng: list[Tensors]) -> Tensors:
    """Weights, optimizer state and the random states of all processes as tensors by name."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
    for i, states in enumerate(rng):
        tensors |= {f"random.{i}.{k}": v for k, v in states.items()}
    return tensors


def unpack(tensors: Tensors, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    states: dict[int, dict] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, i, key = name.split(".", 2)
            states.setdefault(int(i), {})[key] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    prefix = f"random.{distributed.process_index()}."
    if rng := {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}:  # else it is a process more than there were
        set_random_states(rng)


def save(run: Run, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict, rng: list[Tensors], best: dict | None = None) -> None:
    """Writes last.safetensors with `state`; before it, where this is the best step so far, best.safetensors with the facts `best` and `state`."""
    if distributed.process_index():
        return
    tensors = pack(model, optimizer, rng)
    if best is not None:
        save_checkpoint(run.folder / "checkpoint" / "best.safetensors", model.state_dict(), best | state)
    save_checkpoint(run.folder / "checkpoint" / "last.safetensors", tensors, state)


def resume(run: Run, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Brings model, optimizer and random states to where the run was left; returns its `state`, {} where there is nothing to go on from."""
    path = run.folder / "checkpoint" / "last.safetensors"
    if not path.exists():
        return {}
    tensors, state = load_checkpoint(path)
    unpack(tensors, model, optimizer)
    return state
