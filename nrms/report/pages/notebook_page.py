"""How does an executed notebook become a page? Question and answer first, then how it was done; code folded; nothing asked of the network."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from nrms import home
from nrms.report.pages.layout import PAGES, document, links_of
from nrms.runtime.files import write_text

if TYPE_CHECKING:
    from nbformat import NotebookNode

ANSWER = "answer"  # the tag of cells that answer a notebook's question: a computed sentence, a table, a figure


def answer_first(notebook: "NotebookNode") -> None:
    """Lifts the cells tagged `answer` to below the title, sentences first, else in their order; the others follow under a heading of their own."""
    from nbformat.v4 import new_markdown_cell

    tagged = [cell for cell in notebook.cells[1:] if ANSWER in cell.metadata.get("tags", [])]
    tagged.sort(key=lambda cell: cell.cell_type == "code" and not any("text/markdown" in out.get("data", {}) for out in cell.outputs))
    if tagged:
        rest = [cell for cell in notebook.cells[1:] if cell not in tagged]
        notebook.cells = [notebook.cells[0], *tagged, new_markdown_cell("## How it was found"), *rest]


def name_figures(notebook: "NotebookNode") -> None:
    """Gives every code cell the last heading before it, for those who do not see its figure."""
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = [heading, *re.findall(r"^#+ +(.*)$", cell.source, re.MULTILINE)][-1]
        elif cell.cell_type == "code":
            cell.metadata["alt"] = f"Figure: {heading}"


def question_of(notebook: "NotebookNode") -> str:
    """The title of a notebook: the first line of its first cell."""
    return notebook.cells[0].source.split("\n")[0].lstrip("# ") if notebook.cells else ""


def render(notebook: Path, page: Path) -> None:
    """An executed notebook as HTML, complete or not there at all."""
    import nbformat
    from nbconvert import HTMLExporter

    template = (PAGES / "notebook.html.j2").read_text()
    exporter = HTMLExporter(raw_template=template, exclude_input_prompt=True, exclude_output_prompt=True, exclude_anchor_links=True)
    content = nbformat.read(notebook, as_version=4)
    question = question_of(content)
    name_figures(content)  # by the headings that they had, before they change places
    answer_first(content)
    links, location = links_of(page, home() / "reports")
    body, _ = exporter.from_notebook_node(content)
    write_text(page, document(f"{question} {location}".strip(), Markup(body), links, location=location, kind="text"))
