"""What lies below the lowest layer that learns? States of the frozen lower layers, made once, on which the upper layers go on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nrms.models.items.content import Titles, places
from nrms.models.items.encoders import Encoder
from nrms.models.items.feature_cache import encoder_digest
from nrms.models.items.fine_tuning import stacks
from nrms.runtime.files import atomic, new_table
from nrms.runtime.locks import locked
from nrms.runtime.progress import progress


class States(nn.Module):
    """Hidden states that the frozen lower layers of an encoder have made of all items, without padding, on disk, memory-mapped.

    values (all T together, W); item i owns `size[i]` of them from `begin[i]` on. Stands in the place of the `content` they were made from.
    """

    def __init__(self, values: np.ndarray, begin: torch.Tensor, size: torch.Tensor, content: nn.Module):
        super().__init__()
        self.values, self.facts, self.has_blank = values, content.facts, content.has_blank
        self.is_text = isinstance(content, Titles)
        for name, value in (("begin", begin), ("size", size), ("present", content.present), ("lengths", content.lengths)):
            self.register_buffer(name, value, persistent=False)

    def shuffle(self, order: np.ndarray) -> None:
        """From now on item i has the states of item order[i]."""
        at = torch.from_numpy(order).to(self.begin.device)
        self.begin, self.size = self.begin[at], self.size[at]

    def forward(self, items: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        place, mask = places(self.begin[items], self.size[items])
        states = torch.from_numpy(self.values[place.cpu().numpy()]).to(items.device, non_blocking=True)  # (U, T, W)
        states = torch.where(mask[..., None], states, 0)
        return {"inputs_embeds": states, "attention_mask": mask.long()} if self.is_text else {"pixel_values": states}, mask


@torch.inference_mode()
def cached_states(encoder: Encoder, depth: int, content: str, folder: Path, name: str, batch: int = 256) -> States:
    """The states of all items that layer number `depth` is given, without padding. Where blank content may be asked for, it is kept once for all."""
    path = folder / f"{name}-below{depth}-{encoder_digest(encoder.eval(), content, depth)}.npy"
    present, absent = encoder.present.nonzero()[:, 0], (~encoder.present).nonzero()[1:, 0]  # the first is padding
    blank = absent[:1] if encoder.content.has_blank else absent[:0]
    asked = torch.cat([blank, present])
    asked = asked[encoder.lengths[asked].argsort(stable=True)]
    first, mask = states_below(encoder, asked[:1], depth)
    tokens = encoder.lengths if isinstance(encoder.content, Titles) else torch.full_like(encoder.lengths, mask.shape[1])
    size = torch.zeros_like(tokens).index_copy(0, asked, tokens[asked])
    begin = torch.zeros_like(tokens).index_copy(0, asked, tokens[asked].cumsum(0) - tokens[asked])
    if not path.exists():
        with locked(path):
            if not path.exists():  # another process may have written it meanwhile
                write_states(encoder, depth, path, (int(size.sum()), first.shape[-1]), asked.split(batch), name)
    if len(blank):
        size[absent], begin[absent] = size[blank], begin[blank]
    return States(np.load(path, mmap_mode="r"), begin, size, encoder.content)


def write_states(encoder: Encoder, depth: int, path: Path, shape: tuple[int, int], parts: Sequence[torch.Tensor], name: str) -> None:
    with atomic(path) as part:
        table, done = new_table(part, np.float32, shape), 0
        for ids in progress(parts, f"states below layer {depth} of {name}"):
            states, mask = states_below(encoder, ids, depth)
            found = states[mask].float().cpu().numpy()  # one item after the other
            table[done : done + len(found)] = found
            done += len(found)
        table.flush()
        del table


def prefix(encoder: Encoder, layers: int | None) -> int:
    """How many lower layers a tuning of the `layers` uppermost leaves alone.

    0 where their states cannot be kept: that takes one stack of layers behind one `embeddings` module.
    """
    towers = list(stacks(encoder.model).values())
    if layers is None or len(towers) != 1 or not isinstance(getattr(encoder.model, "embeddings", None), nn.Module):
        return 0
    return len(towers[0]) - layers


def states_below(encoder: Encoder, items: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What layer number `depth` (from 0) is given for these items: states (U, T, W), and mask (U, T)."""
    (stack,) = stacks(encoder.model).values()
    seen: list[torch.Tensor] = []

    def look(module: nn.Module, args: tuple, kwargs: dict) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    handle = stack[depth].register_forward_pre_hook(look, with_kwargs=True)
    try:
        _, mask = encoder.states(items)
    finally:
        handle.remove()
    return seen[0], mask


def rest_on(encoder: Encoder, states: States, depth: int) -> None:
    """From now on the encoder computes only its layers from number `depth` on, and reads what comes before from `states`.

    Call after `tune`. The lower layers are dropped; the embeddings pass on what they are given, and the first layer left is handed the states, past
    whatever stands between the two.
    """
    model = encoder.model
    (stack,) = stacks(model).values()
    given: list[torch.Tensor] = []

    def pass_on(*args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        read = [*args, kwargs.get("inputs_embeds"), kwargs.get("pixel_values")]
        given[:] = [next(x for x in read if x is not None)]
        return given[0]

    def hand_over(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return ((given[0], *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": given[0]})

    model.embeddings.forward = pass_on
    encoder.made_by = sum(p.numel() for p in stack[:depth].parameters())
    del stack[:depth]
    stack[0].register_forward_pre_hook(hand_over, with_kwargs=True)
    encoder.put(states)
