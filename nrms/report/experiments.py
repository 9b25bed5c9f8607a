"""Which rows does a table of results have? Run folders -> entries: all seeds of one experiment, and which of them may be held against each other.

Reads files only. Seeds are averaged impression by impression before anything else, so an interval is over impressions and a comparison is paired.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from nrms import home
from nrms.config.parameters import TEST_SETTINGS, Dataset
from nrms.evaluation.protocols import PROTOCOLS, Protocol
from nrms.runtime.files import read_json
from nrms.runtime.run_record import Run, members_of, run_folders

KINDS = ("model", "baseline", "ceiling")


@dataclass
class Entry:
    """All seeds of one experiment, baseline or ceiling that have the same values, data and status: one row of every table."""

    dataset: str
    exp: str
    status: str  # see `status`
    seeds: list[int]
    runs: list[Run]
    records: list[dict]  # the run.json of each, as they were when this row was made of them

    @property
    def record(self) -> dict:
        return self.records[0]

    @property
    def kind(self) -> str:
        return self.record.get("kind", "model")

    @property
    def protocol(self) -> Protocol:
        """How it was judged."""
        return PROTOCOLS[self.record.get("protocol", "impressions")]

    @property
    def asked(self) -> dict | None:
        """What of its data set decided which questions were asked; None where a baseline or an ensemble is older than this fact."""
        data = self.record.get("config", {}).get("data")
        return data and {name: data.get(name, Dataset.model_fields[name].default) for name in TEST_SETTINGS}

    @property
    def members(self) -> tuple[str, ...]:
        """Of an ensemble the experiments that it is the mean of, as `members_of` has them; () for all others."""
        return members_of(self.record)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Metrics by impression, mean over seeds, and the columns `in: <slice>` and `auc: <slice>`; index: impression id."""
        paths = [run.folder / "rows.parquet" for run in self.runs]
        columns = [c for c in pq.read_schema(paths[0]).names if c in ("impression", *self.protocol.metrics) or ": " in c]
        tables = [pq.read_table(path, columns=columns).to_pandas().set_index("impression").astype(float) for path in paths]
        return sum(table.reindex(tables[0].index) for table in tables) / len(tables)

    @property
    def main(self) -> pd.Series:
        """The main metric by impression."""
        return self.rows[self.protocol.main]

    def main_of_seed(self) -> dict[int, float]:
        """The mean of the main metric by seed; NaN where there is none."""
        found = {seed: read_json(run.folder / "metrics.json")["all"] for seed, run in zip(self.seeds, self.runs, strict=True)}
        return {seed: np.nan if (mean := means[self.protocol.main]["mean"]) is None else mean for seed, means in found.items()}

    def mean(self, key: str) -> float:
        """Mean over seeds of a number in run.json; NaN where no run has it."""
        values = [record[key] for record in self.records if record.get(key) is not None]
        return float(np.mean(values)) if values else float("nan")


def status(run: Run, dataset: str) -> str:
    """The status of a run; where it is done, `incomplete` without the files of its numbers, and `stale` on other data than are there now."""
    said, manifest = run.status, home() / "data" / dataset / "manifest.json"
    if said == "done" and not all((run.folder / name).exists() for name in ("metrics.json", "rows.parquet")):
        return "incomplete"
    stale = said == "done" and manifest.exists() and run.record.get("data") not in (None, read_json(manifest)["tables"])
    return "stale" if stale else said


def entries(dataset: str | None = None, only: Run | None = None) -> list[Entry]:
    """All rows there are, of one data set or of all: data sets by name, models before baselines before ceilings.

    only: of all the models, this run alone.
    """
    rows: dict[tuple, Entry] = {}
    for folder in run_folders(dataset or "*"):
        run, (name, exp) = Run(folder), folder.parts[-3:-1]
        record = run.record
        if only is None or folder == only.folder or record.get("kind") != "model":
            says = status(run, name)
            row = rows.setdefault((name, exp, says, record.get("family"), str(record.get("data"))), Entry(name, exp, says, [], [], []))
            row.seeds.append(int(folder.name[4:]))
            row.runs.append(run)
            row.records.append(record)
    return sorted(rows.values(), key=lambda e: (e.dataset, KINDS.index(e.kind)))


def most_common(protocols: Iterable[str]) -> str:
    """The most frequent of some names of protocols, of equals the first; `impressions` where there are none."""
    return next((name for name, _ in Counter(protocols).most_common(1)), "impressions")


def protocol_of(dataset: str, found: list[Entry] | None = None) -> Protocol:
    """How a data set is judged: as most of its finished rows are, or most of all where none is; only rows of one protocol are ever compared.

    That of impressions where nothing has been run yet. found: its `entries`, if read already.
    """
    found = entries(dataset) if found is None else found
    return PROTOCOLS[most_common(e.record.get("protocol", "impressions") for e in [e for e in found if e.status == "done"] or found)]


def comparable(dataset: str, found: list[Entry] | None = None) -> list[Entry]:
    """The finished rows of a data set of which the same was asked: by its `protocol_of`, on the same tables, split in the same way, as most have it.

    found: its `entries`, if read already.
    """
    found = entries(dataset) if found is None else found
    rows = [e for e in found if e.status == "done" and e.protocol is protocol_of(dataset, found)]
    return alike(alike(rows, lambda e: e.record.get("data")), lambda e: e.asked)


def alike(rows: list[Entry], fact: Callable[[Entry], dict | None]) -> list[Entry]:
    """Those of the rows of which a fact is what it is of most; one whose record does not say it is taken at its word."""
    known = most_common(str(fact(e)) for e in rows if fact(e))
    return [e for e in rows if not fact(e) or str(fact(e)) == known]


def why_not_comparable(entry: Entry, rows: list[Entry]) -> str:
    """In what a finished row differs from those that are `comparable`, in words: its protocol, what it was asked, or its tables."""
    protocol, other = entry.record.get("protocol", "impressions"), next((e.asked for e in rows if e.asked), {})
    if rows and entry.protocol is not rows[0].protocol:
        return protocol
    return ", ".join(f"{name} {value}" for name, value in (entry.asked or {}).items() if value != other.get(name, value)) or "other data"


def align(a: Entry, b: Entry) -> tuple[np.ndarray, np.ndarray]:
    """The main metric of two entries for the same impressions, in the same order."""
    both = a.main.to_frame("a").join(b.main.to_frame("b"), how="inner")
    return both["a"].to_numpy(), both["b"].to_numpy()
