"""What do user encoders share to which users are nodes of a graph, as items are? The graphs, the nodes' vectors, and steps to the neighbours.

    views(items (N + 1, W)) -> {name: (N + 1 + R, ·)}     all items, then all R users of the training log; `final` is what is scored

    user-item graph   an edge for each pair of the training part, weighed 1 / sqrt(degree of user * degree of item)
    item graph        an item itself and its k - 1 nearest by cosine of frozen content, in equal shares

An item that training does not have comes with the vector its encoder gives it; a user without training items is the mean of the others.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from nrms.models.layers import Dropout
from nrms.models.users.base import UserEncoder, products

NODE_DEVIATION = 0.03  # that nodes begin with: what is large then stays so where training hardly reaches
BLOCK = 1 << 24  # cosines at a time, rows times items: bounds memory whatever the number of items


@dataclass(frozen=True)
class Links:
    """Who took what in the training part, and what is known of the items beforehand."""

    owner: torch.Tensor  # (E,) user of each interaction, 0 to R - 1
    item: torch.Tensor  # (E,) item of each, 1 to N
    users: int  # R
    size: int  # N + 1
    content: Mapping[str, torch.Tensor]  # frozen content by modality, (N + 1, W), rows of zeros where absent


def csr(row: torch.Tensor, column: torch.Tensor, weight: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """A sparse matrix from its entries; entries of the same row and column are added up."""
    with warnings.catch_warnings():  # torch calls its CSR support beta, at every first use
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_coo_tensor(torch.stack([row, column]), weight, shape, check_invariants=True).coalesce().to_sparse_csr()


def unique_pairs(owner: torch.Tensor, item: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(owner, item) of the different pairs among these."""
    pair = torch.unique(owner * size + item)
    return pair // size, pair % size


def adjacency(owner: torch.Tensor, item: torch.Tensor, users: int, size: int) -> torch.Tensor:
    """The user-item graph (N + 1 + R, N + 1 + R), symmetric and normalised; a pair that the log has twice is one edge. He et al. 2020, eq. 3."""
    owner, item = unique_pairs(owner, item, size)
    row, column = torch.cat([size + owner, item]), torch.cat([item, size + owner])
    degree = torch.bincount(row, minlength=size + users).float()
    return csr(row, column, (degree[row] * degree[column]).rsqrt(), (size + users, size + users))


@torch.no_grad()
def nearest(content: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(row, column) of every item itself and the k - 1 others nearest by cosine; (N + 1, W), rows of zeros have none and are nobody's.

    A block of rows against all items at a time: no (N + 1, N + 1) matrix is made.
    """
    ids = (content.square().sum(1) > 0).nonzero()[:, 0]
    unit = F.normalize(content[ids].float(), dim=1)
    k, columns = min(k, len(ids)), []
    for rows in torch.arange(len(ids), device=ids.device).split(max(1, BLOCK // max(len(ids), 1))):
        cosines = unit[rows] @ unit.T
        cosines[torch.arange(len(rows), device=ids.device), rows] = torch.inf  # itself, also where others have the same vector
        columns.append(cosines.topk(k).indices)
    return ids.repeat_interleave(k), ids[torch.cat(columns).flatten()] if columns else ids


def item_graph(content: Mapping[str, torch.Tensor], shares: Mapping[str, float], k: int) -> torch.Tensor:
    """The mean over an item's k nearest, (N + 1, N + 1) sparse; of several modalities in these shares, of those that it has; an item that has
    only what has no share is the mean over that. Every row has k entries, so equal shares are the symmetric weights of the released codes."""
    present = torch.stack([table.square().sum(1) > 0 for table in content.values()], 1)  # (N + 1, M)
    share = torch.tensor([shares[name] for name in content], device=present.device) * present
    share = torch.where(share.sum(1, keepdim=True) > 0, share, present.float())
    share = share / share.sum(1, keepdim=True)
    rows, columns = zip(*(nearest(table, k) for table in content.values()), strict=True)
    weights = [share[row, m] * present[:, m].sum() / len(row) for m, row in enumerate(rows)]
    return csr(torch.cat(rows), torch.cat(columns), torch.cat(weights), (len(present), len(present)))


class GraphUsers(UserEncoder):
    """Users as nodes with vectors of their own, beside items that come as fusion `late` hands them over; a subclass says what its views are.

    width: W of an item. layers: steps over the user-item graph, 0 for none. neighbours, item_layers, image_share: k, steps and weights of the item
    graph. pruned: share of the edges left out in training.
    """

    is_graph = True
    reads_fused = False  # an item comes as one vector, and users have vectors as wide; else by modality, and they have vectors as wide as one
    ITEM_DEVIATION = NODE_DEVIATION

    def __init__(
        self, *, dim: int, layers: int, links: Links, modalities: Sequence[str], width: int, dropout: float = 0.0, neighbours: int = 10,
        item_layers: int = 1, image_share: float = 0.1, pruned: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        self.dim, self.layers, self.links, self.modalities = dim, layers, links, list(modalities)
        self.neighbours, self.item_layers, self.image_share, self.pruned = neighbours, item_layers, image_share, pruned
        self.dropout = Dropout(dropout)
        self.user = nn.Embedding(links.users, width if self.reads_fused else dim)
        nn.init.normal_(self.user.weight, std=NODE_DEVIATION)
        self.register_buffer("known", torch.bincount(links.owner, minlength=links.users) > 0, persistent=False)
        self.register_buffer("edges", adjacency(links.owner, links.item, links.users, links.size), persistent=False)
        self.build()

    def build(self) -> None:
        """Makes weights and graphs beyond those of all."""

    def content_and_ids(self, items: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The vectors of each modality of content by name, and those of ids, (N + 1, D) each, zero where absent; row 0 zero."""
        content = dict(zip(self.modalities, items[:, : -len(self.modalities)].float().chunk(len(self.modalities), 1), strict=True))
        ids = content.pop("ids")
        return content, ids

    def with_users(self, items: torch.Tensor) -> torch.Tensor:
        """Vectors of items, then of users, before any propagation."""
        users = self.user.weight
        if not self.known.all():
            users = torch.where(self.known[:, None], users, users[self.known].mean(0))
        return torch.cat([items.float(), users])

    def beside_users(self, items: torch.Tensor) -> torch.Tensor:
        """Vectors of items (N + 1, D), then zeros for users."""
        return F.pad(items, (0, 0, 0, self.links.users))

    def propagate(self, nodes: torch.Tensor, edges: torch.Tensor | None = None) -> torch.Tensor:
        """The mean of the nodes (N + 1 + R, D) after 0, 1, ... `layers` steps; He et al. 2020, eq. 3-6."""
        edges, total = self.edges if edges is None else edges, nodes
        for _ in range(self.layers):
            nodes = edges @ nodes
            total = total + nodes
        return total / (self.layers + 1)

    def make_item_graph(self) -> torch.Tensor:
        shares = {name: self.image_share if name == "image" else 1 - self.image_share for name in self.links.content}
        return item_graph(self.links.content, shares, self.neighbours)

    def smooth(self, items: torch.Tensor) -> torch.Tensor:
        """Vectors (N + 1, D) after `item_layers` steps over the item graph, which `build` has kept as `near`."""
        for _ in range(self.item_layers):
            items = self.near @ items
        return items

    def views(self, items: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views of all nodes by name; items (N + 1, W) as the item tower gives them, row 0 zero."""
        raise NotImplementedError

    def forward(self, history: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The history of a user is one position, the user's own node."""
        return history[:, 0]

    def score(self, state: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """The dot product, as these systems have it: (B, D) x (B, C, D), or (C, D), -> (B, C)."""
        return products(state, items)
