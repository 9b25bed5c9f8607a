"""How do any two runs differ? compare.html of a data set: every two finished rows, in every slice, and the impressions where they differ most.

All of it is computed here, from files, and stands in the page; its script only shows the pair that is chosen.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nrms.evaluation.statistics import compare_all
from nrms.report.experiments import KINDS, System, by_slice, comparable, protocol_of, why_not_comparable
from nrms.report.pages.disagreements import Examples, Rankings, disagreement, most_apart, sizes
from nrms.report.pages.layout import PAGES, document, links_of
from nrms.runtime.templates import render

LENGTH = 110  # characters of a title


def labels(rows: Sequence[System]) -> list[str]:
    """A name for each row; with its seeds where several have the same name."""
    names = [e.exp for e in rows]
    return [e.exp if names.count(e.exp) == 1 else f"{e.exp}, seeds {e.seed_names}" for e in rows]


def rounded(value: float) -> float | int | None:
    """Four significant digits, more than the page shows; nothing for what is not a number."""
    return None if np.isnan(value) else int(value) if float(value).is_integer() else float(f"{value:.4g}")


def short(title: str) -> str:
    return title if len(title) <= LENGTH else title[: LENGTH - 1] + "…"


def facts(dataset: str, rows: Sequence[System]) -> dict:
    """What the page knows of M rows. pairs: of (0, 1), (0, 2), (1, 2), (0, 3), ... the numbers by slice, examples one way, and the other way."""
    values, index = by_slice(rows), rows[0].rows.index
    results = {name: compare_all(v) for name, v in values.items()}
    columns, size = np.ascontiguousarray(values["all"].T), sizes(rows[0])
    candidates, history = size["candidates"].to_numpy(), size["history"].tolist()
    examples, rankings = Examples(dataset, index, rows[0].protocol), [Rankings(e, index) for e in rows]

    def largest(i: int, j: int, above: int, below: int) -> list[dict]:
        return [
            disagreement(int(r), rankings[i], rankings[j], examples, history[r])
            | {"id": str(index[r]), "a": rounded(columns[i, r]), "b": rounded(columns[j, r])}
            for r in most_apart(columns[above], columns[below], candidates)
        ]

    pairs = []
    for j in range(len(rows)):
        for i in range(j):
            numbers = [[rounded(of_slice[i, j][key]) for key in ("mean", "low", "high", "p", "n")] for of_slice in results.values()]
            pairs.append([numbers, largest(i, j, i, j), largest(i, j, j, i)])
    both_ways = [example for _, *ways in pairs for way in ways for example in way]
    named = {item for example in both_ways for item in (*example["before"], *(line[0] for line in example["ranked"]))}
    return {
        "label": rows[0].protocol.label,
        "unit": rows[0].protocol.unit,
        "units": rows[0].protocol.units,
        "rows": labels(rows),
        "kinds": [e.kind for e in rows],
        "means": [None if np.isnan(column).all() else rounded(float(np.nanmean(column))) for column in columns],
        "slices": list(values),
        "pairs": pairs,
        "titles": {} if examples.items is None else {str(i): short(str(examples.items.name(i))) for i in sorted(named) if i < len(examples.items)},
    }


def matrix(known: dict) -> list[tuple[str, list[tuple | None]]]:
    """Every two rows at a glance, best first: by the name of a row its cells (i, j, verdict, difference as a text), None in its own column."""
    best = sorted(range(len(known["rows"])), key=lambda i: -(known["means"][i] or 0))

    def cell(i: int, j: int) -> tuple[int, int, str, str]:
        """The row of the table minus the column; pairs are kept once, for the smaller number minus the larger."""
        mean, low, high, *_ = known["pairs"][max(i, j) * (max(i, j) - 1) // 2 + min(i, j)][0][0]
        if mean is None:
            return i, j, "unclear", ""
        difference = mean if i < j else -mean
        verdict = "unclear" if low <= 0 <= high else "more" if difference > 0 else "less"
        return i, j, verdict, f"{difference:+.3f}"

    return [(known["rows"][i], [None if i == j else cell(i, j) for j in best]) for i in best]


def page_digest(dataset: str, systems: Sequence[System], reports: Path) -> str:
    """A digest that changes when a finished run of the data set does, or what its page links to and looks like."""
    done = [(e.exp, e.seeds, e.records, [(run.folder / "rows.parquet").stat().st_mtime_ns for run in e.runs]) for e in systems if e.status == "done"]
    looks = [(PAGES / name).read_text() for name in ("style.css", "compare.js", "compare.html.j2", "layout.html.j2")]
    return hashlib.sha256(repr([done, links_of(reports / dataset / "compare.html", reports), looks]).encode()).hexdigest()


def comparisons(dataset: str, systems: Sequence[System], reports: Path) -> str:
    """compare.html of a data set, in the folder of reports: any two rows by slice, examples both ways, and all differences in one table.

    Only rows that were judged in the same way are compared; the page names the others, and how they were judged.
    """
    rows = comparable(dataset, systems)
    others = [e for e in systems if e.status == "done" and e not in rows]
    known = facts(dataset, rows) if len(rows) > 1 else None
    title = f"How do two runs on {dataset} differ?"
    body = render(
        "report/pages/compare.html.j2",
        title=title,
        dataset=dataset,
        label=protocol_of(dataset, systems).label,
        left_out=[f"{name} ({why_not_comparable(e, rows)})" for name, e in zip(labels(others), others, strict=True)],
        count=len(rows),
        known=known,
        matrix=matrix(known) if known else [],
        choices={kind: [(i, name) for i, name in enumerate(labels(rows)) if rows[i].kind == kind] for kind in KINDS},
    )
    links, location = links_of(reports / dataset / "compare.html", reports)
    looks = {"script": "compare.js"} if known else {"kind": "text"}
    return document(title, body, links, location=location, digest=page_digest(dataset, systems, reports), **looks)
