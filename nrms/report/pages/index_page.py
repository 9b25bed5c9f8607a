"""How do people see what came out? leaderboard.csv, comparisons.csv, index.html and the pages of comparisons, rebuilt from run folders."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from nrms import home
from nrms.evaluation.protocols import PROTOCOLS
from nrms.report.experiments import KINDS, System, protocol_of, read_systems
from nrms.report.format import number, p_value, thousands
from nrms.report.pages import interval_plot
from nrms.report.pages.compare_page import comparisons, page_digest
from nrms.report.pages.layout import OF_A_DATA_SET, document, has_digest, plain
from nrms.report.planned_comparisons import differences, questions_of, summary, table_of
from nrms.report.result_tables import leaderboard, reservation
from nrms.report.sentences import definitions, sentence
from nrms.runtime.files import write_text
from nrms.runtime.templates import render

TRIES = 5  # to read what other processes may be writing anew


@dataclass(frozen=True)
class Cell:
    """One cell of the table: its text, in bold its number, a drawing; lines of small print and links below; what it is sorted by, NaN for nothing."""

    text: str = ""
    by: object = ""
    small: Sequence[str] = ()
    bold: str = ""
    drawing: str = ""
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """One column of the table. name: in the address of a sorted table. is_main: of a metric that is the main one of some rows."""

    name: str
    label: str
    css: str = "n"
    is_main: bool = False


def columns_of(board: pd.DataFrame) -> list[Column]:
    """The columns for these rows, without metrics that none of them has, and without the data set where there is but one.

    Where protocols mix, the main metric of each has a column by its name too: only there its rows are sorted among themselves.
    """
    protocols = [p for name, p in PROTOCOLS.items() if name in set(board["protocol"])]
    mains = {p.main for p in protocols}
    metrics = {name: Column(name, p.metrics[name][0], is_main=name in mains) for p in protocols for name in p.displayed}
    if len(protocols) == 1:
        del metrics[protocols[0].main]
    first = [Column("dataset", "data set", "dataset")] if board["dataset"].nunique() > 1 else []
    first += [Column("name", "experiment", "name"), Column("main", protocols[0].label if len(protocols) == 1 else "main metric", "main")]
    first += [Column("difference", "vs best baseline"), *(Column(name, name, name) for name in ("inputs", "status", "seeds"))]
    last = {"earned": "earned", "n": "n", "params": "parameters", "samples": "clicks seen", "minutes": "minutes", "peak_mb": "peak MB"}
    return [*first, *metrics.values(), *(Column(name, label) for name, label in last.items())]


def run_links(row: pd.Series, folder: Path) -> dict[str, str]:
    """{name: address} of the pages of a row's runs, seed by seed where there are several."""
    seeds = row.seeds.split()
    pages = {(name, seed): Path(row.dataset, row.exp, f"seed{seed}", f"{name}.html") for seed in seeds for name in ("train", "eval")}
    return {name if len(seeds) == 1 else f"{name} {seed}": str(page) for (name, seed), page in pages.items() if (folder / page).exists()}


def interval(row: pd.Series, name: str, sign: str = "") -> str:
    return f"{row[f'{name}_low']:{sign}.3f} to {row[f'{name}_high']:{sign}.3f}"


def cells(row: pd.Series, rows: pd.DataFrame, folder: Path) -> dict[str, Cell]:
    """The cells of one row by column. rows: the finished rows of its data set and protocol, which share a scale."""
    protocol, is_model, skipped = PROTOCOLS[row.protocol], row.kind == "model", row.get("skipped", 0)
    by_column = {
        "dataset": Cell(row.dataset, row.dataset),
        "name": Cell(row.exp, row.exp, links=run_links(row, folder)),
        "inputs": Cell(row.inputs, row.inputs) if is_model else Cell(row.kind, row.kind, [row.inputs]),
        "status": Cell(row.status, row.status, [row.error]),
        "n": Cell(thousands(row.get("n")), row.get("n", ""), [f"{skipped:,.0f} skipped"] if skipped > 0 else ()),
        "params": Cell(thousands(row.params), row.params, [f"{thousands(row.trainable)} trained"] if is_model else ()),
        "samples": Cell(thousands(row.samples), row.samples, [f"{thousands(row.encoded)} encoded"] if is_model else ()),
        "minutes": Cell(number(row.minutes, 1), row.minutes),
        "peak_mb": Cell(thousands(row.peak_mb), row.peak_mb),
    }
    if is_model:
        by_column["seeds"] = Cell(row.seeds, row.seeds)
        by_column["earned"] = Cell("" if pd.isna(row.earned) else f"{row.earned:.0%}", row.earned)
    if pd.notna(row.get(protocol.main)):
        by_column |= {name: Cell(number(row[name]), row[name], [interval(row, name)]) for name in protocol.displayed}
        value, low_to_high = number(row[protocol.main]), interval(row, protocol.main)
        drawing = interval_plot.bar(row, rows, protocol) if row.status == "done" else ""  # what is not comparable has no place on their scale
        by_column["main"] = Cell(protocol.label, row[protocol.main], [low_to_high], bold=value, drawing=drawing)
    if pd.notna(row.difference):
        small = [interval(row, "difference", "+"), f"vs {row.baseline}, p {p_value(row.p)}", *filter(None, [reservation(row)])]
        by_column["difference"] = Cell(f"{row.difference:+.3f}", row.difference, small)
    return by_column


def table(board: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """The one table over all runs, the best of each data set and kind first: what filters it, its columns, its rows with their cells."""
    main = pd.Series([row.get(PROTOCOLS[row.protocol].main) for _, row in board.iterrows()], board.index, float)
    order = {value: i for i, value in enumerate([*board["dataset"].unique(), *KINDS])}
    board = board.assign(main=-main, first=board["dataset"].map(order), then=board["kind"].map(order)).sort_values(["first", "then", "main"])
    finished = {key: rows[rows["status"] == "done"] for key, rows in board.groupby(["dataset", "protocol"])}
    labels = {"dataset": "data set", "kind": "kind", "status": "status"}
    return {
        "choices": {key: (label, board[key].unique()) for key, label in labels.items() if board[key].nunique() > 1},
        "columns": columns_of(board),
        "rows": [(row, cells(row, finished[row.dataset, row.protocol], folder)) for _, row in board.iterrows()],
        "empty": Cell(),
    }


def section(dataset: str, rows: pd.DataFrame, systems: Sequence[System], folder: Path) -> dict[str, Any]:
    """What one data set says: questions with their answers, all results at a glance, links to its pages."""
    protocol, done = protocol_of(dataset, systems), rows[rows["status"] == "done"]
    planned, models = differences(dataset, systems), done[done["kind"] == "model"]
    by_question = {q: [d for d in planned if d.question == q] for q in questions_of(dataset, systems)}
    judged = models.dropna(subset=[protocol.main]) if protocol.main in models else models[:0]
    return {
        "dataset": dataset,
        "pages": [name for name in OF_A_DATA_SET if (folder / dataset / f"{name}.html").exists()],
        "best": plain(sentence(judged.loc[judged[protocol.main].idxmax()])) if len(judged) else "",  # how far above what learns nothing, or not
        "answers": {question: plain(summary(question, answers)) for question, answers in by_question.items() if answers},
        "experiments": [plain(sentence(row)) for _, row in models.iterrows()],
        "panel": interval_plot.panel(done, protocol) if len(done) else "",
    }


def index(board: pd.DataFrame, by_data_set: Mapping[str, Sequence[System]], folder: Path) -> str:
    """HTML of index.html: a section for each data set, the table of all runs, and what the numbers mean."""
    protocols = [name for name in PROTOCOLS if name in set(board.get("protocol", ()))]
    models = board[board["kind"] == "model"]
    body = render(
        "report/pages/index.html.j2",
        experiments=len(models),
        statuses=models["status"].value_counts().to_dict(),
        sections=[section(name, rows, by_data_set[name], folder) for name, rows in board.groupby("dataset", sort=False)],
        table=table(board, folder) if len(board) else None,
        meanings=[plain(line.removeprefix("- ")) for line in definitions(*protocols).splitlines()],
    )
    links = {"all runs": ""} | ({"table": "#runs"} if len(board) else {}) | {"what the numbers mean": "#meaning"}
    return document("nrms: all runs", body, links, script="index.js", kind="wide")


def write_tables(folder: Path, board: pd.DataFrame, by_data_set: Mapping[str, Sequence[System]]) -> tuple[Path, Path]:
    """leaderboard.csv, comparisons.csv and index.html, which links to the pages that `folder` has. by_data_set: the rows of each."""
    planned = [d for name, rows in by_data_set.items() for d in differences(name, rows)]
    for name, table in (("leaderboard", board), ("comparisons", table_of(planned))):
        write_text(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    write_text(folder / "index.html", index(board, by_data_set, folder))
    return folder / "leaderboard.csv", folder / "index.html"


def write(*, anew: bool = False) -> tuple[Path, Path]:
    """Rebuilds leaderboard.csv, comparisons.csv, index.html and every <dataset>/compare.html of reports/ from the run folders.

    anew: also a compare.html that was made of the same runs. A run that another process begins anew while it is read is not finished any more: then
    all are read once more. Returns the paths of the first and of the page that links to the others.
    """
    for _ in range(TRIES - 1):
        with contextlib.suppress(FileNotFoundError):
            return write_once(anew)
    return write_once(anew)


def write_once(anew: bool) -> tuple[Path, Path]:
    """The work of `write`. Raises FileNotFoundError where files of a run are gone since the run was found to be done."""
    folder = home() / "reports"
    everything = read_systems()
    board = leaderboard(systems=everything)
    by_data_set = {name: [e for e in everything if e.dataset == name] for name in board["dataset"].unique()}
    for name, rows in by_data_set.items():
        path = folder / name / "compare.html"
        if anew or not has_digest(path, page_digest(name, rows, folder)):
            write_text(path, comparisons(name, rows, folder))
    return write_tables(folder, board, by_data_set)
