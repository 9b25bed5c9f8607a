"""Who is the user, given everybody and which items are alike? FREEDOM (Zhou and Shen, MM 2023)."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from nrms.models.users.base import generator_of
from nrms.models.users.graphs import adjacency, pairs
from nrms.models.users.lightgcn import LightGCN


class FREEDOM(LightGCN):
    """LightGCN on a graph that is thinned anew every epoch, plus ids smoothed over a frozen item graph (Zhou and Shen, MM 2023).

    pruned: share of the edges left out in training, those of popular users and items first.
    """

    fused = False

    def build(self) -> None:
        self.register_buffer("near", self.make_item_graph(), persistent=False)
        self.register_buffer("thin", self.edges, persistent=False)
        owner, item = pairs(self.links.owner, self.links.item, self.links.size)
        self.pairs = owner, item, (torch.bincount(owner)[owner] * torch.bincount(item)[item]).double().rsqrt()

    def on_epoch_start(self, items: torch.Tensor | None, seed: Sequence[int], resumed: bool) -> None:
        owner, item, weight = self.pairs
        noise = torch.rand(len(owner), generator=generator_of(seed), dtype=torch.float64)
        kept = (weight.log() - (-noise.log()).log()).topk(round(len(owner) * (1 - self.pruned))).indices  # drawn without replacement, by weight
        self.thin = adjacency(owner[kept], item[kept], self.links.users, self.links.size).to(self.edges.device)

    def views(self, items: torch.Tensor) -> dict[str, torch.Tensor]:
        blocks = self.blocks(items)
        ids = blocks.pop("ids")
        ego = self.with_users(ids)
        made = self.propagate(ego, self.thin if self.training else self.edges)
        return {"ego": ego, "final": made + F.pad(self.smooth(ids), (0, 0, 0, self.links.users)), **blocks}
