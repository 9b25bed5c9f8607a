"""Who is the user, given the order of their clicks? Encoders that know something after every click: SASRec, BERT4Rec, GRU4Rec, NextItNet, DSSM.

    forward(history (R, L, D), mask (R, L)) -> states (R, L + 1, D)

The state at place p is what is known of the item that stands there, so one pass serves as many training rows as there are clicks. All but BERT4Rec
are causal: place p has seen the clicks before it and nothing else, and place 0, which has seen none, is a learned vector. BERT4Rec sees both sides
of a place that is hidden from it (`blank` stands there) and, behind the last click, a hidden place of its own.
"""

import torch
from torch import nn
from torch.nn import functional as F

from nrms.models.layers import Dropout
from nrms.models.users.base import UserEncoder


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
