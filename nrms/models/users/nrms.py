"""Who is the user, given the news they clicked? NRMS: the clicks look at each other, then a learned query weighs them.

Wu et al., "Neural News Recommendation with Multi-Head Self-Attention", EMNLP-IJCNLP 2019, section 3.2. As there: no positions.
Beyond it: masks everywhere, a residual around self-attention (reports/LOG.md has what it adds), and a learned vector for users without history.
"""

import torch
from torch import nn

from nrms.models.layers import AdditiveAttention, Dropout, self_attention
from nrms.models.users.base import UserEncoder


class SelfAttention(nn.Module):
    """Multi-head self-attention (B, L, D) -> (B, L, D) over the unmasked positions; eq. 3-4.

    A row without any unmasked position attends to everything, finite and meaningless: whoever pools must not read it.
    """

    def __init__(self, *, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(dim, 3 * dim)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        visible = mask | ~mask.any(1, keepdim=True)  # softmax over nothing is NaN
        return self_attention(self.project(x), self.heads, visible[:, None, None, :])


class NRMSUsers(UserEncoder):
    """User encoder of NRMS: history (B, L, D), mask (B, L) -> (B, D). A user without clicks gets a learned vector."""

    def __init__(self, *, dim: int, heads: int, query_dim: int, dropout: float, history: int):
        super().__init__()  # `history`, the most clicks there can be, is not used: NRMS has no positions
        self.attend = SelfAttention(dim=dim, heads=heads)
        self.pool = AdditiveAttention(dim=dim, query_dim=query_dim)
        self.dropout = Dropout(dropout)
        self.newcomer = nn.Parameter(torch.randn(dim) * 0.02)

    def forward(self, history: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        history = self.dropout(history)
        user = self.pool(history + self.dropout(self.attend(history, mask)), mask)
        return torch.where(mask.any(1, keepdim=True), user, self.newcomer.to(user.dtype))

    def attention(self, history: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(R, L) of the pooling, after self-attention, when each position has seen all clicks: no weight is one click's share of the state."""
        return self.pool.weights(history + self.attend(history, mask), mask)
