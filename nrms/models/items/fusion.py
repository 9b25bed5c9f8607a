"""How do the vectors of an item's modalities become one? Fusions that know what is missing.

vectors (U, M, D), present (U, M) -> (U, D); (U, M * D) for `beside`, (U, M * D + M) for `late`. The first modality is the one that every item has,
its text. What stands where a modality is absent never matters, and an item that has nothing but its text keeps that vector, but for what the gate
learns to add in the place of an image. `hadamard_blank`, the original's product with the vector of a blank image, breaks that rule on purpose: it is
there to show the harm.
"""

import torch
from torch import nn


class Fusion(nn.Module):
    """What all fusions share: their arguments, the width of a fused vector, and whether an absent modality must be encoded as blank content."""

    wants_blank = False

    def __init__(self, *, dim: int, modalities: int, dropout: float):
        super().__init__()
        self.dim, self.modalities, self.dropout, self.width = dim, modalities, dropout, dim
        self.build()

    def build(self) -> None:
        """Makes the weights, if there are any, and says the width where it is another."""


class Single(Fusion):
    """One modality: its vector as it is."""

    def forward(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        return vectors[:, 0]


class Sum(Fusion):
    """The sum of what is present."""

    def forward(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        return torch.where(present[..., None], vectors, 0).sum(1)


class Concat(Fusion):
    """t + present * W [t; v]: a linear map of both, added where both are there."""

    def build(self) -> None:
        self.map = nn.Linear(self.modalities * self.dim, self.dim)

    def forward(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        full = present.all(1, keepdim=True)
        mixed = self.map(torch.where(present[..., None], vectors, 0).flatten(1))
        return vectors[:, 0] + torch.where(full, mixed, 0)


class Hadamard(Fusion):
    """t * (1 + v) where there is an image: a residual product."""

    def forward(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        factors = 1 + torch.where(present[:, 1:, None], vectors[:, 1:], 0)
        return vectors[:, 0] * factors.prod(1)


class HadamardBlank(Fusion):
    """t * v everywhere, as the original: an item without an image is multiplied by the vector of a blank one, which its encoder must supply."""

    wants_blank = True

    def forward(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        # two items without images share the factor b * b in every dimension; E b^4 = 3 for a Gaussian, so this keeps untrained scores of order one
        return vectors.prod(1) * 3**-0.25


class Gate(Fusion):
    """t + sum over other modalities of sigmoid(W [t; v]) * P v, with a learned vector in the place of a missing v that starts at zero.

    Modality dropout: in training a present modality other than the first is taken for missing with probability `dropout`.
    """

    def build(self) -> None:
        others = self.modalities - 1
        self.gate = nn.ModuleList(nn.Linear(2 * self.dim, self.dim) for _ in range(others))
        self.value = nn.ModuleList(nn.Linear(self.dim, self.dim) for _ in range(others))
        self.missing = nn.Parameter(torch.zeros(others, self.dim))

    def forward(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        text, fused = vectors[:, 0], vectors[:, 0]
        if self.training and self.dropout:
            present = present & (torch.rand(present.shape, device=present.device) >= self.dropout)
        for m, (gate, value) in enumerate(zip(self.gate, self.value, strict=True)):
            other = torch.where(present[:, m + 1, None], vectors[:, m + 1], 0)
            added = torch.sigmoid(gate(torch.cat([text, other], 1))) * value(other)
            fused = fused + torch.where(present[:, m + 1, None], added, self.missing[m])
        return fused


class CrossAttention(Fusion):
    """t + attention of t over what is present, itself included; the output map starts at zero."""

    def build(self) -> None:
        self.attend = nn.MultiheadAttention(self.dim, 1, batch_first=True)
        nn.init.zeros_(self.attend.out_proj.weight)

    def forward(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        text = vectors[:, :1]
        mixed, _ = self.attend(text, vectors, vectors, key_padding_mask=~present, need_weights=False)
        return (text + torch.where(present[:, 1:].any(1)[:, None, None], mixed, 0))[:, 0]


class Beside(Fusion):
    """The vectors side by side, zero where absent, (U, M * D): one dot product is the sum of the modalities' own."""

    def build(self) -> None:
        self.width = self.modalities * self.dim

    def forward(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        return torch.where(present[..., None], vectors, 0).flatten(1)


class Late(Fusion):
    """No fusion: the vectors side by side, zero where absent, then a flag for each, (U, M * D + M); users/late_fusion.py blends scores."""

    def build(self) -> None:
        self.width = self.modalities * (self.dim + 1)

    def forward(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.where(present[..., None], vectors, 0).flatten(1), present.to(vectors.dtype)], 1)


FUSIONS = {
    **{"single": Single, "sum": Sum, "concat": Concat, "hadamard": Hadamard, "hadamard_blank": HadamardBlank, "gate": Gate},
    **{"cross_attention": CrossAttention, "beside": Beside, "late": Late},
}
