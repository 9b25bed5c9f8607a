"""What is descended? The loss of a ranking, a function of scores and masks; and auxiliary losses, functions of vectors.

OBJECTIVES says how good a ranking is, as a number to descend; no model appears there. TERMS are the auxiliary losses that are added to it: they hold
views of users and items together, or keep vectors small and apart.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from nrms.evaluation.vector_diagnostics import cosine, uniformity

POSITIVE = 25.0  # weight of a click in `pointwise`: about 1 over the share of clicked news in MIND
TEMPERATURE = 0.2  # of InfoNCE in AlignRec


# losses of a ranking -------------------------------------------------------------------------------------------------


def listwise(scores: torch.Tensor, mask: torch.Tensor, clicked: torch.Tensor) -> torch.Tensor:
    """Softmax cross entropy of the click among its 1 + K candidates, mean over rows; NRMS, eq. 9-10.

    scores (B, C); mask (B, C) False where there is no candidate, whatever the score there; clicked (B, C) True once per row.
    In nats; log(1 + K) for equal scores. A row whose only candidate is the click adds 0.
    """
    masked = scores.float().masked_fill(~mask, -torch.inf)
    return -(masked.log_softmax(-1)[clicked]).mean()


def pointwise(scores: torch.Tensor, mask: torch.Tensor, clicked: torch.Tensor) -> torch.Tensor:
    """Cross entropy of click or no click, each candidate alone, with the score as log-odds; clicks weigh POSITIVE times as much.

    Shapes as for `listwise`. In nats, divided by the sum of weights, so log 2 for scores of 0. A constant weight multiplies the prior odds and hardly
    changes a ranking (Elkan 2001): it is here because the original's ranker was trained so.
    """
    weight = torch.where(clicked, POSITIVE, 1.0) * mask
    loss = F.binary_cross_entropy_with_logits(scores.float(), clicked.float(), reduction="none")
    return (loss.masked_fill(~mask, 0) * weight).sum() / weight.sum()


def bce(scores: torch.Tensor, mask: torch.Tensor, clicked: torch.Tensor) -> torch.Tensor:
    """Cross entropy of click or no click: the mean over clicks plus the mean over the others; SASRec, eq. 6, and IDvs.MoRec.

    Shapes as for `listwise`. In nats, 2 log 2 for scores of 0, where there is any candidate that was not clicked.
    """
    loss = F.binary_cross_entropy_with_logits(scores.float(), clicked.float(), reduction="none")
    others = mask & ~clicked
    return loss[clicked].mean() + loss[others].sum() / others.sum().clamp_min(1)


def bpr(scores: torch.Tensor, mask: torch.Tensor, clicked: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(score of the click - score of another), mean over all pairs of a row's click and another; Rendle et al., UAI 2009, eq. 4.

    Shapes as for `listwise`. In nats, log 2 for equal scores.
    """
    scores, others = scores.float(), mask & ~clicked
    loss = F.softplus(scores - scores[clicked][:, None])
    return loss.masked_fill(~others, 0).sum() / others.sum().clamp_min(1)


def none(scores: torch.Tensor, mask: torch.Tensor, clicked: torch.Tensor) -> torch.Tensor:
    """0, whatever the scores: for systems that learn by auxiliary losses alone."""
    return scores.new_zeros(())


OBJECTIVES = {"listwise": listwise, "pointwise": pointwise, "bce": bce, "bpr": bpr, "none": none}


# auxiliary losses ----------------------------------------------------------------------------------------------------
# A model hands over tables of views by name; `Rows` says which rows of them belong to a batch. What a batch has several times counts once wherever
# rows are held against each other, so that nothing is its own negative.
#
#     ego        vectors before any propagation               content    what the item graph makes of gated ids, AlignRec's content branch
#     final      vectors that are scored                      graph      what the user-item graph makes of ids
#     raw        unit vectors of frozen content               online, target, <modality>, ...   see models/users/bm3.py and freedom.py
#     second, norm, overlap                                   see models/users/missrec.py

Views = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Rows:
    """B rows of a batch, as numbers of rows of the tables."""

    user: torch.Tensor  # (B,)
    clicked: torch.Tensor  # (B,)
    others: torch.Tensor  # (B, K) the candidates that were not clicked
    mask: torch.Tensor  # (B, K) bool


def info_nce(a: torch.Tensor, b: torch.Tensor, temperature: float = TEMPERATURE) -> torch.Tensor:
    """Cross entropy of row i of b among all rows, by cosine to row i of a, both (n, D); mean over rows, in nats: log n for equal cosines."""
    cosines = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T / temperature
    return F.cross_entropy(cosines, torch.arange(len(a), device=a.device))


def has_content(view: torch.Tensor) -> torch.Tensor:
    """Which rows (n,) of a view (n, D) hold anything: what has no content is a row of zeros, and is held against nothing."""
    return view.detach().any(-1)


def l2(views: Views, rows: Rows) -> torch.Tensor:
    """Half the squared length of a row's own vectors, before any propagation: user, clicked item, and the mean of the others; mean over rows."""
    ego = views["ego"]
    square = ego[rows.user].square().sum(-1) + ego[rows.clicked].square().sum(-1)
    others = ego[rows.others].square().sum(-1).masked_fill(~rows.mask, 0).sum(1) / rows.mask.sum(1).clamp_min(1)
    return (square + others).mean() / 2


def cca(views: Views, rows: Rows) -> torch.Tensor:
    """AlignRec's content-category alignment: InfoNCE of content and graph view, over the different items and over the different users of a batch.

    Those without content, and users who took nothing else, are left out.
    """
    content, graph = views["content"], views["graph"]
    total = graph.new_zeros(())
    for nodes in (rows.clicked.unique(), rows.user.unique()):
        nodes = nodes[has_content(content[nodes])]
        if len(nodes):
            total = total + info_nce(content[nodes], graph[nodes])
    return total


def uia(views: Views, rows: Rows) -> torch.Tensor:
    """AlignRec's user-item alignment: 1 - cosine of a user and the clicked item; half the `alignment` of Wang and Isola."""
    return 1 - cosine(views["final"][rows.user], views["final"][rows.clicked])


def uniform(views: Views, rows: Rows) -> torch.Tensor:
    """What keeps `uia` from drawing all to one point: mean `uniformity` of a batch's different users and different items; DirectAU, KDD 2022."""
    final = views["final"]
    return (uniformity(final[rows.user.unique()]) + uniformity(final[rows.clicked.unique()])) / 2


def similarity(views: Views, rows: Rows) -> torch.Tensor:
    """AlignRec's regulariser: how far the cosines of content views are from those of raw content, over a batch's n different clicked items with any.

    Frobenius norm of the difference over n. Both sides are of unit vectors, other than in the released code, whose scales do not match.
    """
    items = rows.clicked.unique()
    items = items[has_content(views["raw"][items])]
    view, raw = F.normalize(views["content"][items], dim=-1), views["raw"][items]
    return (view @ view.T - raw @ raw.T).norm() / max(len(items), 1)


def content_bpr(views: Views, rows: Rows) -> torch.Tensor:
    """FREEDOM's second loss: BPR with an item's projected content in the place of its vector, summed over modalities, of pairs that both have it."""
    user, total = views["final"][rows.user], views["final"].new_zeros(())
    for modality in content_of(views):
        clicked, others = views[modality][rows.clicked], views[modality][rows.others]
        both = rows.mask & has_content(others) & has_content(clicked)[:, None]
        gap = torch.einsum("bd,bkd->bk", user, others) - (user * clicked).sum(-1, keepdim=True)
        total = total + F.softplus(gap).masked_fill(~both, 0).sum() / both.sum().clamp_min(1)
    return total


def bootstrap(views: Views, rows: Rows) -> torch.Tensor:
    """BM3's main loss: a user's predicted view against the clicked item's target, and the other way round; 1 - cosine each, no negatives."""
    online, target = views["online"], views["target"]
    return 2 - cosine(online[rows.user], target[rows.clicked]) - cosine(online[rows.clicked], target[rows.user])


def bootstrap_content(views: Views, rows: Rows) -> torch.Tensor:
    """BM3's alignments: each modality's predicted view against the item's target, and against its own; 1 - cosine each, summed over modalities.

    Each is over the rows whose item has the modality.
    """
    total = views["online"].new_zeros(())
    for modality in content_of(views):
        items = rows.clicked[has_content(views[modality][rows.clicked])]
        if len(items):
            online = views[f"online {modality}"][items]
            total = total + 2 - cosine(online, views["target"][items]) - cosine(online, views[f"target {modality}"][items])
    return total


def content_of(views: Views) -> list[str]:
    """The modalities of content that have a view."""
    return [m for m in ("joint", "text", "image") if m in views]


def two_views(views: Views, rows: Rows, temperature: float = 0.07) -> torch.Tensor:
    """MISSRec's sequence to sequence loss: InfoNCE of a history and the same with items left out, both ways, mean; 0.07 as there.

    Rows whose clicked item is the same are not held against each other.
    """
    cosines = F.normalize(views["final"][rows.user], dim=-1) @ F.normalize(views["second"][rows.user], dim=-1).T / temperature
    row = torch.arange(len(cosines), device=cosines.device)
    same = (rows.clicked[:, None] == rows.clicked) & (row[:, None] != row)
    return sum(F.cross_entropy(x.masked_fill(same, -torch.inf), row) for x in (cosines, cosines.T)) / 2


def interest_norm(views: Views, rows: Rows) -> torch.Tensor:
    """What MISSRec's released code calls diversity: squared length of a user's mean interest, see models/users/missrec.py."""
    return views["norm"][rows.user].mean()


def interest_overlap(views: Views, rows: Rows) -> torch.Tensor:
    """Mean squared cosine of a user's different interests: 0 where they are orthogonal, 1 where they are one."""
    return views["overlap"][rows.user].mean()


AUXILIARY = (l2, cca, uia, uniform, similarity, content_bpr, bootstrap, bootstrap_content, two_views, interest_norm, interest_overlap)
TERMS: dict[str, Callable[[Views, Rows], torch.Tensor]] = {loss.__name__: loss for loss in AUXILIARY}
