"""How are modalities joined after scoring, not before? One user encoder for each, and a learned weight for each score.

    score = sum over modalities m of  w_m * present_m(candidate) * u_m . v_m / sqrt(D)

An item comes as the fusion `late` hands it over: M vectors side by side, zero where absent, then M flags that say which are present.
"""

from collections.abc import Callable

import torch
from torch import nn

from nrms.models.users.base import UserEncoder


class LateFusion(UserEncoder):
    """State: (B, M * D + M), the modalities' user vectors times their weights, so that one dot product with an item is the blend."""

    def __init__(self, make: Callable[[], UserEncoder], modalities: int):
        super().__init__()
        self.users = nn.ModuleList(make() for _ in range(modalities))
        # text first: vectors of images share a large part at first, which would set those that have one apart from those that have none
        self.weight = nn.Parameter(torch.tensor([1.0, *[0.3] * (modalities - 1)]))

    def forward(self, history: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        modalities = len(self.users)
        vectors, flags = history[..., :-modalities].chunk(modalities, -1), history[..., -modalities:] > 0.5
        states = [w * user(v, mask & flags[..., m]) for m, (user, v, w) in enumerate(zip(self.users, vectors, self.weight, strict=True))]
        return torch.cat([*states, states[0].new_zeros(len(mask), modalities)], 1)
