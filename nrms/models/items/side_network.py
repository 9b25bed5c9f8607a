"""How can an encoder be tuned without ever running it again? A small network beside it reads the hidden states that it gave once.

IISAN (Fu et al., SIGIR 2024): per modality, and across both. As there, a chain of bottlenecks with one gate for every layer of the encoder. Unlike
there, the chain starts at the frozen vector and each bottleneck starts at zero, so that at step 0 the side network says what the frozen encoder says.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from nrms.models.items.encoders import Table, projection, standardise
from nrms.models.layers import Dropout


class SideNetwork(Table):
    """Item numbers (U,) -> (U, D), from tables (N + 1, layers, W) of pooled hidden states: one modality's, or those of several, mixed layer by layer.

    x = last layer, the mean over the tables; for every layer h from below: x = x + up(gelu(down(g x + (1 - g) h))). `present`: items for which every
    table has content. made_by: parameters of the frozen encoder, for the record. Of each table at most `layers` states are read, evenly from the
    lowest to the highest (Sung et al., NeurIPS 2022, drop layers too), so encoders of different depth are read at the same relative heights.
    """

    what_learns = "side network on hidden states that were made once"

    def __init__(
        self, tables: Sequence[np.ndarray], present: torch.Tensor, reference: torch.Tensor, *, dim: int, rank: int, layers: int, dropout: float,
        made_by: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.made_by = made_by
        depth, width = min(layers, *(t.shape[1] for t in tables)), tables[0].shape[2]
        for i, table in enumerate(tables):
            heights = np.linspace(0, table.shape[1] - 1, depth).round().astype(int)
            self.register_buffer(f"table{i}", standardise(table[:, heights], reference), persistent=False)  # (N + 1, layers, W)
        self.register_buffer("present", present.clone(), persistent=False)
        # encoders may differ in width
        self.same_width = nn.ModuleList(nn.Identity() if t.shape[2] == width else projection(t.shape[2], width) for t in tables)
        self.mix = nn.Parameter(torch.zeros(depth, len(tables)))  # between tables, before softmax
        self.gate = nn.Parameter(torch.zeros(depth))  # between the chain and the layer, before sigmoid
        self.down = nn.ModuleList(nn.Linear(width, rank) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(rank, width) for _ in range(depth))
        for parameter in self.up.parameters():
            nn.init.zeros_(parameter)
        self.dropout, self.project = Dropout(dropout), projection(width, dim)

    def shuffle(self, order: np.ndarray) -> None:
        """From now on item i has the states of item order[i], of the last table: that of images, where there are two."""
        name = f"table{len(self.same_width) - 1}"
        setattr(self, name, getattr(self, name)[torch.from_numpy(order)])

    def features(self, items: torch.Tensor) -> torch.Tensor:
        """Frozen vectors of these items as the side network has changed them: (U, W)."""
        layers = [same(getattr(self, f"table{i}")[items]).unbind(1) for i, same in enumerate(self.same_width)]  # [table][layer] (U, W)
        mix, gate = self.mix.softmax(1), torch.sigmoid(self.gate)
        x = sum(m * table[-1] for m, table in zip(mix[-1], layers, strict=True))
        for layer, (down, up) in enumerate(zip(self.down, self.up, strict=True)):
            # `down` is linear and weights sum to one, so it goes first: what is then mixed and gated is narrow
            below = sum(m * down(table[layer]) for m, table in zip(mix[layer], layers, strict=True))
            x = x + up(nn.functional.gelu(gate[layer] * down(x) + (1 - gate[layer]) * below))
        return x

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        return self.project(self.dropout(self.features(items)))
