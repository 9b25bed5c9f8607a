"""What do encoders read? The content of all N items as tensors, by item number: titles, images, or both.

content(items (U,)) -> (what the model reads, mask (U, T) of the positions that count, or None where all do). Number 0 is padding and has no content.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def ragged_index(begin: torch.Tensor, size: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the values of rows stand that begin at `begin` (U,) and are `size` (U,) long: (U, T), 0 behind a shorter row, and the mask (U, T)."""
    column = torch.arange(int(size.max()), device=size.device)
    mask = column < size[:, None]
    return torch.where(mask, begin[:, None] + column, 0), mask


class Titles(nn.Module):
    """Titles as tokens, without padding."""

    has_blank = False

    def __init__(self, titles: Sequence[str], tokenizer, title_tokens: int):
        super().__init__()
        self.padding = tokenizer.pad_token_id or 0
        tokens = tokenizer(list(titles), truncation=True, max_length=title_tokens, return_attention_mask=False)["input_ids"]
        length = torch.tensor([len(t) for t in tokens])
        self.register_buffer("tokens", torch.tensor([i for t in tokens for i in t], dtype=torch.int32), persistent=False)
        self.register_buffer("lengths", length, persistent=False)  # items of like length are best encoded together
        self.register_buffer("begin", length.cumsum(0) - length, persistent=False)
        self.register_buffer("present", torch.arange(len(length)) > 0, persistent=False)
        self.facts = (title_tokens, hashlib.sha256(self.tokens.numpy().tobytes()).hexdigest())

    def forward(self, items: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        index, mask = ragged_index(self.begin[items], self.lengths[items])
        tokens = torch.where(mask, self.tokens[index], self.padding)
        return {"input_ids": tokens.long(), "attention_mask": mask.long()}, mask


class Images(nn.Module):
    """Pixels (N + 1, S, S, 3) uint8, on disk, memory-mapped. An item without an image that is read all the same is a blank white one."""

    has_blank = True

    def __init__(self, pixels: np.ndarray, present: np.ndarray, mean: Sequence[float], std: Sequence[float], size: int | None):
        super().__init__()
        self.pixels, self.order, self.size = pixels, np.arange(len(pixels)), size
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.register_buffer("present", torch.from_numpy(present), persistent=False)
        self.facts = (list(mean), list(std), size)

    @property
    def lengths(self) -> torch.Tensor:
        return torch.ones_like(self.present, dtype=torch.int64)

    def shuffle(self, order: np.ndarray) -> None:
        """From now on item i has the image of item order[i]."""
        self.order = order

    def forward(self, items: torch.Tensor) -> tuple[dict[str, torch.Tensor], None]:
        rows = self.order[items.cpu().numpy()]
        pixels = torch.from_numpy(self.pixels[rows]).to(items.device, non_blocking=True)  # (U, S, S, 3)
        pixels[~self.present[items]] = 255
        x = pixels.permute(0, 3, 1, 2).float().div_(255).sub_(self.mean).div_(self.std)  # in place: pixels are many
        if isinstance(self.size, int) and x.shape[-1] != self.size:
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=True)
        return {"pixel_values": x}, None


class TitlesAndImages(nn.Module):
    """Titles, and images where there are some."""

    has_blank = False

    def __init__(self, titles: Titles, images: Images):
        super().__init__()
        self.titles, self.images, self.facts = titles, images, (titles.facts, images.facts)

    @property
    def present(self) -> torch.Tensor:
        return self.titles.present

    @property
    def lengths(self) -> torch.Tensor:
        return self.titles.lengths
