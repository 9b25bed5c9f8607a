"""What do all pages have in common? One style and a line of links, in one file that asks nothing of the network and runs no script but ours."""

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

PAGES = Path(__file__).parent  # style, scripts and the template of notebooks


OF_A_DATA_SET = ("data_prep", "probe", "analysis", "compare", "browse")  # pages
OF_A_RUN = ("train", "eval")
MADE_OF = '<meta name="made-of" content="{}">'


def links_of(page: Path, reports: Path) -> tuple[dict[str, str], str]:
    """{name: address} of the pages around one, as far as they are there, and where in the reports it is: `newsroom / exp4 / seed0`."""
    folders = page.parent.relative_to(reports).parts if page.is_relative_to(reports) else ()
    if not folders:
        return {}, ""
    around = [(name, reports / folders[0] / f"{name}.html") for name in OF_A_DATA_SET]
    around += [(name, page.with_name(f"{name}.html")) for name in OF_A_RUN] if len(folders) > 1 else []
    around = [("all runs", reports / "index.html")] + [(name, path) for name, path in around if path == page or path.exists()]
    return {name: "" if path == page else os.path.relpath(path, page.parent) for name, path in around}, " / ".join(folders)


def document(title: str, body: str, links: Mapping[str, str], *, at: str = "", script: str = "", kind: str = "", of: str = "") -> str:
    """A whole page. body: HTML. links: {name: relative address}, an empty one for the page itself. at: where in the reports this is.

    of: a digest of what the page was made of, which `is_made_of` reads in its head.

    script: the name of a file in nrms/report/pages; no other script runs, whatever stands in `body`: the policy in the head names it by its hash.
    """
    code = (PAGES / script).read_text() if script else ""
    allowed = f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'" if script else "'none'"
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}; form-action 'none'; base-uri 'none'"
    where = "".join(
        f'<a href="{escape(address)}">{escape(name)}</a>' if address else f'<a aria-current="page">{escape(name)}</a>'
        for name, address in links.items()
    )
    where += f'<span class="at">{escape(at)}</span>' if at else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"{MADE_OF.format(of) if of else ''}"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>\n{(PAGES / 'style.css').read_text()}</style></head>\n"
        f'<body><nav aria-label="pages">{where}</nav>\n<main class="{kind}">\n{body}\n</main>\n'
        f"{f'<script>{code}</script>' if script else ''}</body></html>\n"
    )


def is_made_of(page: Path, of: str) -> bool:
    """Whether a page is there, and was made of what has this digest. Reads its head only."""
    if not page.exists():
        return False
    with page.open(errors="replace") as file:
        return MADE_OF.format(of) in file.read(1000)


def embedded(value: Any) -> str:
    """`value` as JSON that a script of the page reads; no text in it can end the element that it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="data">{text}</script>'


def plain(markdown: str) -> str:
    """A computed sentence in Markdown as HTML: its **strong** words and its `code` kept, all else text."""
    return re.sub(r"`(.+?)`", r"<code>\1</code>", re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escape(markdown)))
