"""How does the probe of item vectors look? probe.html of a data set.

sets: what was probed, as nrms.evaluation.probe_vectors collects it: `about` says of each name what it is, `trained` names those that learned from the
training part, `absent` says in sentences what there was none of.
"""

import base64
import io
from pathlib import Path

import pandas as pd

from nrms import home
from nrms.config.parameters import Dataset
from nrms.config.params_files import load_dataset
from nrms.evaluation.protocols import PROBE_HISTORY, PROBE_METRICS, PROBE_NEIGHBOURS, PROTOCOLS
from nrms.report import figures
from nrms.report.format import number, with_interval
from nrms.report.pages.layout import document, links_of
from nrms.runtime.files import write_text
from nrms.runtime.templates import render


def metrics_of(table: pd.DataFrame) -> list[str]:
    """The zero-shot metric that a table of `probe` has, and the item-CF overlap."""
    return [name for name in PROBE_METRICS if name in table]


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """What `probe` measured as people read it."""
    columns = {}
    for name in metrics_of(table):
        columns[name] = [with_interval(row, name) for _, row in table.iterrows()]
        columns[f"{name}, by chance"] = [number(value) for value in table[f"{name}, by chance"]]
    for name in ("items", "questions"):
        columns[name] = [f"{n:,} of {of:,}" for n, of in zip(table[name], table[f"all {name}"], strict=True)]
    return pd.DataFrame(columns, index=table.index)


shown = formatted  # as notebooks of 0.1 call it


def drawing(table: pd.DataFrame) -> str:
    """The figure of `table` as an address that holds it: a file of its own, so what strangers wrote in it is nothing but a drawing."""
    file = io.BytesIO()
    figures.probe(table).savefig(file, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"


def best_untrained(table: pd.DataFrame, trained: set[str]) -> list[tuple[str, str, str]]:
    """Of the sets that no run has trained which ranks best, and which finds most of the neighbours: (its name, what it does best, how well)."""
    untrained, best = table.drop(["random", *trained]), []
    for metric, what in zip(metrics_of(table), ("ranks best", "finds most neighbours"), strict=True):
        if untrained[metric].notna().any():
            row = untrained.loc[untrained[metric].idxmax()]
            best.append((str(row.name), what, f"{metric} {with_interval(row, metric)}, by chance {number(row[f'{metric}, by chance'])}"))
    return best


def page(dataset: str, data: Dataset, sets, separate: pd.DataFrame, common: pd.DataFrame | None) -> str:
    """HTML of probe.html. separate: each set on the items that it has; common: on those that all have, where that differs."""
    title = f"What do item vectors know of who takes what on {dataset}?"
    sources: dict[str, str] = {}  # each once, with the first of its names
    for name, about in sets.about.items():
        sources.setdefault(about, name)
    body = render(
        "report/pages/probe.html.j2",
        title=title,
        best=best_untrained(separate, sets.trained),
        drawing=drawing(separate),
        separate=formatted(separate),
        common=None if common is None else formatted(common),
        sources=sources,
        absent=sets.absent,
        protocol=PROTOCOLS[data.protocol],
        history=PROBE_HISTORY,
        neighbours=PROBE_NEIGHBOURS,
    )
    links, location = links_of(home() / "reports" / dataset / "probe.html", home() / "reports")
    return document(title, body, links, location=location, kind="text")


def write(dataset: str, separate: pd.DataFrame, common: pd.DataFrame | None, sets) -> list[Path]:
    """Writes probe.html and probe.csv of a data set, and returns their paths."""
    folder = home() / "reports" / dataset
    tables = {"the items that it has": separate} | ({} if common is None else {"the items that all have": common})
    both = pd.concat([table.assign(on=items) for items, table in tables.items()]).rename_axis("vectors")
    write_text(folder / "probe.csv", both.assign(about=both.index.map(sets.about)).to_csv(float_format="%.6g"))
    write_text(folder / "probe.html", page(dataset, load_dataset(dataset), sets, separate, common))
    return [folder / "probe.html", folder / "probe.csv"]
