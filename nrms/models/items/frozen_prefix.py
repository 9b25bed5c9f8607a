"""What lies below the lowest layer that learns? States of the frozen lower layers, made once, on which the upper layers go on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nrms.models.items.content import Titles, ragged_index
from nrms.models.items.encoders import Encoder
from nrms.models.items.feature_cache import encoder_digest, kept
from nrms.models.items.fine_tuning import stacks, tune
from nrms.runtime.files import new_table
from nrms.runtime.progress import progress


class KeptStates(nn.Module):
    """Hidden states that the frozen lower layers of an encoder have made of all items, without padding, on disk, memory-mapped.

    values (all T together, W); `size[i]` of them, from `begin[i]` on, are those of item i. Stands in the place of the `content` they were made from.
    """

    def __init__(self, values: np.ndarray, begin: torch.Tensor, size: torch.Tensor, content: nn.Module):
        super().__init__()
        self.values, self.facts, self.has_blank = values, content.facts, content.has_blank
        self.is_text = isinstance(content, Titles)
        for name, value in (("begin", begin), ("size", size), ("present", content.present), ("lengths", content.lengths)):
            self.register_buffer(name, value, persistent=False)

    def shuffle(self, order: np.ndarray) -> None:
        """From now on item i has the states of item order[i]."""
        rows = torch.from_numpy(order).to(self.begin.device)
        self.begin, self.size = self.begin[rows], self.size[rows]

    def forward(self, items: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        index, mask = ragged_index(self.begin[items], self.size[items])
        states = torch.from_numpy(self.values[index.cpu().numpy()]).to(items.device, non_blocking=True)  # (U, T, W)
        states = torch.where(mask[..., None], states, 0)
        return {"inputs_embeds": states, "attention_mask": mask.long()} if self.is_text else {"pixel_values": states}, mask


def prefix(encoder: Encoder, layers: int | None) -> int:
    """How many lower layers a tuning of the `layers` uppermost leaves alone.

    0 where their states cannot be kept: that takes one stack of layers behind one `embeddings` module.
    """
    towers = list(stacks(encoder.model).values())
    if layers is None or len(towers) != 1 or not isinstance(getattr(encoder.model, "embeddings", None), nn.Module):
        return 0
    return len(towers[0]) - layers


def states_below(encoder: Encoder, items: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What layer number `depth` (from 0) reads of these items: states (U, T, W), and mask (U, T)."""
    (stack,) = stacks(encoder.model).values()
    inputs: list[torch.Tensor] = []

    def look(module: nn.Module, args: tuple, kwargs: dict) -> None:
        inputs.append(args[0] if args else kwargs["hidden_states"])

    handle = stack[depth].register_forward_pre_hook(look, with_kwargs=True)
    try:
        _, mask = encoder.states(items)
    finally:
        handle.remove()
    return inputs[0], mask


@torch.inference_mode()
def cached_states(encoder: Encoder, depth: int, content: str, folder: Path, name: str, batch: int = 256) -> KeptStates:
    """The states of all items that layer number `depth` reads, without padding. Where blank content may be encoded, it is kept once for all."""
    path = folder / f"{name}-below{depth}-{encoder_digest(encoder.eval(), content, depth)}.npy"
    present, absent = encoder.present.nonzero()[:, 0], (~encoder.present).nonzero()[1:, 0]  # the first is padding
    blank = absent[:1] if encoder.content.has_blank else absent[:0]
    items = torch.cat([blank, present])
    items = items[encoder.lengths[items].argsort(stable=True)]
    first, mask = states_below(encoder, items[:1], depth)
    tokens = encoder.lengths if isinstance(encoder.content, Titles) else torch.full_like(encoder.lengths, mask.shape[1])
    size = torch.zeros_like(tokens).index_copy(0, items, tokens[items])
    begin = torch.zeros_like(tokens).index_copy(0, items, tokens[items].cumsum(0) - tokens[items])

    def write(part: Path) -> None:
        table, done = new_table(part, np.float32, (int(size.sum()), first.shape[-1])), 0
        for ids in progress(items.split(batch), f"states below layer {depth} of {name}"):
            states, mask = states_below(encoder, ids, depth)
            values = states[mask].float().cpu().numpy()  # one item after the other
            table[done : done + len(values)] = values
            done += len(values)
        table.flush()

    values = kept(path, write)
    if len(blank):
        size[absent], begin[absent] = size[blank], begin[blank]
    return KeptStates(values, begin, size, encoder.content)


def rest_on(encoder: Encoder, states: KeptStates, depth: int) -> None:
    """From now on the encoder computes only its layers from number `depth` on, and reads what comes before from `states`.

    Call after `tune`. The lower layers are dropped; the embeddings pass on what they read, and the first layer left is handed the states, past
    whatever stands between the two.
    """
    model = encoder.model
    (stack,) = stacks(model).values()
    inputs: list[torch.Tensor] = []

    def pass_on(*args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        inputs[:] = [x for x in (*args, kwargs.get("inputs_embeds"), kwargs.get("pixel_values")) if x is not None]
        return inputs[0]

    def hand_over(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return ((inputs[0], *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": inputs[0]})

    model.embeddings.forward = pass_on
    encoder.made_by = sum(p.numel() for p in stack[:depth].parameters())
    del stack[:depth]
    stack[0].register_forward_pre_hook(hand_over, with_kwargs=True)
    encoder.put(states)


def tune_on_kept_states(encoder: Encoder, how: str, cache: tuple[str, Path, str], *, layers: int | None, modules: str | None, rank: int) -> None:
    """Tunes an encoder on top of what its lower layers made once, where that can be kept; its `report` says what learns, and what lies below.

    cache: digest of the content, folder and name of the kept states. Else as `tune`.
    """
    depth = prefix(encoder, layers)
    below = f"the states below layer {depth + 1} were made once" if depth else "lower layers run every time, without gradients"
    states = cached_states(encoder, depth, *cache) if depth else None
    encoder.report = replace(tune(encoder, how, layers=layers, modules=modules, rank=rank), below=below if layers else "")
    if states is not None:
        rest_on(encoder, states, depth)
