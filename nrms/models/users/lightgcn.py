"""Who is the user, given everybody? LightGCN (He et al., SIGIR 2020); without layers, VBPR (He and McAuley, AAAI 2016)."""

from collections.abc import Sequence

import torch
from torch import nn

from nrms.models.layers import Dropout
from nrms.models.users.base import UserEncoder, products
from nrms.models.users.graphs import START, Links, adjacency, item_graph


class LightGCN(UserEncoder):
    """A node is the mean of its own vector and of what it is after 1, 2, ... steps to its neighbours (He et al., SIGIR 2020, eq. 3-6).

    width: W of an item; users get vectors as wide. layers: steps, 0 for none.
    """

    whole = True
    fused = True  # items come as one vector each; False: as fusion `late` hands them over
    deviation = START

    def __init__(
        self, *, dim: int, layers: int, links: Links, modalities: Sequence[str], width: int, dropout: float = 0.0, neighbours: int = 10,
        item_layers: int = 1, image_share: float = 0.1, pruned: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        self.dim, self.layers, self.links, self.modalities = dim, layers, links, list(modalities)
        self.neighbours, self.item_layers, self.image_share, self.pruned = neighbours, item_layers, image_share, pruned
        self.dropout = Dropout(dropout)
        self.user = nn.Embedding(links.users, width if self.fused else dim)
        nn.init.normal_(self.user.weight, std=START)
        known = torch.zeros(links.users, dtype=torch.bool)
        known[links.owner] = True
        self.register_buffer("known", known, persistent=False)
        self.register_buffer("edges", adjacency(links.owner, links.item, links.users, links.size), persistent=False)
        self.build()

    def build(self) -> None:
        """Makes weights and graphs beyond those of LightGCN."""

    def blocks(self, items: torch.Tensor) -> dict[str, torch.Tensor]:
        """The vectors of each modality, (N + 1, D) by name, zero where absent, of items as fusion `late` hands them over; row 0 zero."""
        vectors = items[:, : -len(self.modalities)].float() if len(self.modalities) > 1 else items.float()
        return dict(zip(self.modalities, vectors.chunk(len(self.modalities), 1), strict=True))

    def with_users(self, items: torch.Tensor) -> torch.Tensor:
        """Vectors of items, then of users, before any propagation."""
        users = self.user.weight
        if not self.known.all():
            users = torch.where(self.known[:, None], users, users[self.known].mean(0))
        return torch.cat([items.float(), users])

    def propagate(self, nodes: torch.Tensor, edges: torch.Tensor | None = None) -> torch.Tensor:
        """The mean of the nodes (N + 1 + R, D) after 0, 1, ... `layers` steps."""
        edges, total = self.edges if edges is None else edges, nodes
        for _ in range(self.layers):
            nodes = edges @ nodes
            total = total + nodes
        return total / (self.layers + 1)

    def views(self, items: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views of all nodes by name; items (N + 1, W) as the item tower gives them, row 0 zero."""
        ego = self.with_users(items)
        return {"ego": ego, "final": self.propagate(ego)}

    def forward(self, history: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The history of a user is one place, the user's own node."""
        return history[:, 0]

    def score(self, state: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """The dot product, as these systems have it: (B, D) x (B, C, D), or (C, D), -> (B, C)."""
        return products(state, items)

    def make_item_graph(self) -> torch.Tensor:
        shares = {name: self.image_share if name == "image" else 1 - self.image_share for name in self.links.content}
        return item_graph(self.links.content, shares, self.neighbours)

    def smooth(self, items: torch.Tensor) -> torch.Tensor:
        """Vectors (N + 1, D) after `item_layers` steps over the item graph."""
        for _ in range(self.item_layers):
            items = self.near @ items
        return items
