"""Who is the user, given the order of their clicks? SASRec (Kang and McAuley, ICDM 2018)."""

import torch
from torch import nn

from nrms.models.users.sequential import Block, Sequential


class SASRec(Sequential):
    """Self-attention over the clicks so far (Kang and McAuley, ICDM 2018), with pre-norm blocks and learned positions."""

    def build(self) -> None:
        self.position = nn.Parameter(torch.randn(self.places, self.dim) * 0.02)
        self.norm = nn.LayerNorm(self.dim)
        self.blocks = nn.ModuleList(Block(self.dim, self.heads, self.rate) for _ in range(self.layers))

    def body(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dropout(self.norm(x + self.position[: x.shape[1]]))
        for block in self.blocks:
            x = block(x, None)
        return x
