"""How do items and users meet? The one contract: an item tower, a user encoder, a scorer.

    items(ids (U,)) -> (U, D)     users(history (B, L, D), mask (B, L)) -> (B, D)     score(user, candidates) -> (B, C)

Losses are not here, nor is any file but the pre-trained weights that a role names.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from nrms import NrmsError
from nrms.config import Config
from nrms.data.batches import Batch
from nrms.data.prepare import Tables
from nrms.data.tables import Impressions
from nrms.items import pretrain
from nrms.items.encoders import Frozen, ImageEncoder, ItemTower, TextEncoder
from nrms.items.features import cached
from nrms.items.fusion import FUSIONS
from nrms.runtime import progress
from nrms.users.attention import NRMSUsers

USERS = {"nrms": NRMSUsers}


class Recommender(nn.Module):
    """Scores candidates for users. Each distinct item of a batch is encoded once."""

    def __init__(self, items: nn.Module, users: nn.Module):
        super().__init__()
        self.items, self.users = items, users

    def forward(self, batch: Batch) -> tuple[torch.Tensor, int]:
        """Scores (B, C), without meaning where candidate_mask is False; and U, the number of items encoded."""
        ids, place = torch.unique(torch.cat([batch.history, batch.candidates], 1), return_inverse=True)  # sorted (U,), (B, L + C)
        padding = int(ids[0] == 0)  # item 0 is not encoded; its vector is zero
        vectors = self.items(ids[padding:])
        if padding:
            vectors = torch.cat([vectors.new_zeros(1, vectors.shape[1]), vectors])
        gathered = F.embedding(place, vectors)  # (B, L + C, D); unlike vectors[place], its gradient is the same in every run
        history, candidates = gathered.split([batch.history.shape[1], batch.candidates.shape[1]], 1)  # (B, L, D), (B, C, D)
        return self.score(self.users(history, batch.history_mask), candidates), len(ids) - padding

    @staticmethod
    def score(user: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """(B, D) x (B, C, D) -> (B, C): the dot product over sqrt(D), so that untrained scores are of order one whatever D."""
        return torch.einsum("bd,bcd->bc", user, items) * user.shape[-1] ** -0.5

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable weights by learning-rate group: `encoder` came pre-trained, `head` is new."""
        encoder = self.items.groups()
        known = {id(p) for p in encoder}
        return {"encoder": encoder, "head": [p for p in self.parameters() if p.requires_grad and id(p) not in known]}


def find_role(name: str, config: Config, tables: Tables) -> str:
    """What an encoder name of an experiment file means for this data set: a role is looked up there, `local` is pre-trained if need be."""
    role, name = name, getattr(config.data, name) if name in ("bert", "vit") else name
    cache = tables.folder / "models"
    if name != "local":
        return name
    if role == "bert":
        texts = [f"{title} {abstract}".strip() for title, abstract in zip(tables.news.title[1:], tables.news.abstract[1:], strict=True)]
        return str(pretrain.text_model(texts, cache))
    return str(pretrain.vision_model(tables.pixels.values, tables.pixels.present, tables.news.subcategory, tables.content, cache))


def shuffled(present: np.ndarray) -> np.ndarray:
    """For every item the item whose picture it gets, (N + 1,): those with a picture change places, by a fixed seed."""
    order = np.arange(len(present))
    order[present] = np.random.default_rng(0).permutation(order[present])
    return order


def build_encoder(modality: str, config: Config, tables: Tables) -> nn.Module:
    """The encoder of one modality, bound to its content: trainable, or frozen and looked up."""
    options = {"dim": config.dim, "pooling": config.pooling, "query_dim": config.query_dim, "dropout": config.dropout}
    name = find_role(getattr(config, modality), config, tables) if modality == "text" or tables.pixels else ""
    if modality == "text":
        encoder = TextEncoder.from_pretrained(name, title_tokens=config.title_tokens, **options).bind(tables.news.title)
    elif tables.pixels is None:
        raise NrmsError(
            f"{config.exp} reads pictures, but {config.dataset} was prepared without: give `--images FOLDER` to `python -m nrms prepare`."
        )
    else:
        encoder = ImageEncoder.from_pretrained(name, **options).bind(tables.pixels.values, tables.pixels.present)
    if config.tuning == "full":
        return encoder
    features = cached(encoder, tables.content, tables.folder / "features", modality)
    used = torch.arange(len(features)) > 0 if FUSIONS[config.fusion].wants_blank else encoder.present
    return Frozen(features, encoder.present, used, dim=config.dim, dropout=config.dropout)


def build(config: Config, tables: Tables) -> Recommender:
    """The recommender that `config` describes, bound to the news of `tables`, with fresh weights from torch's seed."""
    encoders = {modality: build_encoder(modality, config, tables) for modality in config.modalities}
    if config.shuffle_images:
        encoders["image"].shuffle(shuffled(tables.pixels.present))
    fusion = FUSIONS[config.fusion](dim=config.dim, modalities=len(encoders), dropout=config.modality_dropout)
    users = USERS[config.users](dim=config.dim, heads=config.heads, query_dim=config.query_dim, dropout=config.dropout)
    return Recommender(ItemTower(encoders, fusion), users)


@torch.inference_mode()
def encode_items(model: Recommender, batch: int = 1024) -> torch.Tensor:
    """Vectors of all items (N + 1, D), row 0 zero; encoded in order of length, so that padding costs little."""
    model.eval()
    order = model.items.lengths[1:].argsort() + 1
    vectors = [model.items(ids) for ids in progress(order.split(batch), "encoding news")]
    table = vectors[0].new_zeros(len(order) + 1, vectors[0].shape[1])
    return table.index_copy(0, order, torch.cat(vectors))


@torch.inference_mode()
def score_impressions(model: Recommender, impressions: Impressions, history: int, batch: int = 1024) -> np.ndarray:
    """Scores of all candidates, flat like impressions.candidates.values, float32. `history`: most recent clicks that are read."""
    vectors = encode_items(model)
    flat = np.empty(len(impressions.candidates.values), np.float32)
    rows = np.arange(len(impressions))
    for part in progress(np.array_split(rows, -(-len(rows) // batch)), "scoring users"):
        past, mask = (torch.from_numpy(x).to(vectors.device) for x in impressions.history.pad(part, history))
        users = model.users(vectors[past.long()], mask)  # (B, D)
        at = impressions.candidates.index(part)
        owner = np.repeat(np.arange(len(part)), impressions.candidates.lengths[part])
        for begin in range(0, len(at), 1 << 18):  # bounds memory whatever the length of slates
            piece = slice(begin, begin + (1 << 18))
            items = vectors[torch.from_numpy(impressions.candidates.values[at[piece]]).to(vectors.device).long()]
            flat[at[piece]] = model.score(users[owner[piece]], items[:, None])[:, 0].float().cpu().numpy()
    return flat
