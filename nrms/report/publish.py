"""How are results passed on? As a folder of pages and of the small files behind their numbers: no data set, no weights, no scores.

Pages quote some titles, pictures and lines of the data; `--no-pages` leaves all but index.html out where these may not be passed on.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nrms import NrmsError, home
from nrms.evaluation.protocols import PROTOCOLS, Protocol
from nrms.report import figures
from nrms.report.experiments import KINDS, read_systems
from nrms.report.format import name_only, number, thousands, with_interval
from nrms.report.pages import index_page
from nrms.report.pages.layout import OF_A_DATA_SET, OF_A_RUN
from nrms.report.planned_comparisons import from_table, summary
from nrms.report.result_tables import leaderboard
from nrms.runtime.files import atomic_folder, read_json, write_json, write_text

PRIVATE = ("host", "pid", "process_started", "error")  # facts of run.json that say where, and nothing of what
FILES = ("metrics.json", "diagnostics.json", "beyond.json")
TABLES = ("index.html", "leaderboard.csv", "comparisons.csv", "ranking.svg")  # a folder with these was written here before
BEGIN, END = "<!-- results: written by `python -m nrms publish`, checked by tests/test_published.py -->\n", "<!-- end of results -->"


def publish(dataset: str, target: Path, *, pages: bool = True) -> Path:
    """Makes the folder `target` anew from the finished runs of a data set: index.html, leaderboard.csv, comparisons.csv, ranking.svg, of each run its
    record and metrics, and, if `pages`, all pages that are there.

    Raises NrmsError where nothing is finished, and where `target` may not be replaced.
    """
    target = target.resolve()
    check_target(target)
    index_page.write(anew=True)
    systems = [s for s in read_systems(dataset) if s.status == "done"]
    if not any(s.kind == "model" for s in systems):
        raise NrmsError(f"No run on {dataset} is finished, so there is nothing to pass on: `python -m nrms run EXP --dataset {dataset}` makes one.")
    reports = home() / "reports"
    with atomic_folder(target) as folder:
        for system in systems:
            for run in system.runs:
                copy_run(run.folder, folder / run.folder.relative_to(reports), OF_A_RUN if pages else ())
        copy(reports / dataset, folder / dataset, [f"{name}.html" for name in OF_A_DATA_SET if pages])
        index_page.write_tables(folder, leaderboard(dataset, systems=systems), {dataset: systems})
        figures.ranking(dataset).savefig(folder / "ranking.svg", metadata={"Date": None})
    return target


def check_target(target: Path) -> None:
    """Raises NrmsError where a folder is not to take the place of `target`: it holds what `publish` did not write, or is a place of data or runs."""
    data, reports = (home() / "data").resolve(), (home() / "reports").resolve()
    if data.is_relative_to(target) or target.is_relative_to(data) or reports.is_relative_to(target):
        raise NrmsError(f"{target} is, holds or lies in the place of data or of runs ({data}, {reports}): give `--to` another folder.")
    if target.exists() and not target.is_dir():
        raise NrmsError(f"{target} is a file: give `--to` a folder that is not there yet.")
    names = {path.name for path in target.iterdir()} if target.exists() else set()
    others = sorted(names - set(TABLES))  # the runs of one data set
    if names and (not names.issuperset(TABLES) or len(others) > 1 or any(name.startswith(".") for name in others)):
        strange = ", ".join(others[:3] or sorted(names))
        raise NrmsError(
            f"{target} would be made anew, but holds what was not written by `publish` ({strange}): give `--to` a folder that is empty or not there."
        )


def copy(source: Path, target: Path, names: list[str]) -> None:
    """Those of the files `names` that are there."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


def copy_run(source: Path, target: Path, pages: Sequence[str]) -> None:
    """The record of a run, of whose paths only the last names are kept, what its numbers are made of, and these pages."""
    copy(source, target, [*FILES, *(f"{name}.html" for name in pages)])
    record = {key: value for key, value in read_json(source / "run.json").items() if key not in PRIVATE}
    write_json(target / "run.json", name_only(record))


def results(folder: Path) -> str:
    """What a published data set says, in Markdown: its questions with their computed answers, and one table. folder: that of `publish`."""
    board = pd.read_csv(folder / "leaderboard.csv", dtype={"seeds": str})
    comparisons = from_table(pd.read_csv(folder / "comparisons.csv", dtype={"seeds": str}))
    answers = ""
    for question in dict.fromkeys(d.question for d in comparisons):
        answers += f"- **{question}** {summary(question, [d for d in comparisons if d.question == question])}\n"
    board = board[board["status"] == "done"].fillna({"inputs": ""})
    protocol, seeds = PROTOCOLS[board["protocol"].iloc[0]], board.loc[board["kind"] == "model", "seeds"].unique()
    board = board.assign(order=board["kind"].map(KINDS.index)).sort_values(["order", protocol.main], ascending=[True, False])
    table = pd.DataFrame([line(row, protocol) for _, row in board.iterrows()])
    table = table if len(seeds) > 1 else table.drop(columns="seeds")
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in [table.columns, ["---"] * table.shape[1], *table.to_numpy()])
    mean = f"mean over {'seeds' if len(seeds) != 1 else f'seeds {seeds[0]}'}"
    about = f"{board['dataset'].iloc[0]}, {board['n'].max():,.0f} test {protocol.units}, {mean}; in brackets the 95 % interval."
    return f"{answers}\n{about[0].upper()}{about[1:]}\n\n{lines}\n"


def line(row: pd.Series, protocol: Protocol) -> dict[str, str]:
    """One row of the table of `results`: {column: cell}."""
    is_model = row["kind"] == "model"
    cells = {"": f"`{row['exp']}`" if is_model else f"*{row['exp']}*", "reads": row["inputs"] if is_model else row["kind"]}
    for name in protocol.displayed:
        cells[protocol.metrics[name][0]] = with_interval(row, name) if name == protocol.main else number(row[name])
    cells |= {"against the best baseline": with_interval(row, "difference", "+"), "weights that learn": thousands(row["trainable"])}
    return cells | {"seeds": row["seeds"] if is_model else ""}


def put_results(readme: Path, folder: Path) -> None:
    """Writes `results` between the two marks of a README. Raises NrmsError where it has none."""
    text = readme.read_text()
    if BEGIN not in text or END not in text:
        raise NrmsError(f"{readme} has no place for results; write these two lines where they belong:\n{BEGIN}{END}")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    write_text(readme, text[:begin] + results(folder) + text[end:])
