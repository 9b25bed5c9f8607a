"""Who is the user, given the order of their clicks? BERT4Rec (Sun et al., CIKM 2019)."""

import torch
from torch import nn

from nrms.models.users.sequential import Block, Sequential


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
