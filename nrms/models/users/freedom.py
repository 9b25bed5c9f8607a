"""Who is the user, given everybody and which items are alike? FREEDOM: a frozen item graph beside a user-item graph that is thinned.

Zhou and Shen, "A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal Recommendation", MM 2023.

    final = propagate([ids; users]) + [smooth(ids); 0], (N + 1 + R, D); smooth: `item_layers` steps over the item graph

As there: the item graph is made once, from frozen content; in every epoch a share `pruned` of the edges is left out, those of popular users and items
first: an edge stays with a chance in proportion to 1 / sqrt(degree of user * degree of item). Evaluation reads all edges. The loss `content_bpr`
ranks by content alone (training/losses.py).
"""

from collections.abc import Sequence

import torch

from nrms.models.users.base import generator_of
from nrms.models.users.graphs import GraphUsers, adjacency, unique_pairs


class FREEDOM(GraphUsers):
    """LightGCN on a graph that is thinned anew every epoch, plus ids smoothed over the item graph."""

    def build(self) -> None:
        self.register_buffer("near", self.make_item_graph(), persistent=False)
        self.register_buffer("thin", self.edges, persistent=False)
        owner, item = unique_pairs(self.links.owner, self.links.item, self.links.size)
        self.pairs = owner, item, (torch.bincount(owner)[owner] * torch.bincount(item)[item]).double().rsqrt()

    def on_epoch_start(self, items: torch.Tensor | None, seed: Sequence[int], resumed: bool) -> None:
        owner, item, weight = self.pairs
        noise = torch.rand(len(owner), generator=generator_of(seed), dtype=torch.float64)
        kept = (weight.log() - (-noise.log()).log()).topk(round(len(owner) * (1 - self.pruned))).indices  # drawn without replacement, by weight
        self.thin = adjacency(owner[kept], item[kept], self.links.users, self.links.size).to(self.edges.device)

    def views(self, items: torch.Tensor) -> dict[str, torch.Tensor]:
        content, ids = self.content_and_ids(items)
        ego = self.with_users(ids)
        graph = self.propagate(ego, self.thin if self.training else self.edges)
        return {"ego": ego, "final": graph + self.beside_users(self.smooth(ids)), **content}
