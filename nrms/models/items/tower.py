"""How does an item with several modalities become one vector? Each modality's encoder sees the items that have it, then their vectors are fused."""

import torch
from torch import nn

from nrms.models.items.fine_tuning import NEW


class ItemTower(nn.Module):
    """Item numbers (U,) -> (U, D): each modality's encoder sees the items that have it, then their vectors are fused."""

    def __init__(self, encoders: dict[str, nn.Module], fusion: nn.Module):
        super().__init__()
        self.encoders, self.fusion = nn.ModuleDict(encoders), fusion

    @property
    def lengths(self) -> torch.Tensor:
        return next(iter(self.encoders.values())).lengths

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        return self.fusion(*self.modality_vectors(items))

    def modality_vectors(self, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The vectors of each modality before they are fused (U, M, D), and which are present (U, M)."""
        vectors, present = [], []
        for encoder in self.encoders.values():
            has = encoder.present[items]
            vectors.append(encoder(items) if has.all() else self.encode_present(encoder, items, has))
            present.append(has)
        return torch.stack(vectors, 1), torch.stack(present, 1)

    def encode_present(self, encoder: nn.Module, items: torch.Tensor, has: torch.Tensor) -> torch.Tensor:
        """Vectors (U, D): items that the encoder has content for get theirs, the others zeros, or that of blank content, encoded once for all."""
        blank = encoder(items[~has][:1]) if self.fusion.wants_blank else encoder.project.weight.new_zeros(1, encoder.project.out_features)
        if not has.any():
            return blank.expand(len(items), -1)
        vectors = encoder(items[has])
        return blank.to(vectors.dtype).repeat(len(items), 1).index_copy(0, has.nonzero()[:, 0], vectors)

    def without(self, items: torch.Tensor, modality: str) -> torch.Tensor:
        """Vectors (U, D) of items as if they had nothing of `modality`, not the first: a blank in its place where the fusion wants one, which takes
        an item that has none."""
        vectors, present = self.modality_vectors(items)
        for m, (name, encoder) in enumerate(self.encoders.items()):
            if name in (modality, "both"):  # a side network across both reads the modality too
                present[:, m] = False
                if self.fusion.wants_blank:
                    vectors[:, m] = encoder((~encoder.present).nonzero()[1:2, 0])  # the first is padding
        return self.fusion(vectors, present)

    def pretrained(self) -> list[nn.Parameter]:
        """Trainable weights that came pre-trained."""
        models = [e.model for e in self.encoders.values() if e.encodes]
        return [p for model in models for name, p in model.named_parameters() if p.requires_grad and not NEW.search(f".{name}")]
