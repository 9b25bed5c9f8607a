"""Pages in a browser: nothing is asked of the network, tables sort and filter, everything can be read, and what strangers wrote is text."""

import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import nbformat
import nbformat.v4 as nb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jinja2 import UndefinedError

from nrms import pipeline
from nrms.data.tables import IMPRESSIONS_SCHEMA, ITEMS_SCHEMA, Interactions, Ragged
from nrms.evaluation.metrics import rank_metrics
from nrms.evaluation.protocols import PROTOCOLS
from nrms.report.compare_runs import Examples, most_apart
from nrms.report.experiments import compare, compare_slices, read_systems
from nrms.report.pages import index_page
from nrms.report.pages.layout import document, plain
from nrms.report.pages.notebook_page import render
from nrms.runtime import Run, run_folder, templates
from nrms.runtime.files import write_json

SCRIPT = "<script>window.hacked = 1</script>"
EVIL = f"{SCRIPT}<img src=x onerror='window.hacked = 1'>"
IMPRESSIONS, ITEMS = 80, 30
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="900pt" height="90pt"><circle r="9"/></svg>'


def lists(values, offsets):
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))


def write_data(rng, sizes):
    """Prepared tables of the data set `made-up`, whose titles are an attack; candidates, clicks."""
    offsets, total = np.r_[0, np.cumsum(sizes)], int(sizes.sum())
    candidates = rng.integers(1, ITEMS, total).astype(np.int32)
    clicked = np.zeros(total, bool)
    clicked[offsets[:-1] + rng.integers(sizes)] = True
    folder = index_page.home() / "data" / "made-up"
    folder.mkdir(parents=True)
    texts = {name: [f"{name} {i} {EVIL}" for i in range(ITEMS)] for name in ITEMS_SCHEMA.names}
    pq.write_table(pa.table(texts, schema=ITEMS_SCHEMA), folder / "news.parquet")
    ids = [str(i) for i in range(IMPRESSIONS)]
    history = lists(rng.integers(1, ITEMS, 6 * IMPRESSIONS).astype(np.int32), 6 * np.arange(IMPRESSIONS + 1))
    columns = [ids, ids, pa.array(np.arange(IMPRESSIONS), pa.timestamp("s")), history, lists(candidates, offsets), lists(clicked, offsets)]
    pq.write_table(pa.table(columns, schema=IMPRESSIONS_SCHEMA), folder / "dev.parquet")
    write_json(folder / "manifest.json", {"tables": {"x": "1"}})
    return candidates, clicked, offsets


def write_run(exp, kind, scores, clicked, offsets, **facts):
    """A finished run on impressions, with its scores and two slices."""
    run = Run(run_folder("made-up", exp, 0))
    run.begin(kind=kind, family="a", about=f"{exp} as it is", **facts)
    rows, size = rank_metrics(scores, clicked, offsets), np.diff(offsets)
    columns = {"impression": [str(i) for i in range(len(size))], "history": np.full(len(size), 6), "candidates": size} | rows
    columns |= {"in: few candidates": size < 6, "auc: candidates with a picture": np.where(size > 3, rows["auc"], np.nan)}
    pq.write_table(pa.table(columns | {"scores": lists(scores.astype(np.float32), offsets)}), run.folder / "rows.parquet")
    write_json(run.folder / "metrics.json", {"all": {name: {"mean": float(values.mean())} for name, values in rows.items()}})
    run.update(status="done")
    return run.folder


def write_notebook(path):
    """An executed notebook: a title, method, the answer last; one output that is an attack."""

    def out(**data):
        return [nb.new_output("execute_result", {name.replace("_", "/").replace("svg", "svg+xml"): text for name, text in data.items()})]

    cells = [
        nb.new_markdown_cell("# How good is it?\n\n**Data**: made up."),
        nb.new_markdown_cell("## Working\n\nFirst the work."),
        nb.new_code_cell("work = 1", outputs=[nb.new_output("stream", name="stdout", text="worked\n")]),
        nb.new_code_cell("evil()", outputs=out(text_html=f"<p>shown</p>{SCRIPT}")),
        nb.new_markdown_cell("## Result", metadata={"tags": ["answer"]}),
        nb.new_code_cell("figure()", metadata={"tags": ["answer"]}, outputs=out(image_svg=SVG)),
        nb.new_code_cell("answer()", metadata={"tags": ["answer"]}, outputs=out(text_markdown="**It is good: 0.700.**")),
        nb.new_code_cell("table()", outputs=out(text_html=f"<table>{'<tr>' + '<td>0.123 [0.100, 0.150]</td>' * 12 + '</tr>'}</table>")),
        nb.new_markdown_cell("## What this does not show\n\nMuch."),
    ]
    nbformat.write(nb.new_notebook(cells=cells), path)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of reports: impressions with four finished rows, a failed and a dead run, and a catalogue; two pages of a run."""
    home = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NRMS_HOME", str(home))
        rng = np.random.default_rng(0)
        sizes = rng.integers(3, 9, IMPRESSIONS)
        candidates, clicked, offsets = write_data(rng, sizes)
        facts = {"data": {"x": "1"}, "protocol": "impressions"}
        for exp, kind, skill in (("good", "model", 1.5), ("fair", "model", 0.7), ("content", "baseline", 0.3), ("ceiling_text", "ceiling", 3)):
            scores = skill * clicked + rng.normal(size=len(candidates))
            folder = write_run(exp, kind, scores, clicked, offsets, params=1234 if exp == "good" else 999, **facts)
            if kind == "model":
                for name in ("train", "eval"):
                    write_notebook(folder / f"{name}.ipynb")
                    render(folder / f"{name}.ipynb", folder / f"{name}.html")
        Run(run_folder("made-up", "broken", 0)).begin(kind="model")
        Run(run_folder("made-up", "broken", 0)).update(status="failed", error=EVIL)
        Run(run_folder("made-up", "gone", 0)).begin(kind="model")
        Run(run_folder("made-up", "gone", 0)).update(pid=2**22 + 1)
        for exp, kind in (("sasrec", "model"), ("random", "baseline")):
            write_catalogue_run(rng, exp, kind)
        index_page.write()
        pipeline.link_again([run_folder("made-up", "good", 0)])  # now that there is more to link to
        found = {name: [e for e in read_systems(name) if e.status == "done"] for name in ("made-up", "shop")}
        assert all(len(e.rows) for rows in found.values() for e in rows)  # read while the home is this one
    reports = home / "reports"
    run = reports / "made-up" / "good" / "seed0" / "eval.html"
    pages = {"index": reports / "index.html", "compare": reports / "made-up" / "compare.html", "shop": reports / "shop" / "compare.html", "run": run}
    return SimpleNamespace(reports=reports, found=found, clicked=clicked, offsets=offsets, **pages)


def write_catalogue_run(rng, exp, kind):
    """A finished run on a catalogue whose data are not there any more."""
    from nrms.evaluation.metrics import catalogue_metrics

    run = Run(run_folder("shop", exp, 0))
    run.begin(kind=kind, family="a", protocol="catalogue")
    better = rng.integers(0, 90, 50)
    rows = catalogue_metrics(better, np.zeros(50, int))
    columns = {"impression": [f"u{i}" for i in range(50)], "history": np.full(50, 3)} | rows | {"in: item new": np.arange(50) < 9}
    columns |= {"items": lists(np.arange(50), np.arange(51)), "ranks": lists(better + 1.0, np.arange(51)), "first": [[i, i + 1] for i in range(50)]}
    pq.write_table(pa.table(columns), run.folder / "rows.parquet")
    write_json(run.folder / "metrics.json", {"all": {name: {"mean": float(values.mean())} for name, values in rows.items()}})
    run.update(status="done")


@pytest.fixture
def visit(browser):
    """Opens a page; what it logs and what it asks for beside itself is kept and must be nothing."""
    contexts, said = [], []

    def go(path, query="", width=1280, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, **options))
        tab = contexts[-1].new_page()
        tab.on("console", lambda m: said.append(m.text))
        tab.on("pageerror", lambda e: said.append(str(e)))
        tab.on("request", lambda r: said.append(r.url) if r.url.split("#")[0] != path.as_uri() and not r.url.startswith("data:") else None)
        tab.goto(path.as_uri() + query)
        return tab

    yield go
    for context in contexts:
        context.close()
    assert not [text for text in said if "Content Security Policy" not in text], said


NAMES = ("index", "compare", "shop", "run")


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_quiet_and_fits_a_phone(site, visit, name):
    """No error, no request, nothing to scroll sideways to at 360 pixels but tables, in boxes of their own."""
    tab = visit(getattr(site, name), width=360)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.title() and tab.locator("h1").count() == 1 and tab.evaluate("window.hacked") is None


CONTRAST = """() => {
  const paint = (css) => { const c = css.match(/[\\d.]+/g).map(Number); return c.length < 4 ? [...c, 1] : c };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => { const c = paint(getComputedStyle(e).backgroundColor); return c[3] || !e.parentElement ? c : behind(e.parentElement) };
  const says = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  const own = [...document.querySelectorAll('main *, nav *')].filter((e) => e.checkVisibility() && !e.closest('svg') && says(e));
  return own.map((e) => { const [a, b] = [light(paint(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), e.outerHTML.slice(0, 80)] }).sort((x, y) => x[0] - y[0])[0];
}"""
TABLES = "[...document.querySelectorAll('table')].map((t) => [t.checkVisibility(), t.getBoundingClientRect().right])"
DOTS = """[...document.querySelectorAll('#board tr[data-dataset=made-up] svg')].map((s) =>
  [s.closest('td').dataset.by, s.querySelector('circle').getAttribute('cx')].map(Number))"""
ABOUT = r"(\d+), (\d+) candidates: AUC ([\d.]+) by good, ([\d.]+) by content"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_text_can_be_read(site, visit, name, scheme):
    """Every text stands out from what is behind it by 4.5 at least (WCAG AA)."""
    tab = visit(getattr(site, name), color_scheme=scheme)
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    least, where = tab.evaluate(CONTRAST)
    assert dark == (scheme == "dark") and least >= 4.5, where


@pytest.mark.parametrize("name", NAMES)
def test_a_page_can_be_printed(site, visit, name):
    """On paper, also from a dark screen: black on white, every table whole and within the page, no controls."""
    width = 1047 if name == "index" else 718  # A4 without its margins
    tab = visit(getattr(site, name), width=width, color_scheme="dark")
    tab.emulate_media(media="print")
    assert all(shown and right <= width + 1 for shown, right in tab.evaluate(TABLES))
    assert tab.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert not any(e.is_visible() for e in tab.locator("form, nav, details.code").all())


class Targets(HTMLParser):
    """Every address that a page names, and every id that it has."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("href", "src")]
        self.ids |= {value for name, value in attributes if name == "id"}


def test_every_link_leads_somewhere(site):
    """Links and pictures of all pages: a file that is there, a place on the page, or a picture that stands in it."""
    pages = sorted(site.reports.rglob("*.html"))
    for path in pages:
        found = Targets(path.read_text().replace(EVIL, ""))
        assert found.addresses
        for address in found.addresses:
            inside = address.startswith("data:image/") or re.fullmatch(r"#a=\d+&b=\d+", address) or address.removeprefix("#") in found.ids
            assert inside or (path.parent / address).is_file(), (path, address)
    assert len(pages) == 7 and Targets(site.run.read_text()).addresses[:3] == ["../../../index.html", "../../compare.html", "train.html"]
    assert Targets((site.run.parents[2] / "fair" / "seed0" / "eval.html").read_text()).addresses[:2] == ["../../../index.html", "train.html"]


def column(tab, name):
    """The cells of one column of the table, in the rows that are in view, as they are sorted."""
    return tab.evaluate(
        """(name) => { const at = [...document.querySelectorAll('#board th')].findIndex((h) => h.dataset.name === name);
        return [...document.querySelectorAll('#board tbody tr')].filter((r) => !r.hidden).map((r) => r.cells[at].dataset.by) }""",
        name,
    )


def test_the_table_sorts(site, visit):
    """By numbers, largest first, then the other way; by names; by key as by mouse; what is missing stands last both ways."""
    tab = visit(site.index)
    tab.click("th[data-name=params] button")
    assert column(tab, "params") == ["1234.0", "999.0", "999.0", "999.0", "", "", "", ""]
    head = tab.locator("th[data-name=main]")
    head.locator("button").focus()
    tab.keyboard.press("Enter")
    values = column(tab, "main")
    numbers = [float(v) for v in values if v]
    assert numbers == sorted(numbers, reverse=True) and values[-2:] == ["", ""] and head.get_attribute("aria-sort") == "descending"
    tab.keyboard.press("Space")
    assert column(tab, "main") == [*reversed(values[:-2]), "", ""] and head.get_attribute("aria-sort") == "ascending"
    tab.click("th[data-name=name] button")
    assert column(tab, "name") == sorted(column(tab, "name")) and head.get_attribute("aria-sort") is None


def test_the_table_filters_and_the_address_keeps_it(site, visit):
    """Words and choices; metrics that no row in view has are hidden; the address brings the same view back; `all rows` clears it."""
    tab = visit(site.index)
    assert tab.locator("#board tbody tr:visible").count() == 8 and tab.locator("th[data-name=hr50]").is_visible()
    tab.select_option("select[name=dataset]", "made-up")
    assert not tab.locator("th[data-name=hr50]").is_visible() and tab.locator("#filter output").inner_text() == "6 of 8 rows"
    tab.select_option("select[name=status]", "failed")
    assert column(tab, "name") == ["broken"]
    tab.select_option("select[name=status]", "")
    tab.fill("input[name=words]", "GOO")
    tab.click("th[data-name=n] button")
    assert column(tab, "name") == ["good"]
    again = visit(site.index, tab.url.removeprefix(site.index.as_uri()))
    assert column(again, "name") == ["good"] and again.locator("th[data-name=n]").get_attribute("aria-sort") == "descending"
    again.click("button[type=reset]")
    again.wait_for_function("document.querySelector('#filter output').textContent == '8 of 8 rows'")  # the form clears itself a moment later


def write_long_run(dataset, exp, protocol, kind="model", seeds=(0,), error="", **facts):
    """Runs with the long names and large numbers of real ones, two pages each; or a failed one."""
    rng = np.random.default_rng(0)
    for seed in seeds:
        run = Run(run_folder(dataset, exp, seed))
        run.begin(kind=kind, family="a", protocol=protocol, **facts)
        rows = {name: rng.random(20) for name in PROTOCOLS[protocol].metrics}
        pq.write_table(pa.table({"impression": [str(i) for i in range(20)]} | rows), run.folder / "rows.parquet")
        write_json(run.folder / "metrics.json", {"all": {name: {"mean": float(values.mean())} for name, values in rows.items()}})
        run.update(status="failed" if error else "done", error=error)
        for name in ("train", "eval") if kind == "model" else ():
            (run.folder / f"{name}.html").write_text(document(name, "", {}))


@pytest.fixture(scope="module")
def long_site(tmp_path_factory):
    """The page of all runs of one data set with long names, several seeds and large numbers, and that of three data sets, each judged in its way."""
    home = tmp_path_factory.mktemp("long")
    config = {"text": True, "image": True, "fusion": "hadamard_blank", "tuning": "lora", "given": {"lr": 0.0003, "history": 50}}
    facts = {"params": 123_456_789, "trainable": 12_345_678, "samples": 12_345_678, "encoded": 123_456_789, "minutes": 1234.5, "peak_mb": 45_678}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NRMS_HOME", str(home))
        pages = []
        for dataset, protocol in (("mind-large", "impressions"), ("microlens-100k", "catalogue"), ("amazon-baby-random", "sets")):
            write_long_run(dataset, "exp2_pointwise_unmasked", protocol, seeds=range(5), config=config, **facts)
            write_long_run(dataset, "missrec_tenth_interests", protocol, seeds=range(3), config=config, **facts)
            write_long_run(dataset, "content", protocol, "baseline", about="TF-IDF cosine of the title to the mean of the history's titles")
            write_long_run(dataset, "ceiling_text", protocol, "ceiling", about="the true taste for what titles say, alone")
            write_long_run(dataset, "alignrec_unaligned", protocol, error="CUDA out of memory: tried to allocate 20.00 GiB", config=config)
            pages.append(index_page.write()[1].rename(home / "reports" / f"index{len(pages)}.html"))
    return pages[0], pages[-1]


BOX = "[document.querySelector('#board').parentElement].map((box) => box.scrollWidth - box.clientWidth)[0]"
COLUMNS = "[...document.querySelectorAll('#board th')].filter((h) => !h.hidden).map((h) => h.dataset.name)"


def test_all_columns_are_in_view(long_site, visit):
    """On a screen of 1400 pixels the table of one data set has no column outside of its box, also where others are on the page and not in view."""
    tab = visit(long_site[0], width=1400)
    assert tab.evaluate(BOX) <= 0 and tab.evaluate(COLUMNS)[-4:] == ["params", "samples", "minutes", "peak_mb"]
    tab = visit(long_site[1], width=1400)
    for dataset in ("mind-large", "microlens-100k", "amazon-baby-random"):
        tab.select_option("select[name=dataset]", dataset)
        assert tab.evaluate(BOX) <= 0 and tab.evaluate(COLUMNS)[-2:] == ["minutes", "peak_mb"], dataset


def test_a_main_metric_is_one_column(long_site, visit):
    """By itself a data set has its main metric once, and sorts by it; where protocols mix in view each has a column by its name besides."""
    tab = visit(long_site[0])
    assert "auc" not in tab.evaluate(COLUMNS) and "mrr" in tab.evaluate(COLUMNS) and tab.locator("th[data-name=main]").inner_text()[:3] == "AUC"
    tab = visit(long_site[1])
    assert {"auc", "ndcg10", "recall20"} < set(tab.evaluate(COLUMNS))
    for dataset, main in (("mind-large", "auc"), ("microlens-100k", "ndcg10"), ("amazon-baby-random", "recall20")):
        tab.select_option("select[name=dataset]", dataset)
        assert {"auc", "ndcg10", "recall20"} & set(tab.evaluate(COLUMNS)) == ({"ndcg10"} - {main})
        tab.click("th[data-name=main] button")
        numbers = [float(value) for value in column(tab, "main") if value]
        assert len(numbers) == 4 and numbers in (sorted(numbers), sorted(numbers, reverse=True))
    tab.click("button[type=reset]")
    tab.click("th[data-name=auc] button")
    assert sum(value != "" for value in column(tab, "auc")) == 4


def test_pages_without_scripts(site, visit):
    """All rows and all differences are there; what needs a script is not."""
    tab = visit(site.index, java_script_enabled=False)
    assert tab.locator("#board tbody tr:visible").count() == 8 and not tab.locator("#filter").is_visible()
    tab = visit(site.compare, java_script_enabled=False)
    assert tab.locator(".matrix tbody tr").count() == 4 and tab.locator("noscript").count() == 1


def test_failed_and_dead_runs_are_rows(site, visit):
    """With the reason, as text."""
    tab = visit(site.index)
    assert tab.locator("tr.failed .status small").inner_text() == EVIL and tab.locator("tr.dead").count() == 1
    assert tab.evaluate("window.hacked") is None


def test_small_pictures_show_the_numbers(site, visit):
    """Each finished row has its dot between the ends of its interval, on a scale that its data set shares; each data set has a panel."""
    tab = visit(site.index)
    assert tab.locator("#board svg.bar").count() == 6 and tab.locator("svg.panel").count() == 2 and tab.locator("svg.panel circle").count() == 6
    drawn = tab.evaluate(DOTS)
    (x0, at0), (x1, at1), *rest = drawn
    slope = (at1 - at0) / (x1 - x0)
    assert slope > 0 and all(at == pytest.approx(at0 + slope * (x - x0), abs=0.2) for x, at in rest)


def embedded(path):
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1])


@pytest.mark.parametrize("dataset", ["made-up", "shop"])
def test_compared_numbers_are_those_of_compare(site, dataset):
    """Every pair in every slice: mean, interval, p, n and seeds of `compare_slices` of this pair alone, to four digits."""
    rows, known = site.found[dataset], embedded(site.reports / dataset / "compare.html")
    pairs = iter(known["pairs"])
    assert len(known["slices"]) == len(compare_slices(rows)) > 1 and known["rows"] == [e.exp for e in rows]
    for j in range(len(rows)):
        for i in range(j):
            alone = compare_slices([rows[i], rows[j]])
            for numbers, name in zip(next(pairs)[0], known["slices"], strict=True):
                wanted = alone[name][0, 1]
                assert numbers == pytest.approx([getattr(wanted, k) for k in ("mean", "low", "high", "p", "n", "seeds")], rel=1e-3)


def test_any_two_are_compared(site, visit):
    """The pair in the address, its numbers as `compare` has them; swapped, the same with the other sign."""
    rows = site.found["made-up"]
    names = [e.exp for e in rows]
    a, b = names.index("content"), names.index("good")
    tab = visit(site.compare, f"#a={a}&b={b}")
    result = compare(rows[a], rows[b])
    mean, low, high = (f"{-value:.3f}" for value in (result.mean, result.low, result.high))
    says = tab.locator("#shown .answer").inner_text()
    assert says.startswith(f"content against good: AUC −{mean} (95 % interval −{low} to −{high}, of these trainings, over users; p < 0.001")
    assert f"n = {result.n} impressions" in says
    tab.click("#pair button")
    says = tab.locator("#shown .answer").inner_text()
    assert says.startswith(f"good against content: AUC +{mean} (95 % interval +{high} to +{low}")
    tab.select_option("select[name=b]", label="ceiling_text")
    assert tab.locator("#shown .answer").inner_text().startswith("good against ceiling_text") and f"#a={b}&b=" in tab.url


@pytest.mark.parametrize(("protocol", "wanted"), [("catalogue", [7, 8]), ("sets", [])])
def test_what_was_read_before_is_never_the_answer(protocol, wanted):
    """The beginning of a user's log, where the next item is asked for; nothing where what is asked for was drawn from anywhere in it."""
    examples = Examples("movies", pd.Index(["u1"]), PROTOCOLS[protocol])
    examples.positions, examples.log = np.array([0]), Interactions(np.array(["u1"]), Ragged(np.array([7, 8, 9]), np.array([0, 3])), np.arange(3))
    assert examples.before(0, 2).tolist() == wanted


def test_examples_are_the_largest_differences(site, visit):
    """Three each way, most first, with ranks from the scores and titles as text; none where it is nowhere above."""
    rows = site.found["made-up"]
    names = [e.exp for e in rows]
    a, b = names.index("good"), names.index("content")
    tab = visit(site.compare, f"#a={a}&b={b}")
    wanted = np.sort((rows[a].main - rows[b].main).to_numpy())[::-1][:3]
    found = [re.search(ABOUT, text) for text in tab.locator(".example > p.dim").all_inner_texts()]
    assert [float(m[3]) - float(m[4]) for m in found[:3]] == pytest.approx(wanted, abs=2e-3) and len(found) == 6
    row = int(found[0][1])
    begin, end = site.offsets[row], site.offsets[row + 1]
    scores = pq.read_table(rows[a].runs[0].folder / "rows.parquet")["scores"][row].as_py()
    rank = 1 + np.sum(np.array(scores) > np.array(scores)[site.clicked[begin:end]])
    cells = tab.locator(".example").first.locator("tr.right td").all_inner_texts()
    assert int(found[0][2]) == end - begin and cells[1:3] == ["yes", str(rank)] and EVIL in cells[0]
    assert most_apart(np.array([0.2, 0.4]), np.array([0.2, 0.5]), np.zeros(2)).tolist() == []
    assert most_apart(np.array([1, 1, np.nan, 1.0]), np.array([0, 0.5, 0, 0.0]), np.array([3, 9, 9, 4])).tolist() == [3, 0, 1]
    tab = visit(site.shop)
    assert "item " in tab.locator(".example td").first.inner_text()


def test_a_notebook_opens_with_its_answer(site, visit):
    """Title, sentence, figure (which the work had before it); then method in its order, code folded, tables in boxes; no script of an output runs."""
    tab = visit(site.run)
    text = tab.locator("main").inner_text()
    order = ["How good is it?", "Result", "It is good: 0.700.", "How it was found", "Working", "worked", "shown", "What this does not show"]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
    assert tab.title() == "How good is it? made-up / good / seed0" and tab.evaluate("window.hacked") is None
    figure = tab.locator("img.drawing")
    assert figure.get_attribute("alt") == "Figure: Result" and figure.evaluate("(i) => i.naturalWidth") > 0
    assert tab.get_by_text("It is good: 0.700.").bounding_box()["y"] < figure.bounding_box()["y"]
    assert not tab.get_by_text("work = 1").is_visible()
    tab.locator("summary").nth(2).click()
    assert tab.get_by_text("work = 1").is_visible() and site.run.stat().st_size < 60_000


def test_lifted_figures_keep_their_names(tmp_path):
    """What a figure is called comes from the heading above it in the notebook, not from where the page shows it."""
    cells = [
        nb.new_markdown_cell("# How good is it?"),
        nb.new_markdown_cell("## Curves"),
        nb.new_code_cell("figure()", metadata={"tags": ["answer"]}, outputs=[nb.new_output("display_data", {"image/svg+xml": SVG})]),
    ]
    nbformat.write(nb.new_notebook(cells=cells), tmp_path / "a.ipynb")
    render(tmp_path / "a.ipynb", tmp_path / "a.html")
    assert 'alt="Figure: Curves"' in (tmp_path / "a.html").read_text()


def test_pages_send_nothing_anywhere():
    """No form of a page leads away, and no text in it can say where its links begin."""
    assert "form-action 'none'; base-uri 'none'" in document("a", "", {})


def test_a_template_escapes_what_it_is_given():
    """Text is text, in attributes too; what a template made is taken as it is; what a template asks for and is not given is an error."""
    bar = templates.render("serve/bar.html.j2", name=EVIL, fill='"', zero="", number="1 < 2")
    assert EVIL not in bar and '<i style="&quot;"></i>' in bar and "<b>1 &lt; 2</b>" in bar
    assert bar in document("a", bar, {}) and EVIL not in document("a", EVIL, {})
    assert type(document("a", bar, {})) is str and ("<p>" + document("a", bar, {})).startswith("<p>")
    with pytest.raises(UndefinedError, match="'number' is undefined"):
        templates.render("serve/bar.html.j2", name="a", fill="", zero="")


def test_markdown_of_computed_sentences():
    """Strong words and code stay; all else is text."""
    assert plain("**a <b>** and `c` & d") == "<b>a &lt;b&gt;</b> and <code>c</code> &amp; d"
