"""Must an item be encoded again if it was encoded a moment ago? During training, vectors that are a few steps old may stand in.

SpeedyFeed (Xiao et al., KDD 2022, section 4.2): weights move slowly, so a vector of at most `steps` steps ago is nearly the one of now; early on,
when they move fast, old vectors are seldom used. A stand-in carries no gradient. This saves time and costs accuracy; `drift` says how stale they
were. The table is not kept in checkpoints: a run that goes on after it was killed begins with an empty one.
"""

import torch
from torch import nn


class VectorReuse:
    """In place of an item tower while it trains: items (U,) -> (U, D), some of them from a table of vectors at most `steps` steps old.

    At step t an item that could be taken from the table is so with probability 1 - exp(-t / patience), each by its own coin.
    """

    def __init__(self, tower: nn.Module, *, items: int, steps: int, patience: float):
        self.tower, self.steps, self.patience, self.now = tower, steps, patience, 0
        self.table = torch.zeros(items, tower.fusion.width, device=tower.lengths.device)
        self.encoded_at = torch.full((items,), -(10**9), device=tower.lengths.device)  # step
        self.encoded = 0  # in the last call
        self.drifts: list[torch.Tensor] = []

    @property
    def drift(self) -> float:
        """Mean of |old - new| / |new| over items that were encoded anew while an old vector was at hand, since the last time this was read."""
        value = float(torch.cat(self.drifts).mean()) if self.drifts else float("nan")
        self.drifts = []
        return value

    def __call__(self, items: torch.Tensor) -> torch.Tensor:
        self.now += 1
        recent = self.now - self.encoded_at[items] <= self.steps
        chance = 1 - torch.exp(torch.tensor(-self.now / self.patience))
        reused = recent & (torch.rand(len(items), device=items.device) < chance.to(items.device))
        rows = (~reused).nonzero()[:, 0]  # of items that are encoded anew
        self.encoded = len(rows)
        if not len(rows):
            return self.table[items]
        fresh = self.tower(items[rows])
        new, old = fresh.detach().float(), self.table[items[rows]]
        change = (old - new).norm(dim=1) / new.norm(dim=1).clamp_min(1e-12)
        self.drifts.append(change[recent[rows]])
        vectors = self.table[items].to(fresh.dtype).index_copy(0, rows, fresh)
        self.table[items[rows]], self.encoded_at[items[rows]] = new, self.now
        return vectors
