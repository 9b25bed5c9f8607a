"""What do all pages have in common? One style and a line of links, in one file that asks nothing of the network and runs no script but ours."""

import base64
import hashlib
import os
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

from markupsafe import Markup

from nrms.runtime.files import write_text
from nrms.runtime.templates import render

PAGES = Path(__file__).parent  # style, scripts and templates


OF_A_DATA_SET = ("data_prep", "probe", "analysis", "compare", "browse")  # pages
OF_A_RUN = ("train", "eval")


def links_of(page: Path, reports: Path) -> tuple[dict[str, str], str]:
    """{name: address} of the pages around one, as far as they are there, and where in the reports it is: `newsroom / exp4 / seed0`."""
    folders = page.parent.relative_to(reports).parts if page.is_relative_to(reports) else ()
    if not folders:
        return {}, ""
    around = [(name, reports / folders[0] / f"{name}.html") for name in OF_A_DATA_SET]
    if len(folders) > 1:
        around += [(name, page.with_name(f"{name}.html")) for name in OF_A_RUN]
    around = [("all runs", reports / "index.html")] + [(name, path) for name, path in around if path == page or path.exists()]
    return {name: "" if path == page else os.path.relpath(path, page.parent) for name, path in around}, " / ".join(folders)


def document(title: str, body: str, links: Mapping[str, str], *, location: str = "", script: str = "", kind: str = "", digest: str = "") -> str:
    """A whole page. body: what a template made. links: {name: relative address}, an empty one for the page itself.

    location: where in the reports this is. script: the name of a file beside this one; no other script runs, whatever stands in `body`.
    digest: of what the page was made of, which `has_digest` reads in its head.
    """
    code = (PAGES / script).read_text() if script else ""
    own = {"style": (PAGES / "style.css").read_text(), "script": code}
    own["script_digest"] = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    about = {"title": title, "location": location, "kind": kind, "digest": digest}
    page = render("report/pages/layout.html.j2", body=body, links=links, **about, **own)
    return str(page)  # markup would escape a string that somebody adds it to


def link_again(page: Path, reports: Path) -> None:
    """Gives a page that is there the links to pages that have been made since."""
    links, location = links_of(page, reports)
    navigation = render("report/pages/navigation.html.j2", links=links, location=location)
    text = re.sub(r"<nav .*?</nav>", lambda _: str(navigation), page.read_text(), count=1, flags=re.DOTALL)
    write_text(page, text)


def has_digest(page: Path, digest: str) -> bool:
    """Whether a page is there, and was made of what has this digest. Reads its head only."""
    if not page.exists():
        return False
    with page.open(errors="replace") as file:
        return f'name="made-of" content="{digest}"' in file.read(1000)


def plain(markdown: str) -> str:
    """A computed sentence in Markdown as HTML: its **strong** words and its `code` kept, all else text."""
    strong = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escape(markdown))
    return Markup(re.sub(r"`(.+?)`", r"<code>\1</code>", strong))
