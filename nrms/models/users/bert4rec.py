"""Who is the user, given clicks on both sides of a hidden one? BERT4Rec: what stands at a hidden position is found from what surrounds it.

Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer", CIKM 2019.

    x_0 = LayerNorm([clicks; blank] + positions), (R, L + 1, D), with `blank` also at hidden positions; then Transformer blocks as of SASRec

As there: every position attends to all others, training hides a share of the positions (its Cloze task), and the next item is what a hidden
position behind the last click holds. Here the blocks are pre-norm.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nrms.models.users.sequential import Block, SequentialUsers


class BERT4Rec(SequentialUsers):
    """Self-attention over both sides. Not causal: what a position must not see has to be hidden or absent."""

    is_causal = False

    def build(self) -> None:
        self.position = nn.Parameter(torch.randn(self.positions, self.dim) * 0.02)
        self.blank = nn.Parameter(torch.randn(self.dim) * 0.02)
        self.norm = nn.LayerNorm(self.dim)
        self.blocks = nn.ModuleList(Block(self.dim, self.heads, self.rate) for _ in range(self.layers))

    def states(self, vectors: Tensor, past: Tensor, mask: Tensor, items: Tensor, hidden: Tensor | None = None) -> Tensor:
        history = F.embedding(past, vectors)
        if hidden is not None:
            history = torch.where(hidden[..., None], self.blank.to(history.dtype), history)
        return self(history, mask)

    def forward(self, history: Tensor, mask: Tensor) -> Tensor:
        length = mask.sum(1)
        x = torch.cat([history, torch.zeros_like(history[:, :1])], 1)  # (R, L + 1, D)
        position = torch.arange(x.shape[1], device=x.device)
        x = torch.where((position == length[:, None])[..., None], self.blank.to(x.dtype), x)
        x = self.dropout(self.norm(x + self.position[: x.shape[1]]))
        for block in self.blocks:
            x = block(x, (position <= length[:, None])[:, None, None])
        return self.out(x)
