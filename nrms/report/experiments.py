"""Which rows does a table of results have? Run folders -> systems: all seeds of one experiment, and which of them may be held against each other.

Reads files only. Two of them are compared on the same impressions, by the means over seeds of each; both seeds and users vary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mode

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from nrms import home
from nrms.config.parameters import TEST_SETTINGS, Dataset
from nrms.evaluation.protocols import PROTOCOLS, Protocol
from nrms.evaluation.statistics import Comparison, compare_all
from nrms.runtime.files import read_json
from nrms.runtime.run_record import Run, members_of, run_folders

KINDS = ("model", "baseline", "ceiling")


@dataclass(eq=False)
class System:
    """What is compared: all seeds of one experiment, ensemble, baseline or ceiling that have the same values, data and status. One row of a table."""

    dataset: str
    exp: str
    status: str  # see `status_of`
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
    def seed_names(self) -> str:
        """As tables have them: `0 1`."""
        return " ".join(map(str, self.seeds))

    @property
    def protocol(self) -> Protocol:
        """How it was evaluated."""
        return PROTOCOLS[self.record.get("protocol", "impressions")]

    @property
    def test_settings(self) -> dict | None:
        """What of its data set decided which queries its test has; None where a baseline or an ensemble is older than this fact."""
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

    def of_seeds(self, column: str, index: pd.Index) -> np.ndarray:
        """(n, S) the values of one column of `rows` for n impressions, by seed; NaN where there is none."""
        tables = [pq.read_table(run.folder / "rows.parquet", columns=["impression", column]).to_pandas() for run in self.runs]
        return np.column_stack([table.set_index("impression")[column].astype(float).reindex(index).to_numpy() for table in tables])

    @cached_property
    def users(self) -> pd.Series:
        """Whose impressions they are, users as numbers; of a run that does not say it, each is another user's."""
        path = self.runs[0].folder / "rows.parquet"
        names = [name for name in ("impression", "user") if name in pq.read_schema(path).names]
        table = pq.read_table(path, columns=names).to_pandas()
        return pd.Series(pd.factorize(table[names[-1]])[0], table["impression"])

    @property
    def learns(self) -> bool:
        """Whether another seed would have made it another."""
        return self.kind == "model"

    @property
    def main(self) -> pd.Series:
        """The main metric by impression."""
        return self.rows[self.protocol.main]

    def main_of_seed(self) -> dict[int, float]:
        """The mean of the main metric by seed; NaN where there is none."""
        means = [read_json(run.folder / "metrics.json")["all"][self.protocol.main]["mean"] for run in self.runs]
        return {seed: np.nan if mean is None else mean for seed, mean in zip(self.seeds, means, strict=True)}

    def mean(self, key: str) -> float:
        """Mean over seeds of a number in run.json; NaN where no run has it."""
        values = [record[key] for record in self.records if record.get(key) is not None]
        return float(np.mean(values)) if values else np.nan


def status_of(run: Run, dataset: str) -> str:
    """The status of a run; where it is done, `incomplete` without the files of its numbers, and `stale` on other data than are there now."""
    status, manifest = run.status, home() / "data" / dataset / "manifest.json"
    if status != "done":
        return status
    if not all((run.folder / name).exists() for name in ("metrics.json", "rows.parquet")):
        return "incomplete"
    return "stale" if manifest.exists() and run.record.get("data") not in (None, read_json(manifest)["tables"]) else "done"


def read_systems(dataset: str | None = None, only: Run | None = None) -> list[System]:
    """All rows there are, of one data set or of all: data sets by name, models before baselines before ceilings.

    only: of all the models, this run alone.
    """
    systems: dict[tuple, System] = {}
    for folder in run_folders(dataset or "*"):
        run, (name, exp) = Run(folder), folder.parts[-3:-1]
        record = run.record
        if only is not None and folder != only.folder and record.get("kind") == "model":
            continue
        status = status_of(run, name)
        key = (name, exp, status, record.get("family"), str(record.get("data")))
        system = systems.setdefault(key, System(name, exp, status, [], [], []))
        system.seeds.append(int(folder.name[4:]))
        system.runs.append(run)
        system.records.append(record)
    return sorted(systems.values(), key=lambda s: (s.dataset, KINDS.index(s.kind)))


def protocol_of(dataset: str, systems: Sequence[System] | None = None) -> Protocol:
    """How a data set is judged: as most of its finished rows are, or most of all where none is; only rows of one protocol are ever compared.

    That of impressions where nothing has been run yet. systems: all of the data set, if read already.
    """
    systems = read_systems(dataset) if systems is None else systems
    names = [s.protocol.name for s in systems if s.status == "done"] or [s.protocol.name for s in systems]
    return PROTOCOLS[mode(names or ["impressions"])]


def comparable(dataset: str, systems: Sequence[System] | None = None) -> list[System]:
    """The finished rows of a data set whose test is the same: by its `protocol_of`, on the same tables, split in the same way, as most have it.

    systems: all of the data set, if read already.
    """
    systems = read_systems(dataset) if systems is None else systems
    protocol = protocol_of(dataset, systems)
    finished = [s for s in systems if s.status == "done" and s.protocol is protocol]
    return alike(alike(finished, lambda s: s.record.get("data")), lambda s: s.test_settings)


def alike(systems: list[System], fact: Callable[[System], dict | None]) -> list[System]:
    """Those of which a fact is what it is of most; one whose record does not say it is taken at its word."""
    usual = mode([str(fact(s)) for s in systems if fact(s)] or [""])
    return [s for s in systems if not fact(s) or str(fact(s)) == usual]


def why_not_comparable(system: System, systems: Sequence[System]) -> str:
    """In what a finished row differs from those that are `comparable`, in words: its protocol, the settings of its test, or its tables."""
    if systems and system.protocol is not systems[0].protocol:
        return system.protocol.name
    usual = ([s.test_settings for s in systems if s.test_settings] or [{}])[0]
    settings = (system.test_settings or {}).items()
    return ", ".join(f"{name} {value}" for name, value in settings if value != usual.get(name, value)) or "other data"


def compare(a: System, b: System) -> Comparison:
    """The main metric of `a` minus that of `b`, on the impressions that both have."""
    samples = [s.of_seeds(s.protocol.main, a.users.index) for s in (a, b)]
    return compare_all(samples, [a.learns, b.learns], a.users.to_numpy())[0, 1]


def compare_slices(systems: Sequence[System]) -> dict[str, dict[tuple[int, int], Comparison]]:
    """{slice: comparison of the main metric of every two systems i < j, on the impressions of the first one that both have}. `all` first.

    A slice of impressions is one that the first system has; one of candidates, with metrics of its own, one that all have.
    """
    main, rows = systems[0].protocol.main, systems[0].rows
    learns, users = [s.learns for s in systems], systems[0].users.to_numpy()
    samples = [s.of_seeds(main, rows.index) for s in systems]
    comparisons = {"all": compare_all(samples, learns, users)}
    for column in rows.columns:
        kind, _, name = column.partition(": ")
        if kind == "in":
            where = rows[column].to_numpy() > 0.5
            comparisons[name] = compare_all([sample[where] for sample in samples], learns, users[where])
        elif kind == main and name and all(column in s.rows for s in systems):
            comparisons[name] = compare_all([s.of_seeds(column, rows.index) for s in systems], learns, users)
    return comparisons
