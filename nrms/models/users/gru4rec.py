"""Who is the user, given the order of their clicks? GRU4Rec: a recurrent network reads one click after the other.

Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016.

    h_p = (1 - z_p) h_{p-1} + z_p tanh(W x_p + U (r_p h_{p-1})), with update gate z and reset gate r; eq. 2-5; states (R, L + 1, D)

As there: gated recurrent units, and what they know after the last click is the user. Here torch's GRU, which applies r_p after U, reads vectors of
items, normed first, where the paper reads one-hot numbers.
"""

import torch
from torch import nn

from nrms.models.users.sequential import SequentialUsers


class GRU4Rec(SequentialUsers):
    """A recurrent network over the clicks so far."""

    def build(self) -> None:
        self.norm = nn.LayerNorm(self.dim)
        self.gru = nn.GRU(self.dim, self.dim, self.layers, batch_first=True)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.gru(self.dropout(self.norm(x)))[0])
