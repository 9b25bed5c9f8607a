"""Who is the user, given everybody? LightGCN: a node is the mean of its own vector and of what it is after 1, 2, ... steps to its neighbours.

He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation", SIGIR 2020. Without layers it is a matrix
factorisation; on content that is VBPR (He and McAuley, AAAI 2016).

    final = 1 / (layers + 1) * sum over k of  A^k [items; users], (N + 1 + R, W), eq. 3-6; A: the user-item graph, normalised

As there: no weights but the nodes' own, no map between steps. Here an item's own vector may be what a fusion has made of its content.
"""

import torch

from nrms.models.users.graphs import GraphUsers


class LightGCN(GraphUsers):
    """Items come as one vector each, whatever the fusion; users get vectors as wide."""

    reads_fused = True

    def views(self, items: torch.Tensor) -> dict[str, torch.Tensor]:
        ego = self.with_users(items)
        return {"ego": ego, "final": self.propagate(ego)}
