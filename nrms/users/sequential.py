"""Who is the user, given the order of their clicks? Encoders that know something after every click: SASRec, BERT4Rec, GRU4Rec, NextItNet, DSSM.

    forward(history (R, L, D), mask (R, L)) -> states (R, L + 1, D)

The state at place p is what is known of the item that stands there, so one pass serves as many training rows as there are clicks. All but BERT4Rec
are causal: place p has seen the clicks before it and nothing else, and place 0, which has seen none, is a learned vector. BERT4Rec sees both sides
of a place that is hidden from it (`blank` stands there) and, behind the last click, a hidden place of its own.
"""

import torch
from torch import nn
from torch.nn import functional as F

from nrms.dropout import Dropout
from nrms.users.base import UserEncoder


class Sequential(UserEncoder):
    """What all of them share: sizes, a start, and how a state is read at a place."""

    is_vector = False
    by_place = True

    def __init__(self, *, dim: int, heads: int, query_dim: int, dropout: float, history: int, layers: int):
        super().__init__()  # `query_dim` is for those that pool
        self.dim, self.heads, self.rate, self.places, self.layers = dim, heads, dropout, history + 1, layers
        self.dropout = Dropout(dropout)
        self.start = nn.Parameter(torch.randn(dim) * 0.02) if self.is_causal else None
        self.build()
        self.out = nn.LayerNorm(dim)
        nn.init.constant_(self.out.weight, 0.5)  # scores start small beside the number of candidates, so the first loss is that of chance

    def build(self) -> None:
        """Makes the weights of the body."""
        raise NotImplementedError

    def body(self, x: torch.Tensor) -> torch.Tensor:
        """The start, then the clicks (R, L + 1, D) -> (R, L + 1, D); place p of the result has seen places 0 to p."""
        raise NotImplementedError

    def forward(self, history: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        start = self.start.to(history.dtype).expand(len(history), 1, -1)
        return self.out(self.body(torch.cat([start, history], 1)))  # padding stands behind the clicks, where no place that counts can see it


class Block(nn.Module):
    """Pre-norm Transformer block: attention, then a feed-forward part four times as wide, each with a residual."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.project, self.mix = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.wide, self.narrow = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        """seen: (R, 1, 1, L) True where a place may be looked at, whoever looks; None: each place looks at itself and those before it."""
        q, k, v = self.project(self.before(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (R, H, L, D/H)
        looked = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=seen is None)
        x = x + self.dropout(self.mix(looked.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.narrow(F.gelu(self.wide(self.between(x)))))


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


class BERT4Rec(Sequential):
    """Self-attention over both sides of a hidden place (Sun et al., CIKM 2019). Not causal: what it must not see has to be hidden or absent."""

    is_causal = False

    def build(self) -> None:
        self.position = nn.Parameter(torch.randn(self.places, self.dim) * 0.02)
        self.blank = nn.Parameter(torch.randn(self.dim) * 0.02)
        self.norm = nn.LayerNorm(self.dim)
        self.blocks = nn.ModuleList(Block(self.dim, self.heads, self.rate) for _ in range(self.layers))

    def forward(self, history: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        size = mask.sum(1)
        x = torch.cat([history, torch.zeros_like(history[:, :1])], 1)  # (R, L + 1, D)
        place = torch.arange(x.shape[1], device=x.device)
        x = torch.where((place == size[:, None])[..., None], self.blank.to(x.dtype), x)
        x = self.dropout(self.norm(x + self.position[: x.shape[1]]))
        for block in self.blocks:
            x = block(x, (place <= size[:, None])[:, None, None])
        return self.out(x)


class GRU4Rec(Sequential):
    """A recurrent network over the clicks so far (Hidasi et al., ICLR 2016)."""

    def build(self) -> None:
        self.norm = nn.LayerNorm(self.dim)
        self.gru = nn.GRU(self.dim, self.dim, self.layers, batch_first=True)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.gru(self.dropout(self.norm(x)))[0])


class Dilated(nn.Module):
    """Residual block of NextItNet: two causal convolutions, the second with holes twice as wide; eq. 5-7, figure 3b."""

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


class NextItNet(Sequential):
    """Dilated causal convolutions over the clicks so far (Yuan et al., WSDM 2019); holes of 1 and 4 by turns, as there."""

    def build(self) -> None:
        self.norm = nn.LayerNorm(self.dim)
        self.blocks = nn.Sequential(*(Dilated(self.dim, (1, 4)[i % 2], self.rate) for i in range(2 * self.layers)))

    def body(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.dropout(self.norm(x)))


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
