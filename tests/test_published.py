"""Results that are passed on: what is in the folder, and that every number of README.md and of the page of all runs comes from a file in reports/."""

import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from nrms import ROOT, NrmsError
from nrms.config import resolve
from nrms.evaluate import evaluate, evaluate_references
from nrms.publish import BEGIN, END, publish, put_results, results
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


def test_example_reports_are_small():
    """Under 5 MB in all, and no file of them names a machine."""
    files = [path for path in EXAMPLES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5e6 and not list(EXAMPLES.rglob("*.parquet"))
    assert not any(key in json.loads(path.read_text()) for path in EXAMPLES.rglob("run.json") for key in ("host", "pid"))


def test_nothing_finished_is_nothing_to_pass_on(home):
    """Without a finished run the command says what makes one, and writes nothing."""
    with pytest.raises(NrmsError, match="nothing to pass on: `python -m nrms run EXP --dataset newsroom-tiny`"):
        publish("newsroom-tiny", home / "out")
    assert not (home / "out").exists()


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
