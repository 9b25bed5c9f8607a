"""Who is the user, given everybody, with modalities aligned? AlignRec: a branch of content beside the user-item graph, brought near to it by losses.

Liu et al., "AlignRec: Aligning and Training in Multimodal Recommendations", CIKM 2024.

    graph   = propagate([ids; users])                                     (N + 1 + R, D), LightGCN
    content = [s; 0] + A [s; 0],   s = smooth(ids * sigmoid(content))     gated by content, smoothed over the item graph, handed to users
    final   = graph + content                                             raw: unit vectors of the frozen content

As there: the losses `cca`, `uia` and `similarity` hold these views together (training/losses.py).
"""

import torch
from torch.nn import functional as F

from nrms.models.users.graphs import GraphUsers


class AlignRec(GraphUsers):
    """Ids as LightGCN has them, plus the branch of content."""

    def build(self) -> None:
        self.register_buffer("near", self.make_item_graph(), persistent=False)
        parts = [F.normalize(table.float(), dim=1) for table in self.links.content.values()]
        self.register_buffer("raw", F.normalize(torch.cat(parts, 1), dim=1), persistent=False)

    def views(self, items: torch.Tensor) -> dict[str, torch.Tensor]:
        contents, ids = self.content_and_ids(items)
        ego = self.with_users(ids)
        graph = self.propagate(ego)
        smoothed = self.beside_users(self.smooth(ids * torch.sigmoid(sum(contents.values()))))
        content = smoothed + self.edges @ smoothed  # A hands items to the users who took them, and nothing to items, as no user stands there
        return {"ego": ego, "graph": graph, "content": content, "final": graph + content, "raw": self.raw}
