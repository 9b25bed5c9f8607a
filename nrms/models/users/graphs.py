"""Who is the user, given everybody? Users are nodes of a graph, as items are, and have vectors of their own: LightGCN, BM3, FREEDOM, AlignRec.

    views(items (N + 1, W)) -> {name: (N + 1 + R, ·)}     all items, then all R users of the training log; `final` is what is scored

    user-item graph   an edge for each pair of the training part, weighed 1 / sqrt(degree of user * degree of item)
    item graph        an item itself and its k - 1 nearest by cosine of frozen content, in equal shares

Matrix factorisation (VBPR, for one) is LightGCN without layers. All others differ in what they add to it, and in the terms of their loss (terms.py).
An item that training does not have comes with the vector its encoder gives it; a user without training items is the mean of the others.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F

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
