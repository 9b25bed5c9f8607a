"""Who is the user, given the order of their clicks? NextItNet: convolutions with holes see far back in few layers.

Yuan et al., "A Simple Convolutional Generative Network for Next Item Recommendation", WSDM 2019.

    block(x) = x + relu(norm(conv_2h(relu(norm(conv_h(x)))))), eq. 5-7, figure 3b; conv_h at p reads p, p - h, p - 2h; (R, L + 1, D)

As there: dilated causal convolutions of width 3, residual blocks, holes of 1 and 4 by turns.
"""

import torch
from torch import nn
from torch.nn import functional as F

from nrms.models.layers import Dropout
from nrms.models.users.sequential import SequentialUsers


class DilatedBlock(nn.Module):
    """Residual block (R, L + 1, D) -> (R, L + 1, D): two causal convolutions, the second with holes twice as wide."""

    def __init__(self, dim: int, hole: int, dropout: float, kernel: int = 3):
        super().__init__()
        self.reach = [(kernel - 1) * hole, (kernel - 1) * 2 * hole]
        self.convolutions = nn.ModuleList(nn.Conv1d(dim, dim, kernel, dilation=d) for d in (hole, 2 * hole))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for reach, convolution, norm in zip(self.reach, self.convolutions, self.norms, strict=True):
            y = convolution(F.pad(y.transpose(1, 2), (reach, 0))).transpose(1, 2)  # zeros before the start: the past alone
            y = F.relu(norm(y))
        return x + self.dropout(y)


class NextItNet(SequentialUsers):
    """Dilated causal convolutions over the clicks so far."""

    def build(self) -> None:
        self.norm = nn.LayerNorm(self.dim)
        self.blocks = nn.Sequential(*(DilatedBlock(self.dim, (1, 4)[i % 2], self.rate) for i in range(2 * self.layers)))

    def body(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.dropout(self.norm(x)))
