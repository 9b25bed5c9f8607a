"""What came out? Systems -> tables. Reads files only: no model, no GPU."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from nrms.evaluation.protocols import BEYOND, DIAGNOSTICS
from nrms.evaluation.statistics import FEWEST_SEEDS, intervals
from nrms.report.experiments import System, comparable, compare, protocol_of, read_systems
from nrms.report.format import bracketed, name_only, number, p_value, thousands, with_interval
from nrms.report.interval_cache import Numbers, numbers_of
from nrms.runtime.files import read_json
from nrms.runtime.run_record import Run, members_of

COSTS = ["params", "trainable", "minutes", "peak_mb"]
FIRST = ["dataset", "exp", "kind", "seeds", "status", "auc", "auc_low", "auc_high", "mrr", "ndcg5", "ndcg10", *COSTS]
DIFFERENCES = ["difference", "difference_low", "difference_high", "p", "detectable", "earned", "baseline"]


def inputs(record: dict) -> str:
    """What a model read, and the values that were given by hand; of an ensemble its members."""
    if members := members_of(record):
        return f"of {' + '.join(members)}"
    config = record.get("config", {})
    joint = config.get("joint")
    parts = {"title": joint or config.get("text"), "image": joint or config.get("image"), "id": config.get("ids")}
    words = [" + ".join(name for name, value in parts.items() if value), "joint" if joint else ""]
    words += ["pictures that changed places" if config.get("shuffle_images") else ""]
    words += [config[key] for key in ("fusion", "tuning") if config.get(key) not in (None, "single", "full")]
    words += [f"{key} {name_only(value)}" for key, value in config.get("given", {}).items()]
    return ", ".join(word for word in words if word)


def leaderboard(dataset: str | None = None, only: Run | None = None, systems: Sequence[System] | None = None) -> pd.DataFrame:
    """One row per system: FIRST, then what else its protocol displays, intervals, sd over seeds, n, skipped, inputs, difference to a baseline.

    Metrics: mean over impressions of the mean over seeds. *_low, *_high: 95 % bootstrap interval over impressions.
    difference: main metric (AUC, or nDCG@10 of a catalogue) minus that of the best baseline of the data set, with interval, p and `detectable` of
    `Comparison` in evaluation/statistics.py; not corrected, for nothing is claimed here. earned: (AUC - 0.5) / (AUC of the text ceiling - 0.5),
    where that is known.
    only: of all the models, this run alone. systems: where they have been read already.
    """
    systems = read_systems(dataset, only) if systems is None else systems
    lines = []
    for name in dict.fromkeys(s.dataset for s in systems):
        lines += lines_of(name, [s for s in systems if s.dataset == name])
    others = dict.fromkeys(column for line in lines for column in line if column not in (*FIRST, *DIFFERENCES))
    return pd.DataFrame(lines).reindex(columns=[*FIRST, *others, *DIFFERENCES])


def lines_of(dataset: str, systems: Sequence[System]) -> list[dict]:
    """The rows of `leaderboard` of one data set."""
    group, lines = comparable(dataset, systems), {}
    names = {f"{s.exp} {s.seed_names}": s for s in systems if s.status == "done"}
    numbers = numbers_of(dataset, {name: s.runs for name, s in names.items()}, lambda new: measure([names[name] for name in new]))
    measured = dict(zip(names.values(), numbers.values(), strict=True))
    for s in systems:
        metrics = {name: value for name, value in measured.get(s, {}).items() if not name.endswith(("_low", "_high"))}
        lines[s] = {
            "dataset": dataset,
            "exp": s.exp,
            "kind": s.kind,
            "seeds": s.seed_names,
            "status": "not comparable" if s.status == "done" and s not in group else s.status,
            "protocol": s.protocol.name,
            **metrics,
            **{key: s.mean(key) for key in (*COSTS, "samples", "encoded")},
            "inputs": inputs(s.record) if s.kind == "model" else s.record.get("about", ""),
            "error": s.record.get("error") or "",
            **measured.get(s, {}),
            "baseline": "",
        }
    add_differences(dataset, {s: lines[s] for s in group})
    ceilings = [lines[s]["auc"] for s in group if (s.kind, s.exp) == ("ceiling", "ceiling_text") and lines[s].get("auc", 0.5) != 0.5]
    for line in lines.values() if ceilings else ():
        line["earned"] = (line.get("auc", np.nan) - 0.5) / (ceilings[-1] - 0.5)
    return list(lines.values())


def measure(systems: Sequence[System]) -> list[Numbers]:
    """Of each finished system the mean of every metric that is displayed, with its interval, the sd over seeds of the main one, n and skipped."""
    samples = [(s, name, s.rows[name].dropna().to_numpy()) for s in systems for name in s.protocol.displayed]
    numbers: dict[System, Numbers] = {s: {} for s in systems}
    for (s, name, values), (low, high) in zip(samples, intervals([values for *_, values in samples]), strict=True):
        numbers[s] |= {name: values.mean() if len(values) else np.nan, f"{name}_low": low, f"{name}_high": high}
    for s in systems:
        skipped, by_seed = int(s.main.isna().sum()), list(s.main_of_seed().values())
        sd = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else np.nan
        numbers[s] |= {"n": len(s.rows) - skipped, "skipped": skipped, f"{s.protocol.main}_sd": sd}
    return list(numbers.values())


def add_differences(dataset: str, lines: dict[System, dict]) -> None:
    """Puts into the rows of comparable systems how far each model is from the best baseline."""
    baselines, models = [s for s in lines if s.kind == "baseline"], [s for s in lines if s.kind == "model"]
    if not baselines or not models:
        return
    best = max(baselines, key=lambda s: lines[s][s.protocol.main])
    pairs = {f"{s.exp} {s.seed_names} - {best.exp} {best.seed_names}": s for s in models}
    runs = {name: [*s.runs, *best.runs] for name, s in pairs.items()}
    results = numbers_of(dataset, runs, lambda new: [asdict(compare(pairs[name], best)) for name in new])
    for s, result in zip(models, results.values(), strict=True):
        lines[s] |= {"difference": result["mean"], "difference_low": result["low"], "difference_high": result["high"], "baseline": best.exp}
        lines[s] |= {"p": result["p"], "detectable": result["detectable"]}


def reservation(row: pd.Series) -> str:
    """What is to be said of the difference of a row of `leaderboard` that has too few seeds to be one of methods; else nothing."""
    seeds = len(row.seeds.split())
    return "" if seeds >= FEWEST_SEEDS else "of this training" if seeds == 1 else "of these trainings"


def comparison(dataset: str, only: Run | None = None) -> pd.DataFrame:
    """The leaderboard of one data set as people read it: a metric with its interval in one cell. only: of the models, this run alone."""
    board, protocol = leaderboard(dataset, only), protocol_of(dataset)
    rows = [row for _, row in board.iterrows()]
    table = board[["exp", "kind", "seeds", "status"]].rename(columns={"exp": "experiment"})
    for name in protocol.displayed:
        table[protocol.metrics[name][0]] = [with_interval(row, name) for row in rows]
    table["vs best baseline"] = [against_baseline(row) if pd.notna(row.difference) else "" for row in rows]
    if "auc" in protocol.metrics:
        table["earned"] = [f"{row.earned:.0%}" if row.kind == "model" and pd.notna(row.earned) else "" for row in rows]
    return table.set_index("experiment")


def against_baseline(row: pd.Series) -> str:
    """How far a row is from the best baseline."""
    return ", ".join(filter(None, [with_interval(row, "difference", "+"), f"p {p_value(row.p)}", reservation(row)]))


def levels(board: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of a leaderboard that models are held against: every ceiling, and the best baseline."""
    done = board[board["status"] == "done"].dropna(subset=[metric])
    return pd.concat([done[done["kind"] == "ceiling"], done[done["kind"] == "baseline"].nlargest(1, metric)])


def costs(dataset: str) -> pd.DataFrame:
    """What every finished experiment of a data set read, held and cost; means over seeds."""
    board = leaderboard(dataset)
    models = board[(board["kind"] == "model") & (board["status"] == "done")]
    if models.empty:
        return pd.DataFrame()
    table = {"experiment": models["exp"], "inputs": models["inputs"]}
    counts = {"parameters": "params", "trainable": "trainable", "clicks seen": "samples", "encoded": "encoded", "peak MB": "peak_mb"}
    table |= {label: models[key].map(thousands) for label, key in counts.items()}
    return pd.DataFrame(table | {"minutes": models["minutes"].map(lambda m: number(m, 1))}).set_index("experiment")


def without_empty_columns(table: pd.DataFrame) -> pd.DataFrame:
    return table.loc[:, (table != "").any()]


def read_of_all_seeds(system: System, name: str) -> list[dict]:
    """A file of every run of a finished system; [] where it is not finished, or one of them has none."""
    paths = [run.folder / name for run in system.runs]
    return [read_json(path) for path in paths] if system.status == "done" and all(path.exists() for path in paths) else []


def diagnostics(dataset: str, only: Run | None = None) -> pd.DataFrame:
    """How the vectors of every finished model lie, means over seeds: DIAGNOSTICS of protocols.py; empty where a number has no meaning."""
    rows = {}
    for system in read_systems(dataset, only):
        records = read_of_all_seeds(system, "diagnostics.json")
        if system.kind == "model" and records:
            means = pd.DataFrame(records).astype(float).mean()
            rows[system.exp] = {label: number(means.get(name, np.nan)) for name, (label, _) in DIAGNOSTICS.items()}
    return without_empty_columns(pd.DataFrame(rows).T.rename_axis("experiment"))


def means_beyond(system: System) -> dict[str, dict[str, float]]:
    """{name: {mean, low, high, n}} of BEYOND over all lists, and {mean} of what is of all lists; {} where a seed has none of it.

    All are means over seeds: low and high, of the ends of the seeds' intervals, which is no interval of the mean.
    """
    records, means = [record["all"] for record in read_of_all_seeds(system, "beyond.json")], {}
    for name in records[0] if records else ():
        by_seed = [record[name] if isinstance(record[name], dict) else {"mean": record[name]} for record in records]
        means[name] = pd.DataFrame(by_seed).astype(float).mean().to_dict()
    return means


def beyond(dataset: str, only: Run | None = None) -> pd.DataFrame:
    """What the lists of every finished row are like, means over seeds: BEYOND of protocols.py; empty where a row was judged without these numbers.

    A number that no row has is left out. only: of all the models, this run alone.
    """
    rows = []
    for system in read_systems(dataset, only):
        if system.status == "done":
            means = {name: values["mean"] for name, values in means_beyond(system).items()}
            row = {"experiment": system.exp, "kind": system.kind, "lists": thousands(means.get("lists", np.nan))}
            rows.append(row | {label: number(means.get(name, np.nan)) for name, (label, _) in BEYOND.items()})
    table = pd.DataFrame(rows, columns=["experiment", "kind", "lists", *(label for label, _ in BEYOND.values())]).set_index("experiment")
    return without_empty_columns(table)


def beyond_slices(run: Run) -> pd.DataFrame:
    """The same of one run by slice of the test impressions, with 95 % bootstrap intervals over lists; empty where it was judged without."""
    path = run.folder / "beyond.json"
    slices, rows = read_json(path) if path.exists() else {}, {}
    for name, values in slices.items():
        rows[name] = {"lists": f"{values['lists']:,}"} | {label: beyond_cell(values[metric]) for metric, (label, _) in BEYOND.items()}
    return without_empty_columns(pd.DataFrame(rows).T.rename_axis("slice"))


def beyond_cell(value: dict | float | None) -> str:
    """A mean with its interval, or a plain number; nothing where there is none."""
    if not isinstance(value, dict):
        return number(np.nan if value is None else value)
    return "" if value["mean"] is None else bracketed(value["mean"], value["low"], value["high"])
