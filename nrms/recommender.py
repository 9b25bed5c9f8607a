"""How do items and users meet? The one contract: an item tower, a user encoder, a scorer.

    items(ids (U,)) -> (U, D)     users(history (B, L, D), mask (B, L)) -> state     users.score(state, candidates (B, C, D)) -> (B, C)

Losses are not here, nor is any file but the pre-trained weights that a role names.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from nrms import NrmsError
from nrms.config import ROLES, Config
from nrms.data.batches import Batch
from nrms.data.prepare import Tables
from nrms.data.tables import Impressions
from nrms.items import pretrain
from nrms.items.encoders import Encoder, Frozen, ImageEncoder, JointEncoder, TextEncoder
from nrms.items.features import cached, cached_layers, cached_states
from nrms.items.fusion import FUSIONS
from nrms.items.side import Side
from nrms.items.tower import ItemTower
from nrms.items.tuning import prefix, rest_on, tune
from nrms.runtime import progress
from nrms.users.attention import NRMSUsers
from nrms.users.blend import Blend
from nrms.users.pointwise import Pointwise, PointwiseUnmasked

USERS = {"nrms": NRMSUsers, "pointwise": Pointwise, "pointwise_unmasked": PointwiseUnmasked}
NUMBERS = 1 << 26  # of user states gathered at a time: bounds memory whatever the length of slates


def distinct(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The different items (U,) of a batch, padding left out, and for every place of its history, then of its candidates, flat, 1 + the number of its
    item, or 0 for padding."""
    ids, place = torch.unique(torch.cat([batch.history.flatten(), batch.candidates.flatten()]), return_inverse=True)  # sorted
    padding = int(ids[0] == 0)
    return ids[padding:], place + (1 - padding)


class Recommender(nn.Module):
    """Scores candidates for users. Each distinct item of a batch is encoded once."""

    def __init__(self, items: nn.Module, users: nn.Module):
        super().__init__()
        self.items, self.users = items, users

    def forward(self, batch: Batch, encode: Callable[[torch.Tensor], torch.Tensor] | None = None) -> tuple[torch.Tensor, int]:
        """Scores (B, C), without meaning where candidate_mask is False; and U, the number of different items.

        encode: in place of the item tower, (U,) -> (U, D).
        """
        ids, place = distinct(batch)
        return self.rank((encode or self.items)(ids), place, batch), len(ids)

    def rank(self, vectors: torch.Tensor, place: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Scores (B, C) from the vectors (U, D) of the batch's items, of which `place` says which stands where; see `distinct`."""
        vectors = torch.cat([vectors.new_zeros(1, vectors.shape[1]), vectors])  # padding is not encoded; its vector is zero
        cut = batch.history.numel()
        history, candidates = (  # (R, L, D), (B, C, D); unlike vectors[place], the gradient of F.embedding is the same in every run
            F.embedding(part.view(shape), vectors) for part, shape in ((place[:cut], batch.history.shape), (place[cut:], batch.candidates.shape))
        )
        return self.users.score(self.users(history, batch.history_mask)[batch.reader], candidates)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable weights by learning-rate group: `encoder` came pre-trained, `head` is new."""
        encoder = self.items.groups()
        known = {id(p) for p in encoder}
        return {"encoder": encoder, "head": [p for p in self.parameters() if p.requires_grad and id(p) not in known]}


def find_role(name: str, config: Config, tables: Tables) -> str:
    """What an encoder name of an experiment file means for this data set: a role is looked up there, `local` is pre-trained if need be."""
    meant = getattr(config.data, name) if name in ROLES else name
    return str(local_model(name, tables)) if meant == "local" else meant


def local_model(role: str, tables: Tables) -> Path:
    """The folder of the small model behind `role`, pre-trained now unless that was done for these news before."""
    news, pixels, cache = tables.news, tables.pixels, tables.folder / "models"
    if role == "bert":
        return pretrain.text_model([f"{title} {abstract}".strip() for title, abstract in zip(news.title[1:], news.abstract[1:], strict=True)], cache)
    if pixels is None or not pixels.present.any():
        raise NrmsError(f"The role `{role}` is to be pre-trained on the pictures of {tables.manifest['dataset']}, which has none.")
    if role == "vit":
        return pretrain.vision_model(pixels.values, pixels.present, news.subcategory, tables.content, cache)
    bert, vit = local_model("bert", tables), local_model("vit", tables)
    return pretrain.joint_model(bert, vit, news.title, pixels.values, pixels.present, tables.content, cache)


def shuffled(present: np.ndarray) -> np.ndarray:
    """For every item the item whose picture it gets, (N + 1,): those with a picture change places, by a fixed seed."""
    order = np.arange(len(present))
    order[present] = np.random.default_rng(0).permutation(order[present])
    return order


def build_encoder(modality: str, config: Config, tables: Tables) -> Encoder:
    """The encoder of one modality as it came pre-trained, bound to its content."""
    options = {"dim": config.dim, "pooling": config.pooling, "query_dim": config.query_dim, "dropout": config.dropout}
    role = getattr(config, modality)
    if modality != "text" and tables.pixels is None:
        raise NrmsError(
            f"{config.exp} reads pictures, but {config.dataset} was prepared without: give `--images FOLDER` to `python -m nrms prepare`."
        )
    name, named = find_role(role, config, tables), {"role": role if role in ROLES else modality}
    if modality == "text":
        encoder = TextEncoder.from_pretrained(name, **named, title_tokens=config.title_tokens, **options).bind(tables.news.title)
    elif modality == "image":
        encoder = ImageEncoder.from_pretrained(name, **named, **options).bind(tables.pixels.values, tables.pixels.present)
    else:
        encoder = JointEncoder.from_pretrained(name, **named, title_tokens=config.title_tokens, **options)
        encoder.bind(tables.news.title, tables.pixels.values, tables.pixels.present)
    return encoder


def tuned(encoder: Encoder, modality: str, config: Config, tables: Tables) -> nn.Module:
    """`encoder` as the experiment tunes it; or, where no part of it has to run any more, what stands in its place."""
    how, cache = config.tuning_of(modality), (tables.content, tables.folder / "features", modality)
    used = torch.arange(len(encoder.present)) > 0 if FUSIONS[config.fusion].wants_blank else encoder.present
    sizes = {"dim": config.dim, "dropout": config.dropout, "made_by": sum(p.numel() for p in encoder.model.parameters())}
    if how == "frozen":
        return Frozen(cached(encoder, *cache), encoder.present, used, **sizes)
    if how == "side":
        return Side([cached_layers(encoder, *cache)], encoder.present, used, rank=config.rank, **sizes)
    layers = None if how == "full" else config.tuned_layers  # another modality may be tuned by layers
    below = prefix(encoder, layers)
    states = cached_states(encoder, below, *cache) if below else None
    encoder.report = tune(encoder, how, layers=layers, modules=config.tuned_modules, rank=config.rank)
    if states is not None:
        rest_on(encoder, states, below)
    if layers:
        lower = f"the states below layer {below + 1} were made once" if below else "lower layers run every time, without gradients"
        encoder.report = replace(encoder.report, below=lower)
    return encoder


def build(config: Config, tables: Tables, device: torch.device | str = "cpu") -> Recommender:
    """The recommender that `config` describes, on `device`, bound to the news of `tables`, with fresh weights from torch's seed.

    What is frozen is encoded now, there, unless that was done before.
    """
    plain = {modality: build_encoder(modality, config, tables).to(device) for modality in config.modalities}
    encoders = {modality: tuned(encoder, modality, config, tables) for modality, encoder in plain.items()}
    if len(plain) > 1 and all(isinstance(e, Side) for e in encoders.values()):  # IISAN's third chain, across both
        layers = [cached_layers(plain[m], tables.content, tables.folder / "features", m) for m in plain]
        both = torch.stack([e.present for e in plain.values()]).all(0)
        encoders["both"] = Side(layers, both, both, dim=config.dim, rank=config.rank, dropout=config.dropout)
    if config.shuffle_images:
        for name in encoders.keys() - {"text"}:  # a side network across both reads the pictures' states too
            encoders[name].shuffle(shuffled(tables.pixels.present))
    fusion = FUSIONS[config.fusion](dim=config.dim, modalities=len(encoders), dropout=config.modality_dropout)
    names = ("dim", "heads", "query_dim", "dropout", "history")
    make = partial(USERS[config.users], **{name: getattr(config, name) for name in names})
    users = Blend(make, len(encoders)) if config.fusion == "late" else make()
    return Recommender(ItemTower(encoders, fusion), users).to(device)


@torch.inference_mode()
def encode_items(model: Recommender, batch: int = 1024, ids: torch.Tensor | None = None) -> torch.Tensor:
    """Vectors of all items (N + 1, D), or of these alone and zeros for the others; row 0 zero. In order of length, so that padding costs little."""
    model.eval()
    lengths = model.items.lengths
    ids = torch.arange(1, len(lengths), device=lengths.device) if ids is None else ids
    order = ids[lengths[ids].argsort()]
    vectors = [model.items(some) for some in progress(order.split(batch), "encoding news")]
    table = vectors[0].new_zeros(len(lengths), vectors[0].shape[1])
    return table.index_copy(0, order, torch.cat(vectors))


@torch.inference_mode()
def score_impressions(model: Recommender, impressions: Impressions, history: int, batch: int = 1024) -> np.ndarray:
    """Scores of all candidates, flat like impressions.candidates.values, float32. `history`: most recent clicks that are read."""
    return rank_impressions(model, encode_items(model), impressions, history, batch)


@torch.inference_mode()
def rank_impressions(model: Recommender, vectors: torch.Tensor, impressions: Impressions, history: int, batch: int = 1024) -> np.ndarray:
    """`score_impressions`, given the vectors of all items (N + 1, D)."""
    model.eval()
    flat = np.empty(len(impressions.candidates.values), np.float32)
    rows = np.argsort(impressions.reader, kind="stable")
    for part in progress(np.array_split(rows, -(-len(rows) // batch)), "scoring users"):
        _, first, reader = np.unique(impressions.reader[part], return_index=True, return_inverse=True)
        past, mask = (torch.from_numpy(x).to(vectors.device) for x in impressions.history.pad(part[first], history))
        users = model.users(vectors[past.long()], mask)  # (R, ...): each history once
        at = impressions.candidates.index(part)
        owner = np.repeat(reader, impressions.candidates.lengths[part])
        size = max(1, NUMBERS // users[0].numel())
        for begin in range(0, len(at), size):
            piece = slice(begin, begin + size)
            items = vectors[torch.from_numpy(impressions.candidates.values[at[piece]]).to(vectors.device).long()]
            flat[at[piece]] = model.users.score(users[owner[piece]], items[:, None])[:, 0].float().cpu().numpy()
    return flat
