"""Who is the user, given their clicks in any order? DSSM: one tower for the user and one for items, which meet in a dot product.

Huang et al., "Learning Deep Structured Semantic Models for Web Search using Clickthrough Data", CIKM 2013.

    user at position p = MLP(mean of the start and the p clicks before it), (R, L + 1, D); score: the dot product with an item

As there: two towers that see nothing of each other. Here the user's tower reads clicks in the place of a query. The user has no id: a table of users
could not serve new ones, and the mean is what a table would have to learn.
"""

import torch
from torch import nn

from nrms.models.layers import Dropout
from nrms.models.users.sequential import SequentialUsers


class DSSM(SequentialUsers):
    """The mean of the clicks so far, whatever their order, through a multi-layer perceptron."""

    def build(self) -> None:
        wide = [nn.Sequential(nn.Linear(self.dim, self.dim), nn.GELU(), Dropout(self.rate)) for _ in range(self.layers)]
        self.tower = nn.Sequential(*wide, nn.Linear(self.dim, self.dim))

    def body(self, x: torch.Tensor) -> torch.Tensor:
        count = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        return self.tower(self.dropout(x.float().cumsum(1) / count))
