"""Who is the user, given everybody and no negatives? BM3: every node learns to predict the others' view through dropout.

Zhou et al., "Bootstrap Latent Representations for Multi-modal Recommendation", WWW 2023.

    graph  = propagate([ids; users]) + [ids; 0]        (N + 1 + R, D), LightGCN with an item's own vector added
    online = predict(graph)                            target = dropout(graph), without gradient
    and the same two of each modality's content, (N + 1, D)

As there: a linear predictor before one side of every comparison; the losses `bootstrap` and `bootstrap_content` compare (training/losses.py).
"""

import torch
from torch import nn

from nrms.models.users.graphs import GraphUsers


class BM3(GraphUsers):
    """Views `online` and `target` of all nodes and of each modality of content; what is scored is `online`."""

    def build(self) -> None:
        self.predict = nn.Linear(self.dim, self.dim)
        nn.init.normal_(self.predict.weight, std=self.dim**-0.5)

    def views(self, items: torch.Tensor) -> dict[str, torch.Tensor]:
        contents, ids = self.content_and_ids(items)
        ego = self.with_users(ids)
        graph = self.propagate(ego) + self.beside_users(ids)
        online = self.predict(graph)
        views = {"ego": ego, "final": online, "online": online, "target": self.dropout(graph.detach())}
        for name, content in contents.items():
            views |= {name: content, f"online {name}": self.predict(content), f"target {name}": self.dropout(content.detach())}
        return views
