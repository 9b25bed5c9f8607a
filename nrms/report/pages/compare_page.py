"""How do any two runs differ? compare.html of a data set: every two finished rows, in every slice, and the impressions where they differ most.

All of it is computed here, from files, and stands in the page; its script only shows the pair that is chosen.
"""

import hashlib
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from nrms.evaluation.statistics import compare_all
from nrms.report.experiments import KINDS, System, by_slice, comparable, protocol_of, why_not_comparable
from nrms.report.pages.disagreements import Rankings, Shown, example, most_apart, sizes
from nrms.report.pages.layout import PAGES, document, embedded, links_of

LENGTH = 110  # characters of a title


def labels(rows: Sequence[System]) -> list[str]:
    """A name for each row; with its seeds where several have the same name."""
    names = [e.exp for e in rows]
    return [e.exp if names.count(e.exp) == 1 else f"{e.exp}, seeds {' '.join(map(str, e.seeds))}" for e in rows]


def rounded(value: float) -> float | int | None:
    """Four significant digits, more than the page shows; nothing for what is not a number."""
    return None if value != value else int(value) if float(value).is_integer() else float(f"{value:.4g}")


def short(title: str) -> str:
    return title if len(title) <= LENGTH else title[: LENGTH - 1] + "…"


def facts(dataset: str, rows: Sequence[System]) -> dict:
    """What the page knows of M rows. pairs: of (0, 1), (0, 2), (1, 2), (0, 3), ... the numbers by slice, examples one way, and the other way."""
    values, index = by_slice(rows), rows[0].rows.index
    results = {name: compare_all(v) for name, v in values.items()}
    columns, size = np.ascontiguousarray(values["all"].T), sizes(rows[0])
    shown, rankings = Shown(dataset, index, rows[0].protocol), [Rankings(e, index) for e in rows]

    def examples(i: int, j: int, above: int, below: int) -> list[dict]:
        found = most_apart(columns[above], columns[below], size.candidates)
        return [
            example(int(r), rankings[i], rankings[j], shown, size) | {"id": str(index[r]), "a": rounded(columns[i, r]), "b": rounded(columns[j, r])}
            for r in found
        ]

    places = [(i, j) for j in range(len(rows)) for i in range(j)]
    numbers = [[[rounded(results[name][at][k]) for k in ("mean", "low", "high", "p", "n")] for name in values] for at in places]
    pairs = [[tests, examples(i, j, i, j), examples(i, j, j, i)] for tests, (i, j) in zip(numbers, places, strict=True)]
    used = {i for _, *ways in pairs for way in ways for e in way for i in (*e["before"], *(line[0] for line in e["ranked"]))}
    titles = {} if shown.news is None else {str(i): short(str(shown.news.name(i))) for i in sorted(used) if i < len(shown.news)}
    return {
        "label": rows[0].protocol.label,
        "unit": rows[0].protocol.unit,
        "rows": labels(rows),
        "kinds": [e.kind for e in rows],
        "means": [rounded(float(c[~np.isnan(c)].mean())) if (~np.isnan(c)).any() else None for c in columns],
        "slices": list(values),
        "pairs": pairs,
        "titles": titles,
    }


def matrix(known: dict) -> str:
    """Every two rows at a glance: the row of the table minus the column; each cell a link to the two."""
    names, lines = known["rows"], []
    best = sorted(range(len(names)), key=lambda i: -(known["means"][i] or 0))
    for i in best:
        cells = ""
        for j in best:
            if i == j:
                cells += "<td></td>"
                continue
            mean, low, high, *_ = known["pairs"][max(i, j) * (max(i, j) - 1) // 2 + min(i, j)][0][0]
            sign = 1 if i < j else -1
            verdict = "unclear" if mean is None or low <= 0 <= high else "more" if mean * sign > 0 else "less"
            cells += f'<td class="{verdict}"><a href="#a={i}&amp;b={j}">{"" if mean is None else f"{mean * sign:+.3f}"}</a></td>'
        lines.append(f'<tr><th scope="row">{escape(names[i])}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{escape(names[i])}</th>' for i in best)
    return f'<div class="wrap"><table class="matrix"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


MEANING = """<ul>
<li><b>difference</b>: {label} of the first minus that of the second, {unit} by {unit}, seeds averaged first; then the mean.</li>
<li><b>interval</b>: 95 % bootstrap interval of that mean over {unit}s (1,000 resamples).</li>
<li><b>p</b>: of a two-sided paired t-test, <b>not corrected</b> for the {pairs} pairs that can be chosen here, nor for the slices. What was planned
before it was looked at, and corrected, stands in the analysis and on the page of all runs.</li>
<li><b>n</b>: {unit}s in which both have a value. Slices of candidates rank only these, among themselves.</li>
<li><b>rank</b>: from 1, ties their average, mean over seeds; empty where no file has it. <b>Examples</b> are the {unit}s with the largest
difference, and of equal ones those with most candidates: they show what can happen, not what happens often.</li></ul>"""


def page_digest(dataset: str, entries: Sequence[System], reports: Path) -> str:
    """A digest that changes when a finished run of the data set does, or what its page links to and looks like."""
    done = [(e.exp, e.seeds, e.records, [(run.folder / "rows.parquet").stat().st_mtime_ns for run in e.runs]) for e in entries if e.status == "done"]
    looks = [(PAGES / name).read_text() for name in ("style.css", "compare.js")]
    return hashlib.sha256(repr([done, links_of(reports / dataset / "compare.html", reports), looks]).encode()).hexdigest()


def left_out(dataset: str, entries: Sequence[System], rows: Sequence[System]) -> str:
    """A computed sentence that names the finished rows that are not compared, with how they were judged; nothing where there are none."""
    others = [e for e in entries if e.status == "done" and e not in rows]
    names = ", ".join(f"{name} ({why_not_comparable(e, list(rows))})" for name, e in zip(labels(others), others, strict=True))
    label = protocol_of(dataset, list(entries)).label
    how = f"being judged in another way, or asked other questions, than most runs on {escape(dataset)} (by {label})"
    return f"<p>Left out, {how}: {escape(names)}.</p>" if others else ""


def comparisons(dataset: str, entries: Sequence[System], reports: Path) -> str:
    """compare.html of a data set, in the folder of reports: any two rows by slice, examples both ways, and all differences in one table.

    Only rows that were judged in the same way are compared; the page names the others.
    """
    rows = comparable(dataset, list(entries))
    links, at = links_of(reports / dataset / "compare.html", reports)
    title, of = f"How do two runs on {dataset} differ?", page_digest(dataset, entries, reports)
    others = left_out(dataset, entries, rows)
    if len(rows) < 2:
        body = f"<h1>{escape(title)}</h1><p>Two finished runs can be compared; there are {len(rows)}.</p>{others}"
        return document(title, body, links, at=at, kind="text", of=of)
    known = facts(dataset, rows)
    choice = "".join(
        f'<optgroup label="{kind}s">{"".join(options)}</optgroup>'
        for kind in KINDS
        if (options := [f'<option value="{i}">{escape(known["rows"][i])}</option>' for i, e in enumerate(rows) if e.kind == kind])
    )
    body = f"""<h1>{escape(title)}</h1>{others}
<form class="controls" id="pair" hidden><label>first<select name="a">{choice}</select></label><label>second<select name="b">{choice}</select></label>
<button type="button">swap</button></form>
<noscript><p>To choose two runs this page needs its script; the table of all differences does not.</p></noscript>
<div id="shown" aria-live="polite"></div>
<h2>Every two</h2>
<p>{escape(known["label"])} of the row minus that of the column, best first; bold and blue where the interval lies above 0, bold and orange where
it lies below.</p>
{matrix(known)}
<h2>What the numbers mean</h2>
{MEANING.format(label=escape(known["label"]), unit=known["unit"], pairs=len(known["pairs"]))}
{embedded(known)}"""
    return document(title, body, links, at=at, script="compare.js", of=of)
