"""How does an item become a vector when nothing is known of it but who took it? A table of one learned vector for each item: IDRec."""

import torch
from torch import nn

from nrms.models.items.encoders import Table


class IdTable(Table):
    """Item numbers (U,) -> (U, D). An item that no training interaction names has the mean of all those that have one: nothing tells it apart.

    known (N + 1,): items of the training part. Vectors start small, with deviation 1/sqrt(D), so that their length is about one.
    """

    what_learns = "a vector for each item that training has"

    def __init__(self, known: torch.Tensor, *, dim: int):
        super().__init__()
        self.table = nn.Embedding(len(known), dim)
        nn.init.normal_(self.table.weight, std=dim**-0.5)
        self.register_buffer("known", known.clone(), persistent=False)
        self.register_buffer("present", torch.arange(len(known)) > 0, persistent=False)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        vectors = self.table(items)
        known = self.known[items]
        if known.all():
            return vectors
        return torch.where(known[:, None], vectors, self.table.weight[self.known].mean(0))
