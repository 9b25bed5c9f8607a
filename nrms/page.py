"""How do people see what came out? leaderboard.csv and index.html, rebuilt from run folders."""

import html
from pathlib import Path

import pandas as pd

from nrms.answers import differences, questions_of, summary
from nrms.files import atomic
from nrms.metrics import PROTOCOLS, Protocol
from nrms.report import definitions, difference, leaderboard, number, sentence, thousands
from nrms.runtime import home

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:110rem;padding:0 1rem;color:#1a1a1a;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}.wrap{overflow-x:auto}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .45rem;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}
th{background:#f4f4f4;text-align:right}td:nth-child(-n+3),th:nth-child(-n+3){text-align:left;white-space:normal}
tr.baseline,tr.ceiling{color:#666}tr.failed td,tr.dead td,tr.stale td{background:#fff0f0}small{color:#666}ul{padding-left:1.2rem}
@media(prefers-color-scheme:dark){body{background:#161616;color:#ddd}th{background:#262626}th,td{border-color:#383838}
tr.baseline,tr.ceiling,small{color:#999}tr.failed td,tr.dead td,tr.stale td{background:#3a1f1f}a{color:#8ab4f8}}
"""


def render_row(row: pd.Series, folder: Path, protocol: Protocol) -> str:
    """One line of the index page; small print below the numbers, so that the page is not wider than a screen."""

    def cell(main: str, small: str = "") -> str:
        return f"<td>{main}<br><small>{small}</small></td>" if small else f"<td>{main}</td>"

    pages = [(s, n, folder / row.exp / f"seed{s}" / f"{n}.html") for s in row.seeds.split() for n in ("train", "eval")]
    links = " ".join(
        f'<a href="{html.escape(str(page.relative_to(home() / "reports")))}">{n} {html.escape(s)}</a>' for s, n, page in pages if page.exists()
    )
    model = row.kind == "model"
    cells = cell(html.escape(row.exp), links) + cell(html.escape(row.inputs) if model else row.kind)
    cells += cell(html.escape(row.status), html.escape(row.error)) + cell(html.escape(row.seeds) if model else "")
    cells += "".join(cell(number(row.get(m)), interval_text(row, m)) for m in protocol.shown)
    gain = pd.notna(row.difference)
    against = html.escape(difference(row)).replace(", p", f"<br>vs {html.escape(row.baseline)}, p") if gain else ""
    cells += cell(f"{row.difference:+.3f}" if gain else "", against)
    cells += cell(f"{row.earned:.0%}" if model and pd.notna(row.earned) else "")
    cells += cell(number(row.get("n"), 0), f"{row.skipped:.0f} skipped" if row.get("skipped", 0) > 0 else "")
    cells += cell(thousands(row.params), f"{thousands(row.trainable)} trained" if model else "")
    cells += cell(thousands(row.samples), f"{thousands(row.encoded)} encoded" if model else "")
    cells += cell(number(row.minutes, 1)) + cell(thousands(row.peak_mb))
    return f'<tr class="{html.escape(f"{row.kind} {row.status}")}" title="{html.escape(row.inputs)}">{cells}</tr>'


def interval_text(row: pd.Series, name: str) -> str:
    return "" if pd.isna(row.get(name)) else f"{row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f}"


BEFORE = ("experiment", "inputs", "status", "seeds")
BEHIND = ("vs best baseline", "earned", "n", "parameters", "clicks seen", "minutes", "peak MB")


def write() -> tuple[Path, Path]:
    """Rebuilds reports/leaderboard.csv and reports/index.html from the run folders. Returns both paths."""
    folder = home() / "reports"
    board = leaderboard()
    with atomic(folder / "leaderboard.csv") as part:
        board.to_csv(part, index=False, float_format="%.6g")
    sections = []
    for dataset, rows in board.groupby("dataset", sort=False):
        pages = [n for n in ("data_prep", "analysis") if (folder / dataset / f"{n}.html").exists()]
        name = html.escape(dataset)
        links = " · ".join(f'<a href="{name}/{n}.html">{n}</a>' for n in pages)
        models = rows[(rows["kind"] == "model") & (rows["status"] == "done")]
        found = differences(dataset)
        protocol = PROTOCOLS[rows["protocol"].iloc[0]]
        asked = {question: [d for d in found if d.question == question] for question in questions_of(dataset)}
        says = "".join(f"<p><b>{question}</b> {html.escape(summary(question, own))}</p>" for question, own in asked.items() if own)
        lines = "".join(f"<li>{html.escape(sentence(row)).replace('**', '')}</li>" for _, row in models.iterrows())
        says += f"<details><summary>Experiment by experiment</summary><ul>{lines}</ul></details>" if lines else ""
        body = "".join(render_row(row, folder / dataset, protocol) for _, row in rows.iterrows())
        head = "".join(f"<th>{h}</th>" for h in (*BEFORE, *(protocol.metrics[m][0] for m in protocol.shown), *BEHIND))
        sections.append(
            f'<h2>{name} <small>{links}</small></h2>{says}<div class="wrap"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
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
