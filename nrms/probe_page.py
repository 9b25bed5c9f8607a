"""What do all the item vectors that there are know of who takes what? probe.html of a data set: the checks of probe.py, side by side.

given       vectors that came with the data
encoder     what a role of the data set, bert, vit or blip, says of texts and pictures, not tuned: the features that frozen experiments read
run         the item vectors of a finished run
file        vectors of one's own, one row for each item in the order of data/<dataset>/news.parquet: that of items.tsv
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from nrms import NrmsError, figures
from nrms.config import Config, Dataset, load_dataset, resolve
from nrms.data.interactions import read_vectors
from nrms.data.prepare import Tables, load
from nrms.files import atomic
from nrms.items.features import cached
from nrms.metrics import PROTOCOLS
from nrms.probe import HISTORY, K, half_masked, in_common, probe, random_vectors, re_encoded, shown, together, variants
from nrms.ranking import encode_items
from nrms.recommender import Recommender, build_encoder
from nrms.runs import find_run, load_run
from nrms.runtime import home
from nrms.shell import document, links_of

FROZEN = {True: "text_frozen", False: "morec_ts_sasrec"}  # experiments of impressions, or of logs, that read what frozen encoders say
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
    config = resolve(FROZEN[data.protocol == "impressions"], dataset)
    return config.model_copy(update={"text": None, "image": None, "joint": None, modality: ROLES[modality], "pooling": "mean"})


def add_encoders(sets: Sets, dataset: str, data: Dataset, tables: Tables) -> None:
    """What the roles of the data set say of its texts and pictures, made now unless that was done before; one that cannot be had is named."""
    parts, device = {}, "cuda" if torch.cuda.is_available() else "cpu"
    for modality, role in ROLES.items():
        content = {"text": any(tables.news.title), "image": tables.pixels is not None and tables.pixels.present.any()}
        if lacking := [kind for kind, there in content.items() if not there and modality in (kind, "joint")]:
            sets.absent.append(f"Nothing for the role {role} to read: the data set was prepared without {' and '.join(lacking)}s.")
            continue
        try:
            encoder = build_encoder(modality, frozen(modality, dataset, data), tables).to(device)
        except NrmsError as error:
            sets.absent.append(f"The role {role} is left out: {error}")
            continue
        table = cached(encoder, tables.content, tables.folder / "features", modality)
        vectors = np.where(encoder.present.cpu().numpy()[:, None], table, 0)  # the table has the vector of a blank picture where there is none
        made = getattr(data, role)
        about = f"{modality}, by the role {role}: {'pre-trained on this data set' if made == 'local' else made}; not tuned"
        sets.add(variants(role, vectors), about)
        if modality == "joint":
            half = re_encoded(encoder, vectors, half_masked(encoder.content.pictures.present.cpu().numpy()))
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
    if apart := {name: value for name, value in config.data.asked.items() if value != data.asked[name]}:
        says = ", ".join(f"{name} {value}" for name, value in apart.items())
        raise NrmsError(f"{run.folder} has learned from another part of {dataset} ({says}), so it may know what is asked here: give another run.")
    name = f"{run.folder.parent.name}/{run.folder.name}"
    for kind, vectors in vectors_of(model, len(tables.news), late=config.fusion == "late").items():
        about = "items as the graph has them, which is what is scored" if kind else "items as the item tower has them"
        sets.add(variants(f"{name}{kind}", vectors), f"a trained run: {about}", trained=True)


@torch.inference_mode()
def vectors_of(model: Recommender, size: int, *, late: bool) -> dict[str, np.ndarray]:
    """{"": of the item tower, " scored": after the graph, where there is one}, each (N + 1, W). late: flags of what is present stand behind."""
    tower = model.table() if model.users.whole else encode_items(model)
    found = {"": tower[:, : -len(model.items.encoders)] if late else tower}
    if model.users.whole:
        found[" scored"] = encode_items(model)[:size]
    return {kind: vectors.float().cpu().numpy() for kind, vectors in found.items()}


def add_file(sets: Sets, path: Path, tables: Tables) -> None:
    """Vectors of one's own. Raises NrmsError where rows are not those of the items, and for two files of one name."""
    if not path.is_file():
        raise NrmsError(f"There is no file {path}: give `--vectors` an array of numpy, with one row for each item.")
    if path.name in sets.vectors:
        raise NrmsError(f"Two files are called {path.name}, which is their name on the page: rename one.")
    sets.add(variants(path.name, read_vectors(path, len(tables.news) - 1)), "a file of vectors, one row for each item")


# the page ------------------------------------------------------------------------------------------------------------

MEANING = """<ul>
<li><b>zero-shot {label}</b>: {text}, of the test part. Ranked by cosine to the mean of the user's last {history} items; nothing is trained.</li>
<li><b>item-CF overlap@{k}</b>: of the {k} items most taken by the same users (cosine of the sets of users, training part) the share that is among an
item's {k} nearest by vectors (cosine); mean over items that share a user with another; of fewer than {k} such others, all. Ties are drawn.</li>
<li><b>[low, high]</b>: 95 % bootstrap interval of that mean, over {unit}s or items (1,000 resamples). <b>by chance</b>: the expectation for a random
order, or random neighbours, on the same {unit}s and items. <b>random</b>: {width} random numbers for every item, drawn once.</li>
<li><b>items</b>: those that have a vector. Only they are judged and offered: the others are taken out of histories and of what is to be found.
<b>questions</b>: {unit}s of the test part where something is left before, and something to be found{slates}. Rows that cover other items answer other
questions: hold each against its own chance, or compare {table}.</li>
<li><b>centred</b>: without the mean of all items, which in vectors of large models is most of their length; an item that is that mean has none left.
<b>together</b>, <b>+</b>: modalities centred, of length 1, side by side.</li>
<li><b>half without</b>: a fixed half of the items that have a modality and another one has lost it: zeros, or for a joint encoder read anew without
it. A small loss means that the modalities say the same, or that the one lost said little.</li>
<li><b>A trained run</b> has learned from the training part: its item-CF overlap says how well it kept that, and its zero-shot metric is not how the
run itself ranks.</li></ul>
<p>Source: the checks of AlignRec (Liu et al., CIKM 2024), as understood here; ties, chance and coverage are ours.</p>"""


def drawing(table: pd.DataFrame, what: str) -> str:
    """The figure of `table` inside a page; alone it is a file of its own, so what strangers wrote in it is nothing but a drawing."""
    file = io.BytesIO()
    figures.probe(table).savefig(file, format="svg", metadata={"Date": None})
    source = f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
    image = f'<img class="drawing" alt="{escape(what)}" src="{source}">'
    return f'<div class="output_area" tabindex="0" role="region" aria-label="{escape(what)}">{image}</div>'


def as_html(table: pd.DataFrame) -> str:
    """A table of `probe`, chance in small print below what it belongs to."""
    read = shown(table)
    names = [name for name in read if not name.endswith("by chance")]
    head = "".join(f'<th scope="col" class="n">{escape(name)}</th>' for name in ("", *names))
    lines = ""
    for row in read.index:
        chances = {name: read.loc[row, f"{name}, by chance"] for name in names if f"{name}, by chance" in read}
        small = {name: f"<small>by chance {chance}</small>" if chance else "" for name, chance in chances.items()}
        cells = "".join(f'<td class="n">{escape(read.loc[row, name])}{small.get(name, "")}</td>' for name in names)
        lines += f'<tr><th scope="row">{escape(row)}</th>{cells}</tr>'
    found = f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
    return f'<div class="wrap" tabindex="0" role="region" aria-label="every set of vectors">{found}</div>'


def sources(sets: Sets) -> str:
    """Where every set comes from, each source once, and what there was none of."""
    first = {about: name for name, about in reversed(sets.about.items())}
    lines = [f"<b>{escape(first[about])}</b>: {escape(about)}" for about in dict.fromkeys(sets.about.values())]
    return f"<ul>{''.join(f'<li>{line}</li>' for line in [*lines, *map(escape, sets.absent)])}</ul>"


def lead(table: pd.DataFrame, sets: Sets) -> str:
    """Computed sentences: which set that no run has trained ranks best, and which finds most of the neighbours."""
    untrained, says = table.drop(["random", *sets.trained]), []
    for name, what in zip(table.columns[:8:4], ("ranks best", "finds most neighbours"), strict=True):
        if untrained[name].notna().any():
            row = untrained.loc[untrained[name].idxmax()]
            values = f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}], by chance {row[f'{name}, by chance']:.3f}"
            says.append(f"Trained runs left aside, <b>{escape(str(row.name))}</b> {what}: {escape(name)} {values}.")
    return f'<p class="lead">{" ".join(says) or "No vectors to judge but random ones."}</p>'


def page(dataset: str, data: Dataset, sets: Sets, own: pd.DataFrame, common: pd.DataFrame | None) -> str:
    """HTML of probe.html. own: each set on the items that it has; common: on those that all have, where that differs."""
    protocol, reports = PROTOCOLS[data.protocol], home() / "reports"
    label, text = protocol.metrics[protocol.main]
    title, both = f"What do item vectors know of who takes what on {dataset}?", "on the items that all have"
    body = f"<h1>{escape(title)}</h1>{lead(own, sets)}{drawing(own, 'zero-shot metric and item-CF overlap of every set of vectors')}"
    body += f"<h2>Each on the items that it has</h2>{as_html(own)}"
    if common is not None:
        body += f"<h2>All {both}</h2><p>The same checks where every set answers the same questions.</p>{as_html(common)}"
    body += f"<h2>What the vectors are</h2>{sources(sets)}"
    slates = ", and something else in the slate" if data.protocol == "impressions" else ""
    compared = f"in the table {both}" if common is not None else "them here, where all rows cover the same items"
    words = {"label": label, "text": text, "unit": protocol.unit, "slates": slates, "table": compared}
    body += f"<h2>What the numbers mean</h2>{MEANING.format(**{k: escape(v) for k, v in words.items()}, history=HISTORY, k=K, width=64)}"
    links, at = links_of(reports / dataset / "probe.html", reports)
    return document(title, body, links, at=at, kind="text")


def write(dataset: str, runs: Sequence[str] = (), files: Sequence[Path] = ()) -> tuple[pd.DataFrame, Sets, list[Path]]:
    """Probes all vectors of a data set, of these runs and in these files; writes probe.html and probe.csv of its reports.

    Returns what `probe` found, each set on the items that it has, the sets, and the paths. Raises NrmsError for runs and files that cannot be probed.
    """
    data = load_dataset(dataset)
    tables, sets, asked = load(dataset, data), Sets(), Sets()
    for path in files:  # what is asked for by name first: an error comes before the work
        add_file(asked, path, tables)
    for run in runs:
        add_run(asked, run, dataset, data)
    sets.add({"random": random_vectors(len(tables.news))}, "random numbers")
    add_given(sets, tables)
    add_encoders(sets, dataset, data, tables)
    for name, vectors in asked.vectors.items():
        sets.add({name: vectors}, asked.about[name], trained=name in asked.trained)
    split = tables.split(data)
    own = probe(sets.vectors, split, data)
    common = probe(in_common(sets.vectors), split, data) if own["items"].nunique() > 1 else None
    return own, sets, write_files(dataset, data, sets, own, common)


def write_files(dataset: str, data: Dataset, sets: Sets, own: pd.DataFrame, common: pd.DataFrame | None) -> list[Path]:
    folder = home() / "reports" / dataset
    both = [own.assign(on="the items that it has"), *([] if common is None else [common.assign(on="the items that all have")])]
    with atomic(folder / "probe.csv") as part:
        pd.concat(both).rename_axis("vectors").assign(about=lambda t: t.index.map(sets.about)).to_csv(part, float_format="%.6g")
    with atomic(folder / "probe.html") as part:
        part.write_text(page(dataset, data, sets, own, common))
    return [folder / "probe.html", folder / "probe.csv"]
