"""Which example is shown at every stage? One item and one user, with the lines of the source that they came from, while it is at hand."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from nrms.data.images import read_store
from nrms.data.sources import interactions, mind
from nrms.data.sources.rows import Member, read_blocks, split_quoted
from nrms.data.tables import Impressions, read_impressions, read_interactions, read_items

MAX_CHARACTERS = 1000  # of a line


def typical(impressions: Impressions, has_image: np.ndarray | None = None, history: int = 5, candidates: int = 10) -> int:
    """The first impression with at least this much history and about this many candidates, or one: one that fits on a screen.

    has_image (N + 1,): if possible, what was clicked first there is to be such an item.
    """
    slates, clicked = impressions.candidates, impressions.clicked
    size = slates.lengths
    fits = (impressions.history.lengths >= history) & ((size >= candidates // 2) & (size <= candidates * 3 // 2) | (size == 1))
    if has_image is not None and clicked is not None:
        clicked_image = np.bincount(slates.rows[clicked & has_image[slates.values]], minlength=len(impressions)) > 0
        fits = fits & clicked_image if (fits & clicked_image).any() else fits
    return int(fits.argmax()) if len(fits) else 0


def target_of(impressions: Impressions, row: int, has_image: np.ndarray | None = None) -> int:
    """What was clicked in a row, if possible an item with an image; without labels the first candidate."""
    items, at = impressions.candidates[row], slice(*impressions.candidates.offsets[row : row + 2])
    clicked = items[:0] if impressions.clicked is None else items[impressions.clicked[at]]
    with_image = clicked if has_image is None else clicked[has_image[clicked]]
    return int(np.concatenate([with_image, clicked, items])[0])


def line_with(member: Member, cells_by_column: dict[int, str], separator: str = "\t") -> dict | None:
    """The first line of a file that has these cells, {column: text}: {file, line, text}, lines counted from 1. None: there is none."""
    marks = [text.encode() for text in cells_by_column.values()]
    for number, line in enumerate(chain.from_iterable(lines for lines, _ in read_blocks(member)), 1):
        if all(mark in line for mark in marks):  # most lines are not worth splitting
            text = line.decode("utf-8", "replace").rstrip("\r")
            cells = text.split("\t") if separator == "\t" else split_quoted(text, separator)
            if all(column < len(cells) and cells[column] == word for column, word in cells_by_column.items()):
                return {"file": member.name, "line": number, "text": text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]} ..."}
    return None


def find(source: Path, folder: Path, log: str | None = None) -> dict:
    """{impression or user, item, lines} of a data set that has just been converted from `source` into `folder`.

    Of impressions a typical one of the dev part, or the train part where there is none, and what was clicked in it; of a log its first user and the
    last item they took; if possible an item with an image. Lines that cannot be found again are left out.
    """
    items, pixels = read_items(folder / "news.parquet"), read_store(folder / "images.npy")
    has_image = None if pixels is None else pixels.present
    if (folder / "interactions.parquet").exists():
        log_table = read_interactions(folder / "interactions.parquet")
        last = log_table.items.values[log_table.items.offsets[1:] - 1]  # of every user
        row = 0 if has_image is None else int(has_image[last].argmax())
        user, item = str(log_table.user[row]), str(items.id[last[row]])
        mind_like = log is None and interactions.is_mind(source)
        lines = [line_of_news(source, item)] if mind_like else lines_of_log(source, user, item, log)
        return {"user": user, "item": item, "lines": [line for line in lines if line]}
    for part in ("dev", "train"):
        path = folder / f"{part}.parquet"
        impressions = read_impressions(path) if path.exists() else ()
        if len(impressions):
            row = typical(impressions, has_image)
            impression, item = str(impressions.id[row]), str(items.id[target_of(impressions, row, has_image)])
            lines = [line_of_news(source, item), line_with(mind.find_members(source)[part]["behaviors.tsv"], {0: impression})]
            return {"impression": impression, "item": item, "lines": [line for line in lines if line]}
    return {}


def line_of_news(source: Path, item: str) -> dict | None:
    """The line of an item in the first news.tsv that has it."""
    lines = (line_with(files["news.tsv"], {0: item}) for files in mind.find_members(source).values() if "news.tsv" in files)
    return next(filter(None, lines), None)


def lines_of_log(source: Path, user: str, item: str, log: str | None) -> Iterator[dict | None]:
    """The line of an item in the table of items, and that of a user who took it in the log."""
    for path, cells in ((interactions.find_items(source), {"item": item}), (interactions.find_log(source, log)[-1], {"user": user, "item": item})):
        if path is not None:
            names, separator = interactions.read_header(path)
            cells_by_column = {interactions.column_of(names, kind, path): text for kind, text in cells.items()}
            yield line_with(Member(path.name, lambda path=path: path.open("rb")), cells_by_column, separator)


def carried(example: dict, ids: np.ndarray, test: Impressions) -> tuple[int, int]:
    """(row, item): the row of `test`, and the number of the item, that the example of a data set's manifest is.

    ids (N + 1,): of items. Where `test` has no such row, or the manifest no example, it is a typical one and what was clicked in it: both of one.
    """
    name, column = ("impression", test.id) if "impression" in example else ("user", test.user)
    rows, items = np.flatnonzero(column == example.get(name)), np.flatnonzero(ids == example.get("item"))
    row = int(rows[0]) if len(rows) else typical(test)
    return row, int(items[0]) if len(rows) and len(items) else target_of(test, row)
