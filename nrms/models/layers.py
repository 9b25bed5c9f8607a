"""Which layers do encoders of items and of users share? Dropout that is fast on a CPU, self-attention, and additive attention.

torch's own dropout draws one random number for each value on one core, which was a third of a step on cached features. Here eight values share one
draw of 64 bits. Everything else is as usual: F.dropout on a GPU, nothing in evaluation, torch's generator, so that a run that is resumed draws the
same.
"""

import torch
from torch import nn
from torch.nn import functional as F

STEPS = 256  # a byte decides over a value


class Dropout(nn.Module):
    """Zeroes each value with probability p, to the nearest 1/256 on a CPU, and scales the others so that the mean stays: Srivastava et al. 2014."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        threshold = round(self.p * STEPS)
        if not self.training or not threshold or x.device.type != "cpu":
            return F.dropout(x, self.p, self.training)
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        survives = words.view(torch.uint8)[: x.numel()].view(x.shape) >= threshold
        return x * (survives * (STEPS / (STEPS - threshold))).to(x.dtype)


def self_attention(projected: torch.Tensor, heads: int, visible: torch.Tensor | None) -> torch.Tensor:
    """Scaled dot-product attention by `heads` of queries, keys and values side by side (B, L, 3 * D) -> (B, L, D); Vaswani et al. 2017, eq. 1.

    visible: (B, 1, 1, L) positions that all may look at; None: each position looks at itself and those before it.
    """
    q, k, v = projected.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, L, D/H)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=visible is None)
    return mixed.transpose(1, 2).flatten(2)


class AdditiveAttention(nn.Module):
    """Weighted mean (B, L, D) -> (B, D) with weights softmax(q . tanh(W x + b)) over the unmasked positions; NRMS, eq. 5-6.

    A row without any unmasked position gives zeros.
    """

    def __init__(self, *, dim: int, query_dim: int):
        super().__init__()
        self.project = nn.Linear(dim, query_dim)
        self.query = nn.Linear(query_dim, 1, bias=False)

    def weights(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, L), each row with a sum of 1; zeros where all is masked."""
        logit = self.query(torch.tanh(self.project(x))).squeeze(-1)
        return logit.masked_fill(~mask, torch.finfo(logit.dtype).min).softmax(-1) * mask  # the product makes an all-masked row zero, not uniform

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bl,bld->bd", self.weights(x, mask).to(x.dtype), x)
