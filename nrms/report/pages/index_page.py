"""How do people see what came out? leaderboard.csv, comparisons.csv, index.html and the pages of comparisons, rebuilt from run folders."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from nrms import home
from nrms.evaluation.protocols import PROTOCOLS
from nrms.report.experiments import KINDS, System, protocol_of, read_systems
from nrms.report.format import number, p_value, thousands
from nrms.report.pages import interval_plot
from nrms.report.pages.compare_page import comparisons, page_digest
from nrms.report.pages.layout import OF_A_DATA_SET, document, is_made_of, plain
from nrms.report.planned_comparisons import differences, questions_of, summary, table_of
from nrms.report.sentences import definitions, sentence
from nrms.report.tables import leaderboard
from nrms.runtime.files import atomic

TRIES = 5  # to read what other processes may be writing anew
EMPTY = "<p>No runs yet: <code>python -m nrms demo</code> makes the first.</p>"


@dataclass(frozen=True)
class Cell:
    """One cell of the table: what is shown, HTML; small print below it; what it is sorted by, nothing where nothing is known."""

    main: str = ""
    small: str = ""
    by: object = ""

    def html(self, css: str) -> str:
        by = "" if isinstance(self.by, float) and pd.isna(self.by) else escape(str(self.by))
        return f'<td class="{css}" data-by="{by}">{self.main}{f"<small>{self.small}</small>" if self.small else ""}</td>'


@dataclass(frozen=True)
class Column:
    """One column of the table. name: in the address of a sorted table."""

    name: str
    label: str
    css: str = "n"


def columns_of(board: pd.DataFrame) -> list[Column]:
    """The columns for these rows, without metrics that none of them has, and without the data set where there is but one."""
    protocols = [p for name, p in PROTOCOLS.items() if name in set(board["protocol"])]
    others = {name: p.metrics[name][0] for p in protocols for name in p.displayed if name != p.main or len(protocols) > 1}
    first = [Column("dataset", "data set", "dataset")] if board["dataset"].nunique() > 1 else []
    main = Column("main", protocols[0].label if len(protocols) == 1 else "main metric", "main")
    first += [Column("name", "experiment", "name"), main, Column("difference", "vs best baseline")]
    first += [Column(name, name, name) for name in ("inputs", "status", "seeds")]
    last = {"earned": "earned", "n": "n", "params": "parameters", "samples": "clicks seen", "minutes": "minutes", "peak_mb": "peak MB"}
    return first + [Column(*pair) for pair in (others | last).items()]


def links_of(row: pd.Series, folder: Path) -> str:
    """Links to the pages of a row's runs, seed by seed where there are several."""
    pages = [(n, s, folder / row.dataset / row.exp / f"seed{s}" / f"{n}.html") for s in row.seeds.split() for n in ("train", "eval")]
    return " ".join(
        f'<a href="{escape(str(page.relative_to(folder)))}">{n}{f" {escape(s)}" if " " in row.seeds else ""}</a>'
        for n, s, page in pages
        if page.exists()
    )


def cells(row: pd.Series, rows: pd.DataFrame, folder: Path) -> dict[str, Cell]:
    """The cells of one row by column. rows: the finished rows of its data set and protocol, which share a scale."""
    protocol, is_model = PROTOCOLS[row.protocol], row.kind == "model"
    found = {
        "dataset": Cell(escape(row.dataset), by=row.dataset),
        "name": Cell(escape(row.exp), links_of(row, folder), row.exp),
        "inputs": Cell(escape(row.inputs) if is_model else row.kind, "" if is_model else escape(row.inputs), row.inputs if is_model else row.kind),
        "status": Cell(escape(row.status), escape(row.error), row.status),
        "seeds": Cell(escape(row.seeds) if is_model else "", by=row.seeds if is_model else ""),
        "earned": Cell(f"{row.earned:.0%}", by=row.earned) if is_model and pd.notna(row.earned) else Cell(),
        "n": Cell(thousands(row.get("n")), f"{row.skipped:,.0f} skipped" if row.get("skipped", 0) > 0 else "", row.get("n", "")),
        "params": Cell(thousands(row.params), f"{thousands(row.trainable)} trained" if is_model else "", row.params),
        "samples": Cell(thousands(row.samples), f"{thousands(row.encoded)} encoded" if is_model else "", row.samples),
        "minutes": Cell(number(row.minutes, 1), by=row.minutes),
        "peak_mb": Cell(thousands(row.peak_mb), by=row.peak_mb),
    }
    if pd.notna(row.get(protocol.main)):
        found |= {m: Cell(number(row[m]), span(row, m, ""), row[m]) for m in protocol.displayed}
        bar = interval_plot.bar(row, rows, protocol) if row.status == "done" else ""  # what stands apart has no place on their scale
        value = f"{escape(protocol.label)} <b>{number(row[protocol.main])}</b>{bar}"
        found["main"] = Cell(value, span(row, protocol.main, ""), row[protocol.main])
    if pd.notna(row.difference):
        small = f"{span(row, 'difference', '+')}<br>vs {escape(row.baseline)}, p {escape(p_value(row.p))}"
        found["difference"] = Cell(f"{row.difference:+.3f}", small, row.difference)
    return found


def span(row: pd.Series, name: str, sign: str) -> str:
    return f"{row[f'{name}_low']:{sign}.3f} to {row[f'{name}_high']:{sign}.3f}"


def table(board: pd.DataFrame, folder: Path) -> str:
    """The one table over all runs, the best of each data set and kind first; the script finds what to sort and filter by in `data-` attributes."""
    main = pd.Series([row.get(PROTOCOLS[row.protocol].main) for _, row in board.iterrows()], board.index, float)
    places = {value: i for i, value in enumerate([*board["dataset"].unique(), *KINDS])}
    board = board.assign(main=-main, first=board["dataset"].map(places), then=board["kind"].map(places)).sort_values(["first", "then", "main"])
    columns, lines = columns_of(board), []
    finished = {key: rows[rows["status"] == "done"] for key, rows in board.groupby(["dataset", "protocol"])}
    for _, row in board.iterrows():
        found = cells(row, finished[row.dataset, row.protocol], folder)
        inside = "".join(found.get(c.name, Cell()).html(c.css) for c in columns)
        facts = "".join(f' data-{key}="{escape(str(row[key]))}"' for key in ("dataset", "kind", "status"))
        lines.append(f'<tr class="{escape(f"{row.kind} {row.status}")}"{facts}>{inside}</tr>')
    head = "".join(f'<th scope="col" class="{c.css}" data-name="{c.name}">{escape(c.label)}</th>' for c in columns)
    body = f'<table id="board"><thead><tr>{head}</tr></thead><tbody>\n{chr(10).join(lines)}\n</tbody></table>'
    return f'{controls(board)}<div class="wrap" tabindex="0" role="region" aria-label="every run">{body}</div>'


def controls(board: pd.DataFrame) -> str:
    """What filters the table: words, and what its rows differ in; hidden where no script runs."""
    chosen = ""
    for key, label in (("dataset", "data set"), ("kind", "kind"), ("status", "status")):
        if board[key].nunique() < 2:
            continue
        options = "".join(f"<option>{escape(str(value))}</option>" for value in board[key].unique())
        chosen += f'<label>{label}<select name="{key}"><option value="">all</option>{options}</select></label>'
    words = '<label>words<input type="search" name="words" placeholder="image, exp3, …"></label>'
    return (
        f'<form class="controls" id="filter" hidden>{words}{chosen}<button type="reset">all rows</button><output aria-live="polite"></output></form>'
    )


def section(dataset: str, rows: pd.DataFrame, found: Sequence[System], folder: Path) -> str:
    """What one data set says: questions with their answers, all results at a glance, links to its pages."""
    protocol, done = protocol_of(dataset, list(found)), rows[rows["status"] == "done"]
    pages = [name for name in OF_A_DATA_SET if (folder / dataset / f"{name}.html").exists()]
    links = " · ".join(f'<a href="{escape(dataset)}/{name}.html">{name}</a>' for name in pages)
    made = differences(dataset, found)
    asked = {question: [d for d in made if d.question == question] for question in questions_of(dataset, found)}
    says = "".join(f"<p><b>{escape(question)}</b> {escape(summary(question, own))}</p>" for question, own in asked.items() if own)
    says = says or "<p>No planned comparison has both its experiments finished.</p>"
    models = done[(done["kind"] == "model") & done[protocol.main].notna()] if protocol.main in done else done[:0]
    if len(models):  # how far the best is above what learns nothing, or not
        says = f"<p>Best of the models: {plain(sentence(models.loc[models[protocol.main].idxmax()]))}</p>{says}"
    lines = "".join(f"<li>{plain(sentence(row))}</li>" for _, row in done[done["kind"] == "model"].iterrows())
    says += f"<details><summary>Experiment by experiment</summary><ul>{lines}</ul></details>" if lines else ""
    caption = "Dots are means over the test part, bars their intervals; blue: models, grey: baselines, the best dashed, orange: ceilings."
    figure = f"<figure>{interval_plot.panel(done, protocol)}<figcaption>{caption}</figcaption></figure>" if len(done) else ""
    return f'<section><h2>{escape(dataset)} <small>{links}</small></h2><div class="two"><div>{says}</div>{figure}</div></section>'


def lead(board: pd.DataFrame) -> str:
    """How much there is, and what needs a look."""
    models = board[board["kind"] == "model"]
    counts = ", ".join(f"{n} {escape(str(status))}" for status, n in models["status"].value_counts().items())
    data_sets = board["dataset"].nunique()
    return f'<p class="lead">{len(models)} experiments on {data_sets} data set{"s" if data_sets > 1 else ""}: {counts}.</p>'


def index(board: pd.DataFrame, found: Mapping[str, Sequence[System]], folder: Path) -> str:
    protocols = [name for name in PROTOCOLS if name in set(board["protocol"])] if len(board) else []
    meaning = "".join(f"<li>{plain(line[2:])}</li>" for line in definitions(*protocols).splitlines())
    body = "<h1>What came out? All runs</h1>"
    if len(board):
        body += lead(board) + "\n".join(section(name, rows, found[name], folder) for name, rows in board.groupby("dataset", sort=False))
        body += f'<h2 id="runs">Every run</h2>{table(board, folder)}'
    body += f'{"" if len(board) else EMPTY}<section><h2 id="meaning">What the numbers mean</h2><ul>{meaning}</ul></section>'
    links = {"all runs": ""} | ({"table": "#runs"} if len(board) else {}) | {"what the numbers mean": "#meaning"}
    return document("nrms: all runs", body, links, script="index.js", kind="wide")


def write_tables(folder: Path, board: pd.DataFrame, found: Mapping[str, Sequence[System]]) -> tuple[Path, Path]:
    """leaderboard.csv, comparisons.csv and index.html, which links to the pages that `folder` has. found: the rows of each data set."""
    made = [table_of(differences(name, own), name) for name, own in found.items()]
    for name, table in (("leaderboard", board), ("comparisons", pd.concat(made) if made else table_of([], ""))):
        with atomic(folder / f"{name}.csv") as part:
            table.to_csv(part, index=False, float_format="%.6g")
    with atomic(folder / "index.html") as part:
        part.write_text(index(board, found, folder))
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
    found = {name: [e for e in everything if e.dataset == name] for name in board["dataset"].unique()}
    for name, own in found.items():
        path = folder / name / "compare.html"
        if anew or not is_made_of(path, page_digest(name, own, folder)):
            text = comparisons(name, own, folder)
            with atomic(path) as part:
                part.write_text(text)
    return write_tables(folder, board, found)
