"""How does the comparison of any two runs look? compare.html of a data set: what compare_runs.py computes stands in the page, and its script
only shows the pair that is chosen."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from nrms.report.compare_runs import facts, labels, matrix
from nrms.report.experiments import KINDS, System, comparable, protocol_of, why_not_comparable
from nrms.report.pages.layout import PAGES, document, links_of
from nrms.runtime.templates import render


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
    known = facts(rows) if len(rows) > 1 else None
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
