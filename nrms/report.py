"""What came out? Run folders -> tables, sentences, leaderboard.csv and index.html. Reads files only: no model, no GPU.

Seeds of one experiment are averaged impression by impression before anything else, so an interval is over impressions and a comparison is paired.
"""

import html
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from nrms.metrics import METRICS, compare, holm, interval
from nrms.runtime import Run, atomic, home, read_json

KINDS = ("model", "baseline", "ceiling")
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
SHOWN = ("auc", "mrr", "ndcg5", "ndcg10")


@dataclass
class Entry:
    """All seeds of one experiment, baseline or ceiling on one data set that have the same status: one row of every table."""

    dataset: str
    exp: str
    status: str
    seeds: list[int]
    runs: list[Run]

    @property
    def record(self) -> dict:
        return self.runs[0].record

    @property
    def kind(self) -> str:
        return self.record.get("kind", "model")

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Metrics by impression, mean over seeds; index: impression id."""
        tables = [
            pq.read_table(run.folder / "rows.parquet", columns=["impression", *METRICS]).to_pandas().set_index("impression") for run in self.runs
        ]
        return sum(table.reindex(tables[0].index) for table in tables) / len(tables)

    def mean(self, key: str) -> float:
        """Mean over seeds of a number in run.json; NaN where no run has it."""
        values = [run.record[key] for run in self.runs if run.record.get(key) is not None]
        return float(np.mean(values)) if values else float("nan")


def entries(dataset: str | None = None) -> list[Entry]:
    """All rows there are, of one data set or of all: data sets by name, models before baselines before ceilings."""
    found: dict[tuple, list[tuple[int, Run]]] = {}
    for path in sorted((home() / "reports").glob(f"{dataset or '*'}/*/seed*/run.json")):
        run, seed = Run(path.parent), int(path.parent.name.removeprefix("seed"))
        found.setdefault((path.parts[-4], path.parts[-3], run.status), []).append((seed, run))
    rows = [
        Entry(*key, [seed for seed, _ in sorted(runs, key=lambda x: x[0])], [run for _, run in sorted(runs, key=lambda x: x[0])])
        for key, runs in found.items()
    ]
    return sorted(rows, key=lambda e: (e.dataset, KINDS.index(e.kind)))


def leaderboard(dataset: str | None = None) -> pd.DataFrame:
    """One row per entry: FIRST, then MRR and nDCG intervals, sd over seeds, n, skipped, inputs, and the difference to the best baseline.

    auc..ndcg10: mean over impressions of the mean over seeds. *_low, *_high: 95 % bootstrap interval over impressions.
    difference: AUC minus that of the best baseline of the data set, paired by impression, with interval and p (paired t-test,
    Holm-corrected over the models of the data set).
    earned: (AUC - 0.5) / (AUC of the text ceiling - 0.5), where that is known.
    """
    everything, lines = entries(dataset), []
    for entry in everything:
        line = {"dataset": entry.dataset, "exp": entry.exp, "kind": entry.kind, "seeds": " ".join(map(str, entry.seeds)), "status": entry.status}
        if entry.status == "done":
            for name in SHOWN:
                values = entry.rows[name].dropna().to_numpy()
                low, high = interval(values)
                line |= {name: values.mean(), f"{name}_low": low, f"{name}_high": high}
            by_seed = [read_json(run.folder / "metrics.json")["all"]["auc"]["mean"] for run in entry.runs]
            line |= {"n": len(entry.rows) - int(entry.rows["auc"].isna().sum()), "skipped": int(entry.rows["auc"].isna().sum())}
            line["auc_sd"] = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else float("nan")
        line |= {key: entry.mean(key) for key in ("params", "trainable", "minutes", "peak_mb", "samples", "encoded")}
        line["inputs"] = "title" if entry.kind == "model" else entry.record.get("about", "")
        line["error"] = entry.record.get("error", "")
        lines.append(line)
    board = pd.DataFrame(lines).reindex(columns=[*FIRST, *dict.fromkeys(c for line in lines for c in line if c not in FIRST)])
    parts = [add_differences(part.copy(), [e for e in everything if e.dataset == name]) for name, part in board.groupby("dataset", sort=False)]
    return pd.concat(parts) if parts else board


def add_differences(board: pd.DataFrame, rows: list[Entry]) -> pd.DataFrame:
    """The leaderboard of one data set with its last columns: baseline, difference, difference_low, difference_high, p, earned."""
    done = {e.exp: e for e in rows if e.status == "done"}
    baselines = [e for e in done.values() if e.kind == "baseline"]
    models = [e for e in done.values() if e.kind == "model"]
    for column in ("difference", "difference_low", "difference_high", "p", "earned"):
        board[column] = np.nan
    board["baseline"] = ""
    if baselines and models:
        best = max(baselines, key=lambda e: e.rows["auc"].mean())
        results = [compare(*align(e, best)) for e in models]
        for e, result, p in zip(models, results, holm([r["p"] for r in results]), strict=True):
            at = (board["exp"] == e.exp) & (board["status"] == "done")
            board.loc[at, ["difference", "difference_low", "difference_high", "p"]] = result["mean"], result["low"], result["high"], p
            board.loc[at, "baseline"] = best.exp
    if "ceiling_text" in done:
        board["earned"] = (board["auc"] - 0.5) / (done["ceiling_text"].rows["auc"].mean() - 0.5)
    return board


def align(a: Entry, b: Entry, metric: str = "auc") -> tuple[np.ndarray, np.ndarray]:
    """The values of two entries for the same impressions, in the same order."""
    both = a.rows[[metric]].join(b.rows[[metric]], lsuffix="_a", rsuffix="_b", how="inner")
    return both[f"{metric}_a"].to_numpy(), both[f"{metric}_b"].to_numpy()


# words and numbers ---------------------------------------------------------------------------------------------------


def number(value: float, digits: int = 3) -> str:
    return "" if pd.isna(value) else f"{value:.{digits}f}"


def p_value(p: float) -> str:
    return "" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def answer(dataset: str, exp: str) -> str:
    """One computed sentence, in Markdown: what `exp` reached on `dataset`, against the best baseline and the ceilings."""
    board = leaderboard(dataset)
    row = board[(board["exp"] == exp) & (board["status"] == "done")]
    return f"**{exp} on {dataset} has no finished run yet.**" if row.empty else sentence(row.iloc[0])


def sentence(row: pd.Series) -> str:
    """`answer` for one finished row of the leaderboard."""
    text = f"**{row.exp} on {row.dataset}: AUC {row.auc:.3f}** (95 % interval {row.auc_low:.3f} to {row.auc_high:.3f}, "
    text += f"n = {row.n:,.0f} impressions, seeds {row.seeds})"
    if pd.notna(row.difference):
        sure = "the interval excludes 0" if row.difference_low > 0 or row.difference_high < 0 else "the interval includes 0, so this may be chance"
        text += f", {row.difference:+.3f} against the best baseline, {row.baseline} "
        text += f"({row.difference_low:+.3f} to {row.difference_high:+.3f}, p {p_value(row.p)}; {sure})"
    if pd.notna(row.earned):
        text += f". That is {row.earned:.0%} of what titles can earn over chance (text ceiling)"
    return text + "."


def comparison(dataset: str) -> pd.DataFrame:
    """The leaderboard of one data set as people read it: a metric with its interval in one cell."""
    board = leaderboard(dataset)
    shown = pd.DataFrame({"experiment": board["exp"], "kind": board["kind"], "seeds": board["seeds"], "status": board["status"]})
    for name in SHOWN:
        shown[METRICS[name][0]] = [with_interval(row, name) for _, row in board.iterrows()]
    shown["vs best baseline"] = [difference(row) for _, row in board.iterrows()]
    shown["earned"] = ["" if pd.isna(x) else f"{x:.0%}" for x in board["earned"]]
    return shown.set_index("experiment")


def with_interval(row: pd.Series, name: str) -> str:
    return "" if pd.isna(row.get(name)) else f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"


def difference(row: pd.Series) -> str:
    return "" if pd.isna(row.difference) else f"{row.difference:+.3f} [{row.difference_low:+.3f}, {row.difference_high:+.3f}], p {p_value(row.p)}"


def definitions() -> str:
    """What every number means, in Markdown."""
    lines = [f"- **{label}**: {text}." for name, (label, text) in METRICS.items() if name in SHOWN]
    lines += [
        "- **[low, high]**: 95 % bootstrap interval over impressions (1,000 resamples) of the mean over seeds.",
        "- **n**: test impressions with a defined metric; **skipped**: those where nothing or everything was clicked.",
        "- **vs best baseline**: AUC minus that of the baseline with the highest AUC, paired by impression; p of a paired "
        "t-test, Holm-corrected over the models of the data set.",
        "- **earned**: (AUC - 0.5) / (AUC of ceiling_text - 0.5): 100 % is a reader who knows every user's true taste for titles. Demo worlds only.",
        "- **baselines** learn nothing: random; popularity (clicks in the train part); recency (later first shown); "
        "content (TF-IDF cosine to the history).",
        "- **ceilings** know the truth of a demo world: everything but the noise; taste for text alone; for images "
        "alone; the best possible reading of the history.",
        "- **minutes**: training, without evaluation; **peak MB**: most memory the process held; **dead**: a run whose process is gone.",
    ]
    return "\n".join(lines)


# files ---------------------------------------------------------------------------------------------------------------

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:110rem;padding:0 1rem;color:#1a1a1a;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}.wrap{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}
th{background:#f4f4f4;text-align:right}td:nth-child(-n+5),th:nth-child(-n+5){text-align:left}
tr.baseline,tr.ceiling{color:#666}tr.failed td,tr.dead td{background:#fff0f0}small{color:#666}ul{padding-left:1.2rem}
@media(prefers-color-scheme:dark){body{background:#161616;color:#ddd}th{background:#262626}th,td{border-color:#383838}
tr.baseline,tr.ceiling,small{color:#999}tr.failed td,tr.dead td{background:#3a1f1f}a{color:#8ab4f8}}
"""


def render_row(row: pd.Series, folder: Path) -> str:
    """One line of the index page."""
    seeds = row.seeds.split()
    where = [folder / row.exp / f"seed{s}" for s in seeds]
    links = " ".join(
        f'<a href="{p.relative_to(home() / "reports") / f"{n}.html"}">{n}{"" if len(seeds) == 1 else " " + s}</a>'
        for s, p in zip(seeds, where, strict=True) for n in ("train", "eval") if (p / f"{n}.html").exists()
    )  # fmt: skip
    texts = [row.exp, row.kind, row.seeds, row.status + (f": {row.error}" if row.error else ""), row.inputs if row.kind == "model" else ""]
    cells = [html.escape(str(text)) for text in texts]
    cells += [with_interval(row, name) for name in SHOWN] + [difference(row), "" if pd.isna(row.earned) else f"{row.earned:.0%}"]
    cells += ["" if pd.isna(row.get(k)) else f"{row[k]:,.0f}" for k in ("n", "skipped", "params", "trainable")] + [
        number(row.minutes, 1),
        number(row.peak_mb, 0),
        links,
    ]
    return f'<tr class="{row.kind} {row.status}" title="{html.escape(row.inputs)}">' + "".join(f"<td>{c}</td>" for c in cells) + "</tr>"


HEAD = [
    "experiment",
    "kind",
    "seeds",
    "status",
    "inputs",
    *(METRICS[m][0] for m in SHOWN),
    "AUC vs best baseline",
    "earned",
    "n",
    "skipped",
    "parameters",
    "trainable",
]
HEAD += ["minutes", "peak MB", "notebooks"]


def write() -> tuple[Path, Path]:
    """Rebuilds reports/leaderboard.csv and reports/index.html from the run folders. Returns both paths."""
    folder = home() / "reports"
    board = leaderboard()
    with atomic(folder / "leaderboard.csv") as part:
        board.to_csv(part, index=False, float_format="%.6g")
    sections = []
    for dataset, rows in board.groupby("dataset", sort=False):
        pages = [n for n in ("data_prep", "analysis") if (folder / dataset / f"{n}.html").exists()]
        links = " · ".join(f'<a href="{dataset}/{n}.html">{n}</a>' for n in pages)
        models = rows[(rows["kind"] == "model") & (rows["status"] == "done")]
        says = "".join(f"<p>{html.escape(sentence(row)).replace('**', '')}</p>" for _, row in models.iterrows())
        body = "".join(render_row(row, folder / dataset) for _, row in rows.iterrows())
        head = "".join(f"<th>{h}</th>" for h in HEAD)
        sections.append(
            f'<h2>{dataset} <small>{links}</small></h2>{says}<div class="wrap">'
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )
    meaning = "".join(f"<li>{html.escape(line[2:]).replace('**', '')}</li>" for line in definitions().splitlines())
    empty = "<p>No runs yet: <code>python -m nrms demo</code> makes the first.</p>"
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>nrms: all runs</title><style>{STYLE}</style></head>"
        f"<body><h1>All runs</h1>{''.join(sections) or empty}<h2>What the numbers mean</h2><ul>{meaning}</ul></body></html>"
    )
    with atomic(folder / "index.html") as part:
        part.write_text(page)
    return folder / "leaderboard.csv", folder / "index.html"
