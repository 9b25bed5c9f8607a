"""Who is the user, given everybody, without negatives? BM3 (Zhou et al., WWW 2023)."""

import torch
from torch import nn
from torch.nn import functional as F

from nrms.models.users.lightgcn import LightGCN


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
