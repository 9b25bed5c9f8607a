"""Who is the user, given their clicks in any order? DSSM (Huang et al., CIKM 2013)."""

import torch
from torch import nn

from nrms.models.layers import Dropout
from nrms.models.users.sequential import Sequential


class DSSM(Sequential):
    """Two towers (Huang et al., CIKM 2013): the mean of the clicks so far, whatever their order, through a multi-layer perceptron.

    The user has no id: a table of users could not serve new ones, and the mean is what a table would have to learn.
    """

    def build(self) -> None:
        wide = [nn.Sequential(nn.Linear(self.dim, self.dim), nn.GELU(), Dropout(self.rate)) for _ in range(self.layers)]
        self.tower = nn.Sequential(*wide, nn.Linear(self.dim, self.dim))

    def body(self, x: torch.Tensor) -> torch.Tensor:
        count = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        return self.tower(self.dropout(x.float().cumsum(1) / count))
