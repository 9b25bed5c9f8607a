"""How does a config become a recommender? For each modality its encoder, on top of lower layers that ran once, or a table; then tower and users."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nrms import NrmsError
from nrms.config.parameters import ROLES
from nrms.config.params_files import resolve
from nrms.config.resolved import Config
from nrms.data.prepare import Tables, load
from nrms.models.items import local_models
from nrms.models.items.encoders import Encoder, Frozen, ImageEncoder, JointEncoder, TextEncoder
from nrms.models.items.feature_cache import cached, cached_layers
from nrms.models.items.frozen_prefix import tune_on_kept_states
from nrms.models.items.fusion import FUSIONS
from nrms.models.items.ids import IdTable
from nrms.models.items.side_network import SideNetwork
from nrms.models.items.tower import ItemTower
from nrms.models.recommender import Recommender
from nrms.models.users import USERS
from nrms.models.users.base import UserEncoder
from nrms.models.users.graphs import Links
from nrms.models.users.late_fusion import LateFusion
from nrms.models.users.missrec import MISSRec
from nrms.runtime.environment import torch_threads
from nrms.runtime.locks import locked


def full_texts(tables: Tables) -> list[str]:
    """Title and the rest of the text of every item, row 0 empty."""
    return [f"{title} {abstract}".strip() for title, abstract in zip(tables.items.title, tables.items.abstract, strict=True)]


@torch_threads(1)
def local_model(role: str, tables: Tables) -> Path:
    """The folder of the small model behind `role`, pre-trained now unless that was done for these items before."""
    items, pixels, cache = tables.items, tables.pixels, tables.folder / "models"
    if role != "bert" and (pixels is None or not pixels.present.any()):
        raise NrmsError(f"The role `{role}` is to be pre-trained on the pictures of {tables.manifest['dataset']}, which has none.")
    parts = [local_model(part, tables) for part in ("bert", "vit")] if role == "blip" else []
    with locked(cache / role):
        if role == "bert":
            return local_models.text_model(full_texts(tables)[1:], cache)
        if role == "vit":
            return local_models.vision_model(pixels.values, pixels.present, items.subcategory, tables.content_digest, cache)
        return local_models.joint_model(*parts, items.title, pixels.values, pixels.present, tables.content_digest, cache)


def make_local_model(role: str, exp: str, dataset: str, seed: int, given: dict[str, Any]) -> None:
    """Pre-trains the small model behind `role` for the data set of an experiment, unless that was done before: what a process of its own can call."""
    config = resolve(exp, dataset, seed, **given)
    local_model(role, load(dataset, config.data))


def build_encoder(modality: str, config: Config, tables: Tables) -> Encoder:
    """The encoder of one modality as it came pre-trained, bound to its content.

    A role of an experiment's file is looked up in the data set's; `local` is pre-trained if need be.
    """
    if modality != "text" and tables.pixels is None:
        raise NrmsError(
            f"{config.exp} reads pictures, but {config.dataset} was prepared without: give `--images FOLDER` to `python -m nrms prepare`."
        )
    role, name = getattr(config, modality), config.model_of(modality)
    if name == "local":
        name = str(local_model(role, tables.without_added))
    options = {"dim": config.dim, "pooling": config.pooling, "query_dim": config.query_dim, "dropout": config.dropout}
    options["role"] = role if role in ROLES else modality
    titles = tables.items.title if config.reads == "title" else full_texts(tables)
    if modality != "image" and not any(title.strip() for title in titles):
        raise NrmsError(
            f"{config.exp} reads titles, but no item of {config.dataset} has one: put a table of items with a column `title` beside the log "
            "(items.tsv) and prepare the data set again."
        )
    if modality == "text":
        return TextEncoder(name, title_tokens=config.title_tokens, **options).bind(titles)
    if modality == "image":
        return ImageEncoder(name, **options).bind(tables.pixels.values, tables.pixels.present)
    encoder = JointEncoder(name, title_tokens=config.title_tokens, **options)
    return encoder.bind(titles, tables.pixels.values, tables.pixels.present)


def without_later_items(items: torch.Tensor, tables: Tables) -> torch.Tensor:
    """The flags `items` (N + 1,), False for items behind the data set's own: vectors are standardised as they were in training."""
    return items.cpu() & (torch.arange(len(items)) < len(tables.without_added.items))


def reference_items(present: torch.Tensor, config: Config, tables: Tables) -> torch.Tensor:
    """The items (N + 1,) over which vectors are standardised: those that are `present`, or all where blank content takes part."""
    return without_later_items(torch.arange(len(present)) > 0 if FUSIONS[config.fusion].wants_blank else present, tables)


def frozen(vectors: np.ndarray, present: torch.Tensor, config: Config, tables: Tables, made_by: int = 0) -> Frozen:
    """A table of vectors (N + 1, W) that were made before training."""
    reference = reference_items(present, config, tables) if config.standardise else None
    options = {"dim": config.dim, "dropout": config.frozen_dropout, "depth": config.depth, "learns": config.features_learn}
    return Frozen(vectors, present, reference, made_by=made_by, **options)


def table_without_encoder(modality: str, config: Config, tables: Tables) -> nn.Module | None:
    """What needs no encoder: a table of ids, or frozen vectors that came with the data. None for everything else."""
    if modality == "ids":
        known = np.bincount(tables.split(config.data).train.items.values, minlength=len(tables.items)) > 0
        return IdTable(torch.from_numpy(known), dim=config.dim)
    if not config.comes_as_vectors(modality):
        return None
    parts = ("text", "image") if modality == "joint" else (modality,)  # side by side they are read together
    vectors = np.concatenate([tables.vectors[name] for name in parts], 1)
    return frozen(vectors, torch.from_numpy(np.any(vectors, axis=1)), config, tables)


def tuned(encoder: Encoder, modality: str, config: Config, tables: Tables) -> nn.Module:
    """`encoder` as the experiment tunes it; or, where no part of it has to run any more, the table that stands in its place."""
    how, cache = config.tuning_of(modality), (tables.content_digest, tables.folder / "features", modality)
    made_by = sum(p.numel() for p in encoder.model.parameters())
    if how == "frozen":
        return frozen(cached(encoder, *cache), encoder.present, config, tables, made_by)
    if how == "side":
        options = {"dim": config.dim, "dropout": config.frozen_dropout, "rank": config.rank, "layers": config.side_layers, "made_by": made_by}
        return SideNetwork([cached_layers(encoder, *cache)], encoder.present, reference_items(encoder.present, config, tables), **options)
    layers = None if how == "full" else config.tuned_layers  # another modality may be tuned by layers
    tune_on_kept_states(encoder, how, cache, layers=layers, modules=config.tuned_modules, rank=config.rank)
    return encoder


def side_across(encoders: dict[str, Encoder], config: Config, tables: Tables) -> SideNetwork:
    """IISAN's third chain, across the modalities of these encoders: for items that have them all."""
    layers = [cached_layers(e, tables.content_digest, tables.folder / "features", modality) for modality, e in encoders.items()]
    present = torch.stack([e.present for e in encoders.values()]).all(0)
    options = {"dim": config.dim, "rank": config.rank, "layers": config.side_layers, "dropout": config.dropout}
    return SideNetwork(layers, present, without_later_items(present, tables), **options)


def draw_small(encoders: dict[str, nn.Module], deviation: float | None) -> None:
    """Draws what makes item vectors anew, with this deviation; None: vectors of ids and of content begin with a length of about one, so that no
    score is large among so many."""
    for encoder in encoders.values():
        if deviation is not None and isinstance(encoder, IdTable):
            nn.init.normal_(encoder.table.weight, std=deviation)
        if hasattr(encoder, "project"):
            unit = (encoder.project.in_features * encoder.project.out_features) ** -0.5
            nn.init.normal_(encoder.project.weight, std=unit if deviation is None else deviation)


def shuffled(present: np.ndarray) -> np.ndarray:
    """For every item the item whose image it gets, (N + 1,): those with an image change places, by a fixed seed."""
    order = np.arange(len(present))
    order[present] = np.random.default_rng(0).permutation(order[present])
    return order


def build_users(config: Config, tables: Tables, encoders: dict[str, nn.Module], width: int) -> UserEncoder:
    """The user encoder of an experiment. width: of the item vectors that it reads."""
    kind, names, options = USERS[config.users], ["dim", "dropout"], {}
    if kind.is_graph:
        train = tables.split(config.data).train
        content = {name: (e.table.detach() * e.present[:, None]).cpu() for name, e in encoders.items() if isinstance(e, Frozen)}
        owner, item = torch.from_numpy(train.items.rows), torch.from_numpy(train.items.values.astype(np.int64))
        links = Links(owner, item, users=len(train), size=len(tables.items), content=content)
        options = {"links": links, "modalities": list(encoders), "width": width, "item_layers": config.item_steps}
        names += ["layers", "neighbours", "image_share", "pruned"]
    elif kind is MISSRec:
        present = torch.stack([e.present.cpu() for e in encoders.values()], 1)
        options = {"modalities": list(encoders), "present": present, "ratio": config.interest_ratio, "layers": config.layers // 2}
        names += ["heads", "history", "wide", "interests", "max_interests", "item_tokens", "item_drop", "blend_learns"]
    else:
        names += ["heads", "history", "query_dim", *(["layers"] if kind.per_position else [])]
    make = partial(kind, **options, **{name: getattr(config, name) for name in names})
    if config.fusion == "late" and not (kind.is_graph or kind is MISSRec):  # these two read modalities singly themselves
        return LateFusion(make, len(encoders))
    return make()


def build(config: Config, tables: Tables, device: torch.device | str = "cpu") -> Recommender:
    """The recommender that `config` describes, on `device`, bound to the items of `tables`, with fresh weights from torch's seed.

    What is frozen is encoded now, there, unless that was done before.
    """
    with torch_threads(config.encoding_threads):
        modules = {modality: table_without_encoder(modality, config, tables) for modality in config.modalities}
        encoders = {modality: build_encoder(modality, config, tables).to(device) for modality, table in modules.items() if table is None}
        modules |= {modality: tuned(encoder, modality, config, tables) for modality, encoder in encoders.items()}
        if len(encoders) > 1 and all(isinstance(module, SideNetwork) for module in modules.values()):
            modules["both"] = side_across(encoders, config, tables)
    if config.data.protocol != "impressions":
        draw_small(modules, USERS[config.users].ITEM_DEVIATION)
    if config.shuffle_images:
        for modality in modules.keys() - {"text", "ids"}:  # a side network across both reads the images' states too
            modules[modality].shuffle(shuffled(tables.pixels.present))
    fusion = FUSIONS[config.fusion](dim=config.dim, modalities=len(modules), dropout=config.modality_dropout)
    users = build_users(config, tables, modules, fusion.width)
    return Recommender(ItemTower(modules, fusion), users, config.repeats).to(device)
