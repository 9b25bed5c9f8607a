"""What of a pre-trained encoder learns? A transformation of a built encoder, by module name, which says what it found.

    frozen    nothing                                           full      everything
    top       the `layers` uppermost layers                     lora      low-rank updates of attention (Hu et al. 2022), by peft
    adapter   bottlenecks behind attention and feed-forward     side      a small network beside the frozen one (side_network.py)
              (Houlsby et al. 2019)

New weights start so that the encoder says at step 0 exactly what it said before. Below the lowest layer that is touched nothing is ever computed
again: the upper layers read states that were made once (frozen_prefix.py).
"""

import re
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from nrms import NrmsError
from nrms.models.items.encoders import Encoder

LORA = r"query|value|q_proj|v_proj|q_lin|v_lin|qkv"  # of attention, as in the paper
ADAPTER = r"attention\.output\.dense|output\.dense|o_proj|out_proj|out_lin|projection|fc2|lin2"  # what leaves attention and feed-forward
NEW = re.compile(r"\.lora_|\.bottleneck\.")  # parameters that did not come pre-trained


@dataclass(frozen=True)
class Report:
    """What a tuning found in an encoder. matched, unmatched: linear modules of the layers it was to touch."""

    how: str
    layers: str  # e.g. "11-12 of 12"
    matched: tuple[str, ...]
    unmatched: tuple[str, ...]
    trainable: int  # parameters of the pre-trained part that train, new ones included
    total: int
    below: str = ""  # what becomes of the layers below those that are touched

    def __str__(self) -> str:
        def few(names: tuple[str, ...]) -> str:
            return f"{len(names)}" + (f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else "")

        text = f"{self.how}: {self.trainable:,} of {self.total:,} parameters train"
        text += f"; {self.below}" if self.below else ""
        return text + (f"; layers {self.layers}; matched {few(self.matched)}; unmatched {few(self.unmatched)}" if self.layers else "")


class Adapter(nn.Module):
    """y = linear(x); y + up(gelu(down(y))), with `up` zero at first: the linear map itself."""

    def __init__(self, linear: nn.Linear, rank: int):
        super().__init__()
        self.linear = linear
        self.bottleneck = nn.Sequential(nn.Linear(linear.out_features, rank), nn.GELU(), nn.Linear(rank, linear.out_features))
        nn.init.zeros_(self.bottleneck[2].weight)
        nn.init.zeros_(self.bottleneck[2].bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        return y + self.bottleneck(y)


def stacks(model: nn.Module) -> dict[str, nn.ModuleList]:
    """The stacks of layers of a model by name, one for each of its towers; those inside another are left out (Swin's stages hold blocks)."""
    lists = {name: m for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)}
    return {name: m for name, m in lists.items() if not any(name.startswith(f"{other}.") for other in lists)}


def touched(model: nn.Module, layers: int | None) -> tuple[list[str], str]:
    """Names of the layers that a tuning touches, the `layers` uppermost of every stack or all, and the same in words.

    Raises NrmsError when there are not so many.
    """
    names, words = [], []
    for stack, members in stacks(model).items():
        depth = len(members) if layers is None else layers
        if depth > len(members):
            raise NrmsError(f"tuned_layers is {layers}, but `{stack}` of the encoder has only {len(members)} layers.")
        names += [f"{stack}.{i}" for i in range(len(members) - depth, len(members))]
        words.append(f"{len(members) - depth + 1}-{len(members)} of {len(members)}")
    return names, " and ".join(words)


def tune(encoder: Encoder, how: str, *, layers: int | None = None, modules: str | None = None, rank: int = 8) -> Report:
    """Changes `encoder` in place so that of its pre-trained part just what `how` says will learn.

    layers: how many of the uppermost layers are touched; None means all. modules: a regular expression for the ends of names of linear modules, in
    place of LORA or ADAPTER. rank: of LoRA's updates, or the width of an adapter's bottleneck.
    Raises NrmsError for a pattern that matches nothing.
    """
    model = encoder.model
    names, words = touched(model, layers)
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and any(n.startswith(f"{layer}.") for layer in names)]
    matched = linear
    if how in ("lora", "adapter"):
        pattern = modules or (LORA if how == "lora" else ADAPTER)
        matched = [n for n in linear if re.search(rf"(?:^|\.)(?:{pattern})$", n)]
        if not matched:
            ends = sorted({name.rpartition(".")[2] for name in linear})
            raise NrmsError(f"tuning is {how}, but no linear module of the layers ends in {pattern!r}. They are: {', '.join(ends)}.")
    if how != "full":
        model.requires_grad_(False)
    if how == "top":
        for name in names:
            model.get_submodule(name).requires_grad_(True)
    if how == "lora":
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=matched, lora_dropout=0.0), model)
    if how == "adapter":
        for name in matched:
            parent, _, last = name.rpartition(".")
            device = model.get_submodule(name).weight.device
            setattr(model.get_submodule(parent), last, Adapter(model.get_submodule(name), rank).to(device))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    unmatched = tuple(n for n in linear if n not in matched)
    total = sum(p.numel() for p in model.parameters())
    return Report(how, "" if how in ("full", "frozen") else words, tuple(matched), unmatched, trainable, total)
