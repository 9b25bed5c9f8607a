"""What do all the item vectors that there are know of who takes what? The checks of probe.py, side by side.

given       vectors that came with the data
encoder     what a role of the data set, bert, vit or blip, says of texts and pictures, not tuned: the features that frozen experiments read
run         the item vectors of a finished run
file        vectors of one's own, one row for each item in the order of data/<dataset>/news.parquet: that of items.tsv
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from nrms import NrmsError
from nrms.config.parameters import Dataset
from nrms.config.params_files import load_dataset, resolve
from nrms.config.resolved import Config
from nrms.data.prepare import Tables, load
from nrms.data.sources.interactions import read_vectors
from nrms.evaluation.probe import half_masked, in_common, probe, random_vectors, re_encoded, together, variants
from nrms.evaluation.ranking import encode_items
from nrms.models.build import build_encoder
from nrms.models.items.feature_cache import cached
from nrms.models.load import find_run, load_run
from nrms.models.recommender import Recommender

ROLES = {"text": "bert", "image": "vit", "joint": "blip"}


@dataclass
class Sets:
    """Sets of vectors (N + 1, W) by name, what each is, and in sentences what there was none of."""

    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)  # names of those that learned from the training part
    absent: list[str] = field(default_factory=list)

    def add(self, vectors: dict[str, np.ndarray], about: str, *, trained: bool = False) -> None:
        self.vectors |= vectors
        self.about |= dict.fromkeys(vectors, about)
        self.trained |= set(vectors) if trained else set()


# where vectors come from ---------------------------------------------------------------------------------------------


def add_given(sets: Sets, tables: Tables) -> None:
    """The vectors that came with the data."""
    if not tables.vectors:
        sets.absent.append("No vectors came with these data.")
    for modality, table in tables.vectors.items():
        sets.add(variants(f"given {modality}", table), f"{modality}.npy, which came with the data")
    sets.add(together(tables.vectors, "given together"), "what came with the data, each centred, side by side")


def frozen(modality: str, dataset: str, data: Dataset) -> Config:
    """An experiment that reads this one modality by the data set's role for it, mean-pooled, and tunes nothing."""
    config = resolve("text_frozen" if data.protocol == "impressions" else "morec_ts_sasrec", dataset)
    return config.model_copy(update={"text": None, "image": None, "joint": None, modality: ROLES[modality], "pooling": "mean"})


def add_encoders(sets: Sets, dataset: str, data: Dataset, tables: Tables) -> None:
    """What the roles of the data set say of its texts and pictures, made now unless that was done before; one that cannot be had is named."""
    parts, device = {}, "cuda" if torch.cuda.is_available() else "cpu"
    for modality, role in ROLES.items():
        content = {"text": any(tables.items.title), "image": tables.pixels is not None and tables.pixels.present.any()}
        if lacking := [kind for kind, is_there in content.items() if not is_there and modality in (kind, "joint")]:
            sets.absent.append(f"Nothing for the role {role} to read: the data set was prepared without {' and '.join(lacking)}s.")
            continue
        try:
            encoder = build_encoder(modality, frozen(modality, dataset, data), tables).to(device)
        except NrmsError as error:
            sets.absent.append(f"The role {role} is left out: {error}")
            continue
        table = cached(encoder, tables.content_digest, tables.folder / "features", modality)
        vectors = np.where(encoder.present.cpu().numpy()[:, None], table, 0)  # the table has the vector of a blank picture where there is none
        source = getattr(data, role)
        about = f"{modality}, by the role {role}: {'pre-trained on this data set' if source == 'local' else source}; not tuned"
        sets.add(variants(role, vectors), about)
        if modality == "joint":
            half = re_encoded(encoder, vectors, half_masked(encoder.content.images.present.cpu().numpy()))
            sets.add(variants(f"{role}, half without image", half), f"{about}; half of the pictured items read by their text alone")
        else:
            parts[role] = vectors
    sets.add(together(parts, " + ".join(parts)), "these encoders, each centred, side by side")


def add_run(sets: Sets, text: str, dataset: str, data: Dataset) -> None:
    """The item vectors of a finished run: of its item tower and, where items are nodes of a graph, those that are scored too.

    Raises NrmsError where there is no such run, or where it has learned from what is asked here.
    """
    run = find_run(text, dataset)
    config, tables, model = load_run(run)
    if differing := [f"{name} {value}" for name, value in config.data.test_settings.items() if value != data.test_settings[name]]:
        raise NrmsError(
            f"{run.folder} has learned from another part of {dataset} ({', '.join(differing)}), so it may know what is asked here: give another run."
        )
    name = f"{run.folder.parent.name}/{run.folder.name}"
    for kind, vectors in vectors_of(model, len(tables.items), late=config.fusion == "late").items():
        about = "items as the graph has them, which is what is scored" if kind else "items as the item tower has them"
        sets.add(variants(f"{name}{kind}", vectors), f"a trained run: {about}", trained=True)


@torch.inference_mode()
def vectors_of(model: Recommender, size: int, *, late: bool) -> dict[str, np.ndarray]:
    """{"": of the item tower, " scored": after the graph, where there is one}, each (N + 1, W). late: flags of what is present stand behind."""
    tower = model.table() if model.users.is_graph else encode_items(model)
    tables = {"": tower[:, : -len(model.items.encoders)] if late else tower}
    if model.users.is_graph:
        tables[" scored"] = encode_items(model)[:size]
    return {kind: vectors.float().cpu().numpy() for kind, vectors in tables.items()}


def add_file(sets: Sets, path: Path, tables: Tables) -> None:
    """Vectors of one's own. Raises NrmsError where rows are not those of the items, and for two files of one name."""
    if not path.is_file():
        raise NrmsError(f"There is no file {path}: give `--vectors` an array of numpy, with one row for each item.")
    if path.name in sets.vectors:
        raise NrmsError(f"Two files are called {path.name}, which is their name on the page: rename one.")
    sets.add(variants(path.name, read_vectors(path, len(tables.items) - 1)), "a file of vectors, one row for each item")


def probe_all(dataset: str, runs: Sequence[str] = (), files: Sequence[Path] = ()) -> tuple[pd.DataFrame, pd.DataFrame | None, Sets]:
    """Probes all vectors of a data set, of these runs and in these files.

    Returns what `probe` found, each set on the items that it has; the same on the items that all have, where that differs; and the sets. Raises
    NrmsError for runs and files that cannot be probed.
    """
    data = load_dataset(dataset)
    tables, sets, by_name = load(dataset, data), Sets(), Sets()
    for path in files:  # what is named first: an error comes before the work
        add_file(by_name, path, tables)
    for run in runs:
        add_run(by_name, run, dataset, data)
    sets.add({"random": random_vectors(len(tables.items))}, "random numbers")
    add_given(sets, tables)
    add_encoders(sets, dataset, data, tables)
    sets.vectors |= by_name.vectors
    sets.about |= by_name.about
    sets.trained |= by_name.trained
    split = tables.split(data)
    table = probe(sets.vectors, split, data)
    common = probe(in_common(sets.vectors), split, data) if table["items"].nunique() > 1 else None
    return table, common, sets
