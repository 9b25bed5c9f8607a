"""Who is the user, given the order of their clicks? GRU4Rec (Hidasi et al., ICLR 2016)."""

import torch
from torch import nn

from nrms.models.users.sequential import Sequential


class GRU4Rec(Sequential):
    """A recurrent network over the clicks so far (Hidasi et al., ICLR 2016)."""

    def build(self) -> None:
        self.norm = nn.LayerNorm(self.dim)
        self.gru = nn.GRU(self.dim, self.dim, self.layers, batch_first=True)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.gru(self.dropout(self.norm(x)))[0])
