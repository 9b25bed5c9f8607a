"""Who is the user, given everybody, with modalities aligned? AlignRec (Liu et al., CIKM 2024)."""

import torch
from torch.nn import functional as F

from nrms.models.users.lightgcn import LightGCN


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
