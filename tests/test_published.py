"""Results that are passed on: what is in the folder, and that every number of README.md and of the page of all runs comes from a file in reports/."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_report import fake

from nrms import ROOT, NrmsError
from nrms.config import resolve
from nrms.evaluate import evaluate, evaluate_references
from nrms.report.publish import BEGIN, END, publish, put_results, results
from nrms.runtime import Run, run_folder
from nrms.train import train

EXAMPLES = ROOT / "reports" / "examples"
READMES = [ROOT / "README.md", ROOT / "README.zh.md"]
NUMBER = re.compile(r"(?<![\w.@])[+-]?\d[\d,]*(?:\.\d+)?%?(?![\w@])")


class Texts(HTMLParser):
    """The texts of a page that a reader sees."""

    def __init__(self):
        super().__init__()
        self.inside, self.found = [], []

    def handle_starttag(self, tag, attributes):
        self.inside += [tag] if tag in ("script", "style", "svg") else []

    def handle_endtag(self, tag):
        if self.inside and tag == self.inside[-1]:
            self.inside.pop()

    def handle_data(self, data):
        self.found += [] if self.inside else [data]


def written(value):
    """Every way in which a page writes a number of a file."""
    if isinstance(value, str):
        return set(NUMBER.findall(value))
    if pd.isna(value):
        return set()
    return {form.format(value) for form in ("{:.3f}", "{:+.3f}", "{:.1f}", "{:,.0f}", "{:.0%}", "{:g}")}


@pytest.fixture(scope="module")
def tables():
    """leaderboard.csv and comparisons.csv of the example reports."""
    return [pd.read_csv(EXAMPLES / f"{name}.csv", dtype={"seeds": str}) for name in ("leaderboard", "comparisons")]


@pytest.fixture(scope="module")
def known(tables):
    """All numbers of both, as they can be written, and how many rows of each kind and verdict there are."""
    found = {form for table in tables for row in table.itertuples() for value in row[1:] for form in written(value)}
    return found | {str(n) for n in range(len(tables[0]) + 1)} | {"0.05", "95", "0.001"}


def test_numbers_of_the_leaderboard_are_those_of_the_runs(tables):
    """Each mean of leaderboard.csv is the mean over seeds of what the runs' metrics.json say; n, minutes and parameters too."""
    for row in tables[0].to_dict("records"):
        folders = [EXAMPLES / row["dataset"] / row["exp"] / f"seed{seed}" for seed in row["seeds"].split()]
        metrics = [json.loads((folder / "metrics.json").read_text())["all"] for folder in folders]
        for name in ("auc", "mrr", "ndcg5", "ndcg10"):
            assert row[name] == pytest.approx(sum(m[name]["mean"] for m in metrics) / len(metrics), rel=1e-5)
            assert {m[name]["n"] for m in metrics} == {row["n"]}
        records = [json.loads((folder / "run.json").read_text()) for folder in folders]
        for name in ("minutes", "params", "trainable"):
            if pd.notna(row[name]):
                assert row[name] == pytest.approx(sum(r[name] for r in records) / len(records), rel=1e-5)


def test_numbers_of_the_page_come_from_the_tables(known):
    """Whatever number a reader sees on the page of all runs, before its definitions, is a number of leaderboard.csv or comparisons.csv."""
    parser = Texts()
    parser.feed((EXAMPLES / "index.html").read_text().partition("What the numbers mean</h2>")[0])
    strange = {n for text in parser.found for n in NUMBER.findall(text) if n.rstrip(",") not in known and n.lstrip("+") not in known}
    assert len(parser.found) > 100 and not strange


@pytest.mark.parametrize("path", READMES, ids=lambda p: p.name)
def test_the_results_of_a_readme_are_those_of_the_example_reports(path):
    """Between its marks stands what `results` makes of reports/examples; `python -m nrms publish` writes it."""
    text = path.read_text()
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)] == results(EXAMPLES)


@pytest.mark.parametrize("path", READMES, ids=lambda p: p.name)
def test_other_results_in_a_readme_stand_in_reports(path, known):
    """A number with decimals outside of the table and of commands is one of the tables' or of LOG.md's, or a setting."""
    text = path.read_text()
    text = text[: text.index(BEGIN)] + text[text.index(END) :]
    prose = re.sub(r"```.*?```|^    .*$|`[^`\n]*`|\]\([^)]*\)", "", text, flags=re.S | re.M)
    log = set(NUMBER.findall((ROOT / "reports" / "LOG.md").read_text()))
    versions = {"2.13.0", "2.13", "3.10", "3.13", "2.0", "0.5"}
    found = {n for n in NUMBER.findall(prose) if "." in n}
    assert not {n for n in found if n not in known | log | versions}


class Links(HTMLParser):
    """What a page links to or shows."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("href", "src") and value]


def test_links_of_the_example_reports_resolve():
    """Every link and every picture of every page is there, in the folder or in the page itself; nothing is asked of the network."""
    pages = list(EXAMPLES.rglob("*.html"))
    for page in pages:
        links = Links()
        links.feed(page.read_text())
        files = [link.partition("#")[0] for link in links.found if not link.startswith(("#", "data:"))]
        assert files and all((page.parent / file).is_file() for file in files if file), page
    assert len(pages) >= 8


def test_example_reports_are_small():
    """Under 5 MB in all, and no file of them names a machine."""
    files = [path for path in EXAMPLES.rglob("*") if path.is_file()]
    assert len(files) > 50 and sum(path.stat().st_size for path in files) < 5e6 and not list(EXAMPLES.rglob("*.parquet"))
    assert not any(key in json.loads(path.read_text()) for path in EXAMPLES.rglob("run.json") for key in ("host", "pid"))


def test_nothing_finished_is_nothing_to_pass_on(home):
    """Without a finished run the command says what makes one, and writes nothing."""
    with pytest.raises(NrmsError, match="nothing to pass on: `python -m nrms run EXP --dataset newsroom-tiny`"):
        publish("newsroom-tiny", home / "out")
    assert not (home / "out").exists()


@pytest.fixture
def judged(home):
    """A home with a model and a baseline of a made-up data set."""
    for exp, kind, more in (("exp4", "model", 0.1), ("content", "baseline", 0)):
        fake(exp, 0, np.linspace(0, 0.5, 50) + more, kind, n=50)
    Run(run_folder("made-up", "exp4", 0)).update(config={"checkpoint": "/home/me/best.safetensors"}, error="in /home/me")
    (run_folder("made-up", "exp4", 0) / "eval.html").write_text("a title")
    return home


def test_what_is_there_is_not_deleted(judged, monkeypatch):
    """A folder that holds anything else, a file, and the places of data and runs are refused with a sentence; what publish wrote is made anew."""
    (judged / "mine").mkdir()
    (judged / "mine" / "thesis.tex").write_text("years")
    (judged / "data").mkdir()
    monkeypatch.chdir(judged / "mine")
    for target in ("mine", "mine/thesis.tex", "data", "data/new", "reports", "reports/made-up", ".", "/"):
        with pytest.raises(NrmsError, match=r"would be made anew|is a file|in the place of data"):
            publish("made-up", Path(target) if target in "./" else judged / target)
    assert (judged / "mine" / "thesis.tex").exists() and run_folder("made-up", "exp4", 0).exists()
    (judged / "empty").mkdir()
    for target in (judged / "empty", judged / "reports" / "examples", judged / "reports" / "examples"):
        assert (publish("made-up", target) / "index.html").exists()
    (target / "notes.txt").write_text("mine")
    (target / "more").mkdir()
    with pytest.raises(NrmsError, match="more, notes.txt"):
        publish("made-up", target)


def test_pages_can_be_left_out(judged):
    """Without them nothing of the data is passed on but names; index.html links to what is there."""
    with_pages, without = publish("made-up", judged / "a"), publish("made-up", judged / "b", pages=False)
    assert {p.name for p in with_pages.rglob("*.html")} == {"index.html", "compare.html", "eval.html"}
    assert [p.name for p in without.rglob("*.html")] == ["index.html"] and ".html" not in (without / "index.html").read_text().split("</style>")[1]


def test_records_that_are_passed_on_say_no_place(judged):
    """Of paths the last name is kept; an error, which may quote one, is not."""
    record = json.loads((publish("made-up", judged / "a") / "made-up" / "exp4" / "seed0" / "run.json").read_text())
    assert record["config"] == {"checkpoint": "best.safetensors"} and "error" not in record


def test_seeds_of_each_model_are_said(judged):
    """In the sentence where all have the same, else in a column; rows that were judged otherwise are not in the table."""
    fake("exp3", 0, np.linspace(0, 0.5, 50), n=50)
    assert "mean over seeds 0; in brackets" in results(publish("made-up", judged / "a"))
    fake("exp4", 1, np.linspace(0, 0.5, 50), n=50)
    for exp in ("exp4", "exp3"):
        Run(run_folder("made-up", exp, 0)).update(config={})
    fake("strange", 0, np.linspace(0, 0.5, 50), n=50, protocol="sets")
    text = results(publish("made-up", judged / "a"))
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert "mean over seeds; in brackets" in text and rows[0][-1] == "seeds |" and len({len(row) for row in rows}) == 1
    assert {row[0]: row[-1] for row in rows[2:]} == {"| `exp4`": "0 1 |", "| `exp3`": "0 |", "| *content*": " |"}


def test_what_is_passed_on(place):
    """Pages that are there, tables, records that name no machine; no rows, no weights. A README gets the table, or it is said what it lacks."""
    config, home = resolve(4, "newsroom-tiny", device="cpu", epochs=1, name="exp4"), place
    train(config)
    evaluate(config)
    evaluate_references(config)
    target = publish("newsroom-tiny", home / "out")
    names = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert {"index.html", "leaderboard.csv", "comparisons.csv", "ranking.svg", "newsroom-tiny/compare.html"} <= names
    assert {"newsroom-tiny/exp4/seed0/run.json", "newsroom-tiny/exp4/seed0/metrics.json", "newsroom-tiny/random/seed0/metrics.json"} <= names
    assert not [name for name in names if name.endswith((".parquet", ".safetensors"))]
    (home / "a.md").write_text(f"before\n{BEGIN}old\n{END}\nafter")
    put_results(home / "a.md", target)
    assert (home / "a.md").read_text() == f"before\n{BEGIN}{results(target)}{END}\nafter" and "`exp4`" in results(target)
    (home / "b.md").write_text("nothing")
    with pytest.raises(NrmsError, match="no place for results"):
        put_results(home / "b.md", target)
