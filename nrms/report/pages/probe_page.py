"""How does the probe of item vectors look? probe.html of a data set.

sets: what was probed, as nrms.evaluation.probe_vectors collects it: `about` says of each name what it is, `trained` names those that learned from the
training part, `absent` says in sentences what there was none of.
"""

import base64
import io
from html import escape
from pathlib import Path
from typing import Protocol

import pandas as pd

from nrms import home
from nrms.config.parameters import Dataset
from nrms.config.params_files import load_dataset
from nrms.evaluation.protocols import PROBE_HISTORY, PROBE_METRICS, PROBE_NEIGHBOURS, PROTOCOLS
from nrms.report import figures
from nrms.report.format import number, with_interval
from nrms.report.pages.layout import document, links_of
from nrms.runtime.files import atomic


class Sets(Protocol):
    """What this page needs to know of the sets of vectors."""

    about: dict[str, str]
    trained: set[str]
    absent: list[str]


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """What `probe` found as people read it."""
    made = {}
    for name in (name for name in PROBE_METRICS if name in table):
        made[name] = [with_interval(row, name) for _, row in table.iterrows()]
        made[f"{name}, by chance"] = [number(value) for value in table[f"{name}, by chance"]]
    for name in ("items", "questions"):
        made[name] = [f"{n:,} of {of:,}" for n, of in zip(table[name], table[f"all {name}"], strict=True)]
    return pd.DataFrame(made, index=table.index)


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
    for name, what in zip([name for name in PROBE_METRICS if name in table], ("ranks best", "finds most neighbours"), strict=True):
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
    sizes = {"history": PROBE_HISTORY, "k": PROBE_NEIGHBOURS, "width": 64}
    body += f"<h2>What the numbers mean</h2>{MEANING.format(**{k: escape(v) for k, v in words.items()}, **sizes)}"
    links, at = links_of(reports / dataset / "probe.html", reports)
    return document(title, body, links, at=at, kind="text")


def write(dataset: str, own: pd.DataFrame, common: pd.DataFrame | None, sets: Sets) -> list[Path]:
    """Writes probe.html and probe.csv of a data set, and returns their paths."""
    data, folder = load_dataset(dataset), home() / "reports" / dataset
    both = [own.assign(on="the items that it has"), *([] if common is None else [common.assign(on="the items that all have")])]
    with atomic(folder / "probe.csv") as part:
        pd.concat(both).rename_axis("vectors").assign(about=lambda t: t.index.map(sets.about)).to_csv(part, float_format="%.6g")
    with atomic(folder / "probe.html") as part:
        part.write_text(page(dataset, data, sets, own, common))
    return [folder / "probe.html", folder / "probe.csv"]
