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


def save(run: Run, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict, rng: list[Tensors], best: dict | None = None) -> None:
    """Writes last.safetensors with `state`; before it, where this is the best step so far, best.safetensors with the facts `best` and `state`.

    rng: the random states of all processes.
    """
    if distributed.process_index():
        return
    if best is not None:
        save_checkpoint(run.folder / "checkpoint" / "best.safetensors", model.state_dict(), best | state)
    parts = {"model": model.state_dict()}
    parts |= {f"optimizer.{i}": moments for i, moments in optimizer.state_dict()["state"].items()}
    parts |= {f"random.{i}": states for i, states in enumerate(rng)}
    tensors = {f"{part}.{name}": torch.as_tensor(value) for part, values in parts.items() for name, value in values.items()}
    save_checkpoint(run.folder / "checkpoint" / "last.safetensors", tensors, state)


def resume(run: Run, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Brings model, optimizer and random states to where the run was left; returns its `state`, {} where there is nothing to go on from."""
    path = run.folder / "checkpoint" / "last.safetensors"
    if not path.exists():
        return {}
    tensors, state = load_checkpoint(path)

    def part(name: str) -> Tensors:
        return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}

    model.load_state_dict(part("model"))
    moments = optimizer.state_dict()
    numbers = [i for group in moments["param_groups"] for i in group["params"]]
    optimizer.load_state_dict(moments | {"state": {i: part(f"optimizer.{i}") for i in numbers}})
    if rng := part(f"random.{distributed.process_index()}"):  # else it is a process more than there were
        set_random_states(rng)
    return state
