"""Who is the user, given the order of their clicks? SASRec: each position attends to itself and to the clicks before it.

Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018.

    x_0 = LayerNorm([start; clicks] + positions), (R, L + 1, D); then for each layer x = x + attention(norm(x)), x = x + feed-forward(norm(x))

As there: causal attention, learned positions, norms before each part. Here the feed-forward part is four times as wide, with GELU, and a learned
start stands before the first click.
"""

import torch
from torch import nn

from nrms.models.users.sequential import Block, SequentialUsers


class SASRec(SequentialUsers):
    """Causal self-attention over the clicks so far."""

    def build(self) -> None:
        self.position = nn.Parameter(torch.randn(self.positions, self.dim) * 0.02)
        self.norm = nn.LayerNorm(self.dim)
        self.blocks = nn.ModuleList(Block(self.dim, self.heads, self.rate) for _ in range(self.layers))

    def body(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dropout(self.norm(x + self.position[: x.shape[1]]))
        for block in self.blocks:
            x = block(x, None)
        return x
