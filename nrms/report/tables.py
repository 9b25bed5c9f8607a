"""What came out? Entries -> tables and sentences. Reads files only: no model, no GPU."""

import numpy as np
import pandas as pd

from nrms.evaluation.protocols import BEYOND, DIAGNOSTICS
from nrms.evaluation.statistics import compare_each, holm, intervals
from nrms.report.experiments import Entry, align, comparable, entries, protocol_of
from nrms.report.format import difference, name_only, number, thousands, with_interval
from nrms.runtime.files import read_json
from nrms.runtime.run_record import Run, members_of

FIRST = [
    "dataset",
    "exp",
    "kind",
    "seeds",
    "status",
    "auc",
    "auc_low",
    "auc_high",
    "mrr",
    "ndcg5",
    "ndcg10",
    "params",
    "trainable",
    "minutes",
    "peak_mb",
]


DIFFERENCES = ["difference", "difference_low", "difference_high", "p", "earned", "baseline"]


def inputs(record: dict) -> str:
    """What a model read, and the values that were given by hand; of an ensemble its members."""
    if members := members_of(record):
        return f"of {' + '.join(members)}"
    config = record.get("config", {})
    joint = bool(config.get("joint"))
    read = ["title"] * (joint or bool(config.get("text"))) + ["image"] * (joint or bool(config.get("image"))) + ["id"] * bool(config.get("ids"))
    how = (
        ["joint"] * joint
        + ["pictures that changed places"] * bool(config.get("shuffle_images"))
        + [config.get("fusion", ""), config.get("tuning", "")]
    )
    parts = [
        " + ".join(read),
        *(word for word in how if word not in ("single", "full")),
        *(f"{k} {name_only(v)}" for k, v in config.get("given", {}).items()),
    ]
    return ", ".join(part for part in parts if part)


BOARDS: dict[tuple, pd.DataFrame] = {}  # the last leaderboards by the files they were made of: a notebook asks for the same one many times


def leaderboard(dataset: str | None = None, only: Run | None = None, found: list[Entry] | None = None) -> pd.DataFrame:
    """One row per entry: FIRST, then what else its protocol shows, intervals, sd over seeds, n, skipped, inputs, difference to a baseline.

    Metrics: mean over impressions of the mean over seeds. *_low, *_high: 95 % bootstrap interval over impressions.
    difference: main metric (AUC, or nDCG@10 of a catalogue) minus that of the best baseline of the data set, paired by impression, with interval
    and p (paired t-test, Holm-corrected over the models of the data set). earned: (AUC - 0.5) / (AUC of the text ceiling - 0.5), where that is known.
    only: of all the models, this run alone. found: `entries`, where they have been read already.
    """
    everything = entries(dataset, only) if found is None else found
    files = [(e, run.folder / name) for e in everything for run in e.runs for name in ("run.json", "rows.parquet", "metrics.json")]
    key = tuple((str(path), e.status, path.stat().st_mtime_ns if path.exists() else 0) for e, path in files)
    if key not in BOARDS:
        BOARDS.update({key: tabulate(everything)})
        if len(BOARDS) > 8:
            BOARDS.pop(next(iter(BOARDS)))
    return BOARDS[key].copy()


def tabulate(everything: list[Entry]) -> pd.DataFrame:
    """`leaderboard` of these entries, from their files."""
    lines, samples = [], []
    own = {name: comparable(name, [e for e in everything if e.dataset == name]) for name in dict.fromkeys(e.dataset for e in everything)}
    for entry in everything:
        status = "apart" if entry.status == "done" and entry not in own[entry.dataset] else entry.status
        line = {"dataset": entry.dataset, "exp": entry.exp, "kind": entry.kind, "seeds": " ".join(map(str, entry.seeds)), "status": status}
        line["protocol"] = entry.record.get("protocol", "impressions")
        if entry.status == "done":
            for name in entry.protocol.displayed:
                values = entry.rows[name].dropna().to_numpy()
                line[name] = values.mean() if len(values) else np.nan
                samples.append((line, name, values))
            by_seed = list(entry.main_of_seed().values())
            line |= {"n": len(entry.rows) - int(entry.main.isna().sum()), "skipped": int(entry.main.isna().sum())}
            line[f"{entry.protocol.main}_sd"] = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else float("nan")
        line |= {key: entry.mean(key) for key in ("params", "trainable", "minutes", "peak_mb", "samples", "encoded")}
        line["inputs"] = inputs(entry.record) if entry.kind == "model" else entry.record.get("about", "")
        line["error"] = entry.record.get("error") or ""
        lines.append(line)
    for (line, name, _), (low, high) in zip(samples, intervals([values for *_, values in samples]), strict=True):
        line |= {f"{name}_low": low, f"{name}_high": high}
    extra = dict.fromkeys(c for line in lines for c in line if c not in FIRST)
    board = pd.DataFrame(lines).reindex(columns=[*FIRST, *extra, *DIFFERENCES])
    board["baseline"] = ""
    parts = [add_differences(part.copy(), own[name]) for name, part in board.groupby("dataset", sort=False)]
    return pd.concat(parts) if parts else board


def add_differences(board: pd.DataFrame, rows: list[Entry]) -> pd.DataFrame:
    """The leaderboard of one data set with its columns DIFFERENCES filled in. rows: those that are `comparable`."""
    baselines, models, ceilings = ([e for e in rows if e.kind == kind] for kind in ("baseline", "model", "ceiling"))
    if baselines and models:
        best = max(baselines, key=lambda e: e.main.mean())
        results = compare_each([align(e, best) for e in models])
        for e, result, p in zip(models, results, holm([r["p"] for r in results]), strict=True):
            at = (board["exp"] == e.exp) & (board["status"] == "done") & (board["seeds"] == " ".join(map(str, e.seeds)))
            board.loc[at, ["difference", "difference_low", "difference_high", "p"]] = result["mean"], result["low"], result["high"], p
            board.loc[at, "baseline"] = best.exp
    for e in ceilings:
        if e.exp == "ceiling_text":
            board["earned"] = (board["auc"] - 0.5) / (e.main.mean() - 0.5)
    return board


def comparison(dataset: str, only: Run | None = None) -> pd.DataFrame:
    """The leaderboard of one data set as people read it: a metric with its interval in one cell. only: of the models, this run alone."""
    board, protocol = leaderboard(dataset, only), protocol_of(dataset)
    shown = pd.DataFrame({"experiment": board["exp"], "kind": board["kind"], "seeds": board["seeds"], "status": board["status"]})
    for name in protocol.displayed:
        shown[protocol.metrics[name][0]] = [with_interval(row, name) for _, row in board.iterrows()]
    shown["vs best baseline"] = ["" if pd.isna(row.difference) else f"{row.difference:+.3f} {difference(row)}" for _, row in board.iterrows()]
    if "auc" in protocol.metrics:
        shown["earned"] = [f"{row.earned:.0%}" if row.kind == "model" and pd.notna(row.earned) else "" for _, row in board.iterrows()]
    return shown.set_index("experiment")


def ledger(dataset: str) -> pd.DataFrame:
    """What every finished experiment of a data set read, held and cost; means over seeds."""
    board = leaderboard(dataset)
    rows = board[(board["kind"] == "model") & (board["status"] == "done")]
    if rows.empty:
        return pd.DataFrame()
    shown = {"experiment": rows["exp"], "inputs": rows["inputs"]}
    whole = {"parameters": "params", "trainable": "trainable", "clicks seen": "samples", "encoded": "encoded", "peak MB": "peak_mb"}
    shown |= {label: rows[key].map(thousands) for label, key in whole.items()}
    return pd.DataFrame(shown | {"minutes": rows["minutes"].map(lambda m: number(m, 1))}).set_index("experiment")


def diagnostics(dataset: str, only: Run | None = None) -> pd.DataFrame:
    """How the vectors of every finished model lie, means over seeds: DIAGNOSTICS of metrics.py; empty where a number has no meaning."""
    rows = {}
    for entry in entries(dataset, only):
        paths = [run.folder / "diagnostics.json" for run in entry.runs]
        if entry.kind == "model" and entry.status == "done" and all(path.exists() for path in paths):
            found = pd.DataFrame([read_json(path) for path in paths]).astype(float).mean()
            rows[entry.exp] = {label: number(found.get(name, np.nan)) for name, (label, _) in DIAGNOSTICS.items()}
    table = pd.DataFrame(rows).T.rename_axis("experiment")
    return table.loc[:, (table != "").any()] if len(table) else table


def means_beyond(entry: Entry) -> dict[str, dict[str, float]]:
    """{name: {mean, low, high, n}} of BEYOND over all lists, and {mean} of what is of all lists; {} where a seed has none of it.

    All are means over seeds: low and high, of the ends of the seeds' intervals, which is no interval of the mean.
    """
    paths = [run.folder / "beyond.json" for run in entry.runs]
    if entry.status != "done" or not all(path.exists() for path in paths):
        return {}
    found = [read_json(path)["all"] for path in paths]
    each = {name: pd.DataFrame([f[name] if isinstance(f[name], dict) else {"mean": f[name]} for f in found]) for name in found[0]}
    return {name: table.astype(float).mean().to_dict() for name, table in each.items()}


def beyond(dataset: str, only: Run | None = None) -> pd.DataFrame:
    """What the lists of every finished row are like, means over seeds: BEYOND of metrics.py; empty where a row was judged without these numbers.

    A number that no row has is left out. only: of all the models, this run alone.
    """
    rows = []
    for entry in (e for e in entries(dataset, only) if e.status == "done"):
        found = {name: values["mean"] for name, values in means_beyond(entry).items()}
        row = {"experiment": entry.exp, "kind": entry.kind, "lists": thousands(found.get("lists", np.nan))}
        rows.append(row | {label: number(found.get(name, np.nan)) for name, (label, _) in BEYOND.items()})
    table = pd.DataFrame(rows, columns=["experiment", "kind", "lists", *(label for label, _ in BEYOND.values())]).set_index("experiment")
    return table.loc[:, (table != "").any()]


def beyond_slices(run: Run) -> pd.DataFrame:
    """The same of one run by slice of the test impressions, with 95 % bootstrap intervals over lists; empty where it was judged without."""
    path = run.folder / "beyond.json"
    rows = {}
    for name, found in (read_json(path) if path.exists() else {}).items():
        cells = {label: beyond_cell(found[metric]) for metric, (label, _) in BEYOND.items()}
        rows[name] = {"lists": f"{found['lists']:,}"} | cells
    table = pd.DataFrame(rows).T.rename_axis("slice")
    return table.loc[:, (table != "").any()] if len(table) else table


def beyond_cell(found: dict | float | None) -> str:
    """A mean with its interval, or a plain number; nothing where there is none."""
    if not isinstance(found, dict):
        return number(np.nan if found is None else found)
    return "" if found["mean"] is None else f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
