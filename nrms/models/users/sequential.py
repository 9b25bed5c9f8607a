"""What do user encoders share that know something after every click? A start, a state at each position, and the block of a Transformer.

    forward(history (R, L, D), mask (R, L)) -> states (R, L + 1, D)

The state at position p is what is known of the item that stands there, so one pass serves as many training rows as there are clicks. Of an encoder
that is causal, position p has seen the clicks before it and nothing else, and position 0, which has seen none, is a learned vector.
"""

import torch
from torch import nn
from torch.nn import functional as F

from nrms.models.layers import Dropout, self_attention
from nrms.models.users.base import UserEncoder


class SequentialUsers(UserEncoder):
    """Sizes, the start, and the norm of what leaves; a subclass says what is between them."""

    per_position = True
    states = UserEncoder.states_at_once  # states are as wide as the longest history of a batch, so parts of it would not fit together

    def __init__(self, *, dim: int, heads: int, query_dim: int, dropout: float, history: int, layers: int):
        super().__init__()  # `query_dim` is for those that pool
        self.dim, self.heads, self.rate, self.positions, self.layers = dim, heads, dropout, history + 1, layers
        self.dropout = Dropout(dropout)
        self.start = nn.Parameter(torch.randn(dim) * 0.02) if self.is_causal else None
        self.build()
        self.out = nn.LayerNorm(dim)
        nn.init.constant_(self.out.weight, 0.5)  # scores start small beside the number of candidates, so the first loss is that of chance

    def build(self) -> None:
        """Makes the weights of the body."""
        raise NotImplementedError

    def body(self, x: torch.Tensor) -> torch.Tensor:
        """The start, then the clicks (R, L + 1, D) -> (R, L + 1, D); position p of the result has seen positions 0 to p."""
        raise NotImplementedError

    def forward(self, history: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        start = self.start.to(history.dtype).expand(len(history), 1, -1)
        return self.out(self.body(torch.cat([start, history], 1)))  # padding stands behind the clicks, where no position that counts can see it


class Block(nn.Module):
    """Pre-norm Transformer block: attention, then a feed-forward part four times as wide, each with a residual."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.project, self.mix = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.wide, self.narrow = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, visible: torch.Tensor | None) -> torch.Tensor:
        """visible: (R, 1, 1, L) positions that all may look at; None: each position looks at itself and those before it."""
        x = x + self.dropout(self.mix(self_attention(self.project(self.before(x)), self.heads, visible)))
        return x + self.dropout(self.narrow(F.gelu(self.wide(self.between(x)))))
