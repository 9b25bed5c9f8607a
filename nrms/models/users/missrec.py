"""Who is the user, given what they are interested in? MISSRec: clusters of content are interests, and each modality scores.

Wang et al., "MISSRec: Pre-training and Transferring Multi-modal Interest-aware Sequence Representation for Recommendation", MM 2023.

    tokens of all items   text and image vectors            -> clusters, anew at the start of every epoch
    history               the different clusters it touches -> encoder -> memory
                          its items in order, + positions   -> decoder, which looks at the memory -> user, at the last position
    score                 sum over modalities m of  c_m * softmax_m(blend * c_m),  c_m the cosine of user and candidate

blend 0 is the mean of the cosines, a large one their maximum. A modality that an item lacks has no part in its softmax. With ids the score is
(cosine with the id + 2 * that) / 3. Items come as the fusion `late` hands them over, or as they are where there is one modality; to the decoder a
history's item is the sum of its modalities, or a token for each. Without clusters (`none`, a control) there is no memory: the sequence is read by
a Transformer encoder alone.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from nrms.models.layers import Dropout
from nrms.models.users.base import UserEncoder, generator_of, products
from nrms.models.users.clustering import CLUSTERS

EPS = 1e-12  # of every LayerNorm, as in the released code
DEVIATION = 0.02  # that all weights begin with


class MISSRec(UserEncoder):
    """State (R, 2 * D + 2): the user, a second view of it in training (see `item_drop`), and two `measures` of the memory, summed over the views.

    present (N + 1, M): which modalities an item has, in the order of `modalities`. interests: how clusters are found, or `none`. ratio: clusters
    per token; max_interests: but no more. item_tokens: `sum`, or `separate`, where the user is the mean over the last item's tokens. item_drop:
    share of a history's items left out for the second view; 0: there is none. blend_learns: False keeps blend at 0.
    """

    reads_item_ids = True
    scores_are_cosines = True
    MIN_HISTORY = 1  # of nothing there is nobody to read
    ITEM_DEVIATION = DEVIATION

    def __init__(
        self, *, dim: int, heads: int, layers: int, wide: int, dropout: float, history: int, modalities: Sequence[str], present: torch.Tensor,
        interests: str, ratio: float, max_interests: int = 20_000, item_tokens: str = "sum", item_drop: float = 0.0, blend_learns: bool = True,
    ):  # fmt: skip
        super().__init__()
        self.dim, self.modalities, self.interests, self.item_tokens, self.item_drop = dim, list(modalities), interests, item_tokens, item_drop
        self.content = [i for i, m in enumerate(self.modalities) if m != "ids"]
        self.norm, self.dropout = nn.LayerNorm(dim, eps=EPS), Dropout(dropout)
        self.position = nn.Embedding(history, dim)
        sizes, options = (dim, heads, wide, dropout), {"activation": F.gelu, "layer_norm_eps": EPS, "batch_first": True}
        layer = nn.TransformerEncoderLayer(*sizes, **options)
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(dim, eps=EPS), enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(*sizes, **options), layers, nn.LayerNorm(dim, eps=EPS))
        if interests == "none":  # no memory: the Transformer encoder alone reads the sequence
            self.encoder, self.decoder = None, self.encoder
        for module in list(self.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Dropout):
                    setattr(module, name, Dropout(dropout))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=DEVIATION)
        self.blend = nn.Parameter(torch.zeros(()), requires_grad=blend_learns)
        self.register_buffer("present", present[:, self.content].clone(), persistent=False)
        count = 0 if interests == "none" else min(math.ceil(ratio * int(self.present.sum())), max_interests)
        self.register_buffer("lookup", torch.zeros(self.present.shape, dtype=torch.int64))  # cluster of each token, from 1; 0: there is none
        self.register_buffer("prototypes", torch.zeros(count + 1, dim))  # row 0 is padding

    def split(self, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors (..., M, D) and which are present (..., M), of items as fusion `late` hands them over."""
        count = len(self.modalities)
        if count == 1:  # fusion `single`: an item without content is a vector of zeros
            return items[..., None, :], (items != 0).any(-1, keepdim=True)
        return items[..., :-count].unflatten(-1, (count, self.dim)), items[..., -count:] > 0.5

    @torch.no_grad()
    def on_epoch_start(self, items: torch.Tensor, seed: Sequence[int], resumed: bool) -> None:
        """Finds the clusters anew among the vectors (N + 1, W) of all items; an epoch that goes on keeps those it began with."""
        if resumed or self.interests == "none":
            return
        vectors = self.split(items)[0][:, self.content].float()
        label, centres = CLUSTERS[self.interests](vectors[self.present], len(self.prototypes) - 1, generator_of(seed))
        self.lookup[self.present] = label + 1
        self.prototypes[1:] = centres

    def forward(self, history: torch.Tensor, mask: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """history (R, L, W), mask (R, L), items (R, L) their numbers -> states."""
        user, measured = self.read(history, mask, items)
        if not (self.training and self.item_drop):
            return torch.cat([user, user, measured], 1)
        left = mask & (torch.rand(mask.shape, device=mask.device) >= self.item_drop)
        left = torch.where(left.any(1, keepdim=True), left, mask)  # one item at least has to stay
        order = (~left).long().argsort(dim=1, stable=True)  # items that are left move up
        shortened = history.gather(1, order[..., None].expand_as(history))
        view, measured_view = self.read(shortened, left.gather(1, order), items.gather(1, order))
        return torch.cat([user, view, measured + measured_view], 1)

    def read(self, history: torch.Tensor, mask: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """User (R, D) and the `measures` of the memory (R, 2)."""
        memory, filled = self.remember(items.masked_fill(~mask, 0))  # what is masked has no part
        vectors, has = self.split(history)
        has = has & mask[..., None]
        x = torch.where(has[..., None], vectors, 0)
        if self.item_tokens == "sum":
            x, has = x.sum(2, keepdim=True), has.any(2, keepdim=True)
        mask = mask | (torch.arange(mask.shape[1], device=mask.device) == 0)  # without any history the first position stands alone
        first = torch.arange(has.shape[2], device=mask.device) == 0
        has = has | ((mask & ~has.any(2))[..., None] & first)  # an item without content still has its position
        x = self.dropout(self.norm(x + self.position.weight[: x.shape[1], None]))
        y = self.decode(x.flatten(1, 2), ~has.flatten(1), memory, filled).unflatten(1, has.shape[1:])
        row, last = torch.arange(len(y), device=y.device), mask.sum(1) - 1
        tokens, weight = y[row, last], has[row, last][..., None]
        user = (tokens * weight).sum(1) / weight.sum(1)
        return user, measures(memory, filled, len(self.content) * len(self.position.weight))

    def decode(self, tokens: torch.Tensor, empty: torch.Tensor, memory: torch.Tensor, filled: torch.Tensor) -> torch.Tensor:
        """Tokens (R, T, D), of which some slots are empty (R, T), with a look at the memory, if there ever is one -> (R, T, D)."""
        if self.encoder is None:
            return self.decoder(tokens, src_key_padding_mask=empty)
        return self.decoder(tokens, memory, tgt_key_padding_mask=empty, memory_key_padding_mask=~filled)

    def remember(self, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The different interests that items (R, L) touch, encoded (R, K, D), and which slots hold one; a zero vector where there is none."""
        clusters = self.lookup[items].flatten(1).sort(dim=1, descending=True).values  # item 0, padding, has none
        repeated = F.pad(clusters[:, 1:] == clusters[:, :-1], (1, 0))
        clusters = clusters.masked_fill(repeated, 0).sort(dim=1, descending=True).values
        clusters = clusters[:, : max(int((clusters > 0).sum(1).max()), 1)]
        filled = clusters > 0
        if not filled.any():
            return self.prototypes[clusters], torch.ones_like(filled)
        first = torch.arange(filled.shape[1], device=filled.device) == 0
        visible = filled | (~filled.any(1, keepdim=True) & first)  # attention over nothing is no number
        memory = self.encoder(self.prototypes[clusters], src_key_padding_mask=~visible)
        return torch.where(filled[..., None], memory, 0), visible

    def views(self, states: torch.Tensor) -> dict[str, torch.Tensor]:
        """What auxiliary losses look at, by history."""
        user, view, norm, overlap = states.split([self.dim, self.dim, 1, 1], -1)
        return {"final": user, "second": view, "norm": norm[:, 0], "overlap": overlap[:, 0]}

    def comparable(self, states: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors of users; of items the unit vectors of their modalities, brought together as in `score`. Products are scores if blend is 0."""
        vectors, has = self.split(items)
        unit = F.normalize(vectors, dim=-1)
        content, has = unit[..., self.content, :], has[..., self.content, None]
        mean = (content * has).sum(-2) / has.sum(-2).clamp_min(1)
        return F.normalize(states[..., : self.dim], dim=-1), self.with_id(unit.unbind(-2), mean)

    def with_id(self, parts: Sequence[torch.Tensor], content: torch.Tensor) -> torch.Tensor:
        """`content` together with the id's one of all modalities' `parts`, where there are ids."""
        return (parts[self.modalities.index("ids")] + 2 * content) / 3 if "ids" in self.modalities else content

    def score(self, state: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """(B, ...) x (B, C, W), or (C, W), -> (B, C), between -1 and 1."""
        user = F.normalize(state[..., : self.dim], dim=-1)
        vectors, has = self.split(items)
        by_modality = [products(user, v) for v in F.normalize(vectors, dim=-1).unbind(-2)]
        cosines, has = torch.stack([by_modality[i] for i in self.content], -1), has[..., self.content]
        weight = (self.blend * cosines).masked_fill(~has, torch.finfo(cosines.dtype).min).softmax(-1)
        return self.with_id(by_modality, (cosines * weight * has).sum(-1))


def measures(memory: torch.Tensor, filled: torch.Tensor, slots: int) -> torch.Tensor:
    """(R, 2): the penalty that the released code calls diversity, squared length of the mean interest over D times the share of all `slots` that
    hold one; and what the name says, the mean squared cosine of different interests of a user, 0 where there is but one."""
    count = filled.sum(1)
    mean = (memory * filled[..., None]).sum(1) / count.clamp_min(1)[:, None]
    norm = mean.square().mean(1) * count / slots
    unit = F.normalize(memory, dim=-1) * filled[..., None]
    square = torch.einsum("rkd,rjd->rkj", unit, unit).square()
    off = square.sum((1, 2)) - torch.diagonal(square, dim1=1, dim2=2).sum(1)
    return torch.stack([norm, off / (count * (count - 1)).clamp_min(1)], 1)
