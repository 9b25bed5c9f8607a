"""How are weights kept? One safetensors file with a state in its header: whole or not there, and never a pickle."""

import json
from pathlib import Path
from typing import Any

from nrms import NrmsError
from nrms.runtime.files import atomic

# checkpoints ---------------------------------------------------------------------------------------------------------


def save_checkpoint(path: Path, tensors: dict[str, Any], state: dict[str, Any]) -> None:
    """One safetensors file: tensors by name, and `state` as JSON in its header. Complete or not there at all."""
    from safetensors.torch import save_file

    with atomic(path) as part:
        save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, part, {"state": json.dumps(state)})


def read_state(path: Path) -> dict[str, Any]:
    """The state of a file written by `save_checkpoint`, without its tensors. Raises NrmsError for anything else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            state = json.loads((file.metadata() or {})["state"])
        if not (isinstance(state, dict) and isinstance(state.get("config", {}), dict)):
            raise ValueError("its state is none")
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise NrmsError(f"{path} is not a checkpoint of this project ({error}); give the path of a best.safetensors or last.safetensors.") from None
    return state


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(tensors, state) of a file written by `save_checkpoint`. Raises NrmsError for anything else; never unpickles."""
    from safetensors.torch import load_file

    state = read_state(path)
    return load_file(path), state
