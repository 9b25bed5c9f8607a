"""Who is the user, given everybody? Users are nodes of a graph, as items are, and have vectors of their own: LightGCN, BM3, FREEDOM, AlignRec.

    views(items (N + 1, W)) -> {name: (N + 1 + R, ·)}     all items, then all R users of the training log; `final` is what is scored

    user-item graph   an edge for each pair of the training part, weighed 1 / sqrt(degree of user * degree of item)
    item graph        an item itself and its k - 1 nearest by cosine of frozen content, in equal shares

Matrix factorisation (VBPR, for one) is LightGCN without layers. All others differ in what they add to it, and in the terms of their loss (terms.py).
An item that training does not have comes with the vector its encoder gives it; a user without training items is the mean of the others.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from nrms.dropout import Dropout
from nrms.users.base import UserEncoder, generator_of, products

START = 0.03  # deviation that nodes begin with: what is large then stays so where training hardly reaches
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
    """A sparse matrix from its entries; entries of the same place are added up."""
    with warnings.catch_warnings():  # torch calls its CSR support beta, at every first use
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_coo_tensor(torch.stack([row, column]), weight, shape, check_invariants=True).coalesce().to_sparse_csr()


def pairs(owner: torch.Tensor, item: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(owner, item) of the different pairs among these."""
    pair = torch.unique(owner * size + item)
    return pair // size, pair % size


def adjacency(owner: torch.Tensor, item: torch.Tensor, users: int, size: int) -> torch.Tensor:
    """The user-item graph (N + 1 + R, N + 1 + R), symmetric and normalised; a pair that the log has twice is one edge. He et al. 2020, eq. 3."""
    owner, item = pairs(owner, item, size)
    row, column = torch.cat([size + owner, item]), torch.cat([item, size + owner])
    degree = torch.bincount(row, minlength=size + users).float()
    return csr(row, column, (degree[row] * degree[column]).rsqrt(), (size + users, size + users))


@torch.no_grad()
def nearest(content: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(row, column) of every item itself and the k - 1 others nearest by cosine; (N + 1, W), rows of zeros have none and are nobody's.

    A block of rows against all items at a time: no (N + 1, N + 1) matrix is made.
    """
    has = content.square().sum(1) > 0
    ids = has.nonzero()[:, 0]
    unit = F.normalize(content[ids].float(), dim=1)
    k, own, near = min(k, len(ids)), torch.arange(len(ids), device=ids.device), []
    for rows in own.split(max(1, BLOCK // max(len(ids), 1))):
        cosines = unit[rows] @ unit.T
        cosines[torch.arange(len(rows), device=ids.device), rows] = torch.inf  # itself, also where others have the same vector
        near.append(cosines.topk(k).indices)
    return ids.repeat_interleave(k), ids[torch.cat(near).flatten()] if near else ids


def item_graph(content: Mapping[str, torch.Tensor], shares: Mapping[str, float], k: int) -> torch.Tensor:
    """The mean over an item's k nearest, (N + 1, N + 1) sparse; of several modalities in these shares, of those that it has; an item that has
    only what has no share is the mean over that. Every row has k entries, so equal shares are the symmetric weights of the released codes."""
    has = torch.stack([table.square().sum(1) > 0 for table in content.values()], 1)  # (N + 1, M)
    share = torch.tensor([shares[name] for name in content], device=has.device) * has
    share = torch.where(share.sum(1, keepdim=True) > 0, share, has.float())
    share = share / share.sum(1, keepdim=True)
    rows, columns = zip(*(nearest(table, k) for table in content.values()), strict=True)
    weights = [share[row, m] * has[:, m].sum() / len(row) for m, row in enumerate(rows)]
    return csr(torch.cat(rows), torch.cat(columns), torch.cat(weights), (len(has), len(has)))


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


class BM3(LightGCN):
    """LightGCN with an item's own vector added, and a predictor that stands before one side of every comparison (Zhou et al., WWW 2023).

    target: what is to be predicted, through dropout and without gradient. Each modality of content has both sides, too.
    """

    fused = False

    def build(self) -> None:
        self.predict = nn.Linear(self.dim, self.dim)
        nn.init.normal_(self.predict.weight, std=self.dim**-0.5)

    def views(self, items: torch.Tensor) -> dict[str, torch.Tensor]:
        blocks = self.blocks(items)
        ids = blocks.pop("ids")
        ego = self.with_users(ids)
        made = self.propagate(ego) + F.pad(ids, (0, 0, 0, self.links.users))
        online = self.predict(made)
        result = {"ego": ego, "final": online, "online": online, "target": self.dropout(made.detach())}
        for name, content in blocks.items():
            result |= {name: content, f"online {name}": self.predict(content), f"target {name}": self.dropout(content.detach())}
        return result


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


class AlignRec(LightGCN):
    """LightGCN plus a content branch: ids gated by content, smoothed over the item graph, and handed to the users who took them (CIKM 2024)."""

    fused = False

    def build(self) -> None:
        self.register_buffer("near", self.make_item_graph(), persistent=False)
        parts = [F.normalize(table.float(), dim=1) for table in self.links.content.values()]
        self.register_buffer("raw", F.normalize(torch.cat(parts, 1), dim=1), persistent=False)

    def views(self, items: torch.Tensor) -> dict[str, torch.Tensor]:
        blocks = self.blocks(items)
        ids = blocks.pop("ids")
        ego = self.with_users(ids)
        graph = self.propagate(ego)
        own = self.smooth(ids * torch.sigmoid(sum(blocks.values())))
        padded = F.pad(own, (0, 0, 0, self.links.users))
        taken = self.edges @ padded  # of users: what they took; of items nothing, as no user stands there
        content = padded + taken
        return {"ego": ego, "graph": graph, "content": content, "final": graph + content, "raw": self.raw}
