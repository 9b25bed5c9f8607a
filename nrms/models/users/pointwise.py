"""What was the original's ranker for frozen features? A Transformer that reads the history and one candidate, and says click or no click.

As its code has it: four layers, pre-norm, sinusoidal positions, the mean over all positions, three linear maps in a row, two classes.
Its masks were missing (padding took part in attention and in the mean), so there are two: `Pointwise` with masks, `PointwiseUnmasked` as it was.
"""

import torch
from torch import nn
from torch.nn import functional as F

from nrms.models.users.base import UserEncoder

LAYERS = 4


class Pointwise(UserEncoder):
    """State: the history itself with its mask, (B, L, D + 1). Score: log-odds of a click, each candidate alone behind the history."""

    can_rank_catalogue = False
    masked = True
    states = UserEncoder.states_at_once  # states are as long as the longest history of a batch, so parts of it would not fit together

    def __init__(self, *, dim: int, heads: int, dropout: float, history: int, query_dim: int):
        super().__init__()
        layer = nn.TransformerEncoderLayer(dim, heads, 4 * dim // 3, dropout, norm_first=True, batch_first=True)
        self.body = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Linear(dim, max(dim // 3, 2)), nn.Linear(max(dim // 3, 2), 16), nn.Linear(16, 2))
        for parameter in self.body.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.register_buffer("positions", sinusoids(history + 1, dim), persistent=False)

    def forward(self, history: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.cat([history, mask[..., None].to(history.dtype)], -1)

    def score(self, state: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        history, mask = state[..., :-1], state[..., -1] > 0.5
        rows, count = len(state), items.shape[1]
        width = history.shape[1] + 1 if self.masked else len(self.positions)  # without masks, every position counts: as many as there can be
        x = F.pad(history, (0, 0, 0, width - history.shape[1]))[:, None].repeat(1, count, 1, 1)  # (B, C, width, D)
        last = mask.sum(1)  # the candidate stands behind the last click
        position = last[:, None, None, None].expand(rows, count, 1, x.shape[-1])
        x = x.scatter(2, position, items[:, :, None].to(x.dtype)).flatten(0, 1) + self.positions[:width].to(x.dtype)
        if self.masked:
            filled = (torch.arange(width, device=x.device) <= last[:, None]).repeat_interleave(count, 0)  # (B * C, width)
            x = self.body(x, src_key_padding_mask=~filled)
            pooled = (x * filled[..., None]).sum(1) / filled.sum(1, keepdim=True)
        else:
            pooled = self.body(x).mean(1)
        no, yes = self.head(pooled).unbind(-1)
        return (yes - no).unflatten(0, (rows, count))


class PointwiseUnmasked(Pointwise):
    """As the original had it: padding is read like clicks."""

    masked = False


def sinusoids(length: int, dim: int) -> torch.Tensor:
    """Positions (length, dim) of Vaswani et al. 2017, section 3.5."""
    angle = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, dim, 2) / dim)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :dim]
