"""How does a config become a recommender? Its encoders with their tuning, its item tower, its user encoder."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nrms import NrmsError
from nrms.config.parameters import ROLES
from nrms.config.resolved import Config
from nrms.data.prepare import Tables
from nrms.models.items import local_models
from nrms.models.items.encoders import Encoder, Frozen, ImageEncoder, JointEncoder, TextEncoder
from nrms.models.items.feature_cache import cached, cached_layers
from nrms.models.items.fine_tuning import tune
from nrms.models.items.frozen_prefix import cached_states, prefix, rest_on
from nrms.models.items.fusion import FUSIONS
from nrms.models.items.ids import IdTable
from nrms.models.items.side_network import Side
from nrms.models.items.tower import ItemTower
from nrms.models.recommender import Recommender
from nrms.models.users import USERS
from nrms.models.users.base import UserEncoder
from nrms.models.users.graphs import Links
from nrms.models.users.late_fusion import LateFusion
from nrms.models.users.missrec import MISSRec
from nrms.runtime.locks import locked


def whole_texts(tables: Tables) -> list[str]:
    """Title and the rest of the text of every item, row 0 empty."""
    return [f"{title} {abstract}".strip() for title, abstract in zip(tables.items.title, tables.items.abstract, strict=True)]


def find_role(name: str, config: Config, tables: Tables) -> str:
    """What an encoder name of an experiment file means for this data set: a role is looked up there, `local` is pre-trained if need be."""
    meant = getattr(config.data, name) if name in ROLES else name
    return str(local_model(name, tables.own)) if meant == "local" else meant


def local_model(role: str, tables: Tables) -> Path:
    """The folder of the small model behind `role`, pre-trained now unless that was done for these news before."""
    news, pixels, cache = tables.items, tables.pixels, tables.folder / "models"
    if role == "bert":
        with locked(cache / role):
            return local_models.text_model(whole_texts(tables)[1:], cache)
    if pixels is None or not pixels.present.any():
        raise NrmsError(f"The role `{role}` is to be pre-trained on the pictures of {tables.manifest['dataset']}, which has none.")
    if role == "vit":
        with locked(cache / role):
            return local_models.vision_model(pixels.values, pixels.present, news.subcategory, tables.content_digest, cache)
    bert, vit = local_model("bert", tables), local_model("vit", tables)
    with locked(cache / role):
        return local_models.joint_model(bert, vit, news.title, pixels.values, pixels.present, tables.content_digest, cache)


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
    titles = tables.items.title if config.reads == "title" else whole_texts(tables)
    if modality == "text":
        encoder = TextEncoder.from_pretrained(name, **named, title_tokens=config.title_tokens, **options).bind(titles)
    elif modality == "image":
        encoder = ImageEncoder.from_pretrained(name, **named, **options).bind(tables.pixels.values, tables.pixels.present)
    else:
        encoder = JointEncoder.from_pretrained(name, **named, title_tokens=config.title_tokens, **options)
        encoder.bind(titles, tables.pixels.values, tables.pixels.present)
    return encoder


def own(items: torch.Tensor, tables: Tables) -> torch.Tensor:
    """The flags `items` (N + 1,), False for news behind the data set's own: vectors are standardised as they were in training."""
    return items.cpu() & (torch.arange(len(items)) < len(tables.own.items))


def tuned(encoder: Encoder, modality: str, config: Config, tables: Tables) -> nn.Module:
    """`encoder` as the experiment tunes it; or, where no part of it has to run any more, what stands in its place."""
    how, cache = config.tuning_of(modality), (tables.content_digest, tables.folder / "features", modality)
    used = own(torch.arange(len(encoder.present)) > 0 if FUSIONS[config.fusion].wants_blank else encoder.present, tables)
    sizes = {"dim": config.dim, "dropout": config.frozen_dropout, "made_by": sum(p.numel() for p in encoder.model.parameters())}
    if how == "frozen":
        options = {"depth": config.depth, "learns": config.features_learn}
        return Frozen(cached(encoder, *cache), encoder.present, used if config.standardise else None, **options, **sizes)
    if how == "side":
        return Side([cached_layers(encoder, *cache)], encoder.present, used, rank=config.rank, layers=config.side_layers, **sizes)
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


def stand_in(modality: str, config: Config, tables: Tables) -> nn.Module | None:
    """What needs no encoder: a table of ids, or frozen vectors that came with the data. None for everything else."""
    if modality == "ids":
        known = np.zeros(len(tables.items), bool)
        known[tables.split(config.data).train.items.values] = True
        return IdTable(torch.from_numpy(known), dim=config.dim)
    needed = ("text", "image") if modality == "joint" else (modality,)  # side by side they are read together
    if set(needed) <= set(config.data.given) and config.tuning_of(modality) == "frozen":
        table = np.concatenate([tables.vectors[name] for name in needed], 1)
        present = torch.from_numpy(np.any(table, axis=1))
        used = own(torch.arange(len(present)) > 0 if FUSIONS[config.fusion].wants_blank else present, tables)
        options = {"dim": config.dim, "dropout": config.frozen_dropout, "depth": config.depth, "learns": config.features_learn}
        return Frozen(table, present, used if config.standardise else None, **options)
    return None


def build(config: Config, tables: Tables, device: torch.device | str = "cpu") -> Recommender:
    """The recommender that `config` describes, on `device`, bound to the news of `tables`, with fresh weights from torch's seed.

    What is frozen is encoded now, there, unless that was done before.
    """
    ready = {modality: stand_in(modality, config, tables) for modality in config.modalities}
    plain = {modality: build_encoder(modality, config, tables).to(device) for modality, encoder in ready.items() if encoder is None}
    encoders = {modality: encoder or tuned(plain[modality], modality, config, tables) for modality, encoder in ready.items()}
    if len(plain) > 1 and all(isinstance(e, Side) for e in encoders.values()):  # IISAN's third chain, across both
        layers = [cached_layers(plain[m], tables.content_digest, tables.folder / "features", m) for m in plain]
        both = torch.stack([e.present for e in plain.values()]).all(0)
        encoders["both"] = Side(layers, both, own(both, tables), dim=config.dim, rank=config.rank, layers=config.side_layers, dropout=config.dropout)
    if config.data.protocol != "impressions":
        start_small(encoders, USERS[config.users].ITEM_DEVIATION)
    if config.shuffle_images:
        for name in encoders.keys() - {"text", "ids"}:  # a side network across both reads the pictures' states too
            encoders[name].shuffle(shuffled(tables.pixels.present))
    fusion = FUSIONS[config.fusion](dim=config.dim, modalities=len(encoders), dropout=config.modality_dropout)
    return Recommender(ItemTower(encoders, fusion), build_users(config, tables, encoders, fusion.width), config.repeats).to(device)


def start_small(encoders: dict[str, nn.Module], deviation: float | None) -> None:
    """Draws what makes item vectors anew, with this deviation; None: vectors of ids and of content begin with a length of about one, so that no
    score is large among so many."""
    for encoder in encoders.values():
        if deviation is not None and isinstance(encoder, IdTable):
            nn.init.normal_(encoder.table.weight, std=deviation)
        if hasattr(encoder, "project"):
            own = (encoder.project.in_features * encoder.project.out_features) ** -0.5
            nn.init.normal_(encoder.project.weight, std=own if deviation is None else deviation)


def build_users(config: Config, tables: Tables, encoders: dict[str, nn.Module], width: int) -> UserEncoder:
    """The user encoder of an experiment. width: of the item vectors that it is given."""
    kind, names = USERS[config.users], ["dim", "dropout"]
    if kind.is_graph:
        train = tables.split(config.data).train
        content = {name: (e.table.detach() * e.present[:, None]).cpu() for name, e in encoders.items() if isinstance(e, Frozen)}
        facts = (train.items.rows, train.items.values.astype(np.int64))
        links = Links(*map(torch.from_numpy, facts), users=len(train), size=len(tables.items), content=content)
        options = {"links": links, "modalities": list(encoders), "width": width, "item_layers": config.item_steps}
        names += ["layers", "neighbours", "image_share", "pruned"]
        return kind(**options, **{name: getattr(config, name) for name in names})
    names += ["heads", "history"]
    if kind is MISSRec:
        present = torch.stack([e.present.cpu() for e in encoders.values()], 1)
        options = {"modalities": list(encoders), "present": present, "ratio": config.interest_ratio, "layers": config.layers // 2}
        names += ["wide", "interests", "max_interests", "item_tokens", "item_drop", "blend_learns"]
        return kind(**options, **{name: getattr(config, name) for name in names})
    names += ["query_dim", *(["layers"] if kind.per_position else [])]
    make = partial(kind, **{name: getattr(config, name) for name in names})
    return LateFusion(make, len(encoders)) if config.fusion == "late" else make()
