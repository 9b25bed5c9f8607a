"""Which example is shown at every stage? One item and one user, with the lines of the source that they came from, found while it is at hand."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from nrms.data.images import read_store
from nrms.data.sources import interactions, mind
from nrms.data.sources.rows import Member, read_blocks, split_quoted
from nrms.data.tables import Impressions, read_impressions, read_interactions, read_items

SHOWN = 1000  # characters of a line that are kept


def typical(impressions: Impressions, pictured: np.ndarray | None = None, history: int = 5, candidates: int = 10) -> int:
    """The first impression with at least this much history and about this many candidates, or one: one that fits on a screen.

    pictured (N + 1,): if possible, what was clicked first there is to be such an item.
    """
    shown, clicked = impressions.candidates, impressions.clicked
    about = (shown.lengths >= candidates // 2) & (shown.lengths <= candidates * 3 // 2) | (shown.lengths == 1)
    fits = (impressions.history.lengths >= history) & about
    if pictured is not None and clicked is not None:
        seen = np.bincount(shown.rows[clicked & pictured[shown.values]], minlength=len(impressions)) > 0
        fits = fits & seen if (fits & seen).any() else fits
    return int(np.flatnonzero(fits)[0]) if fits.any() else 0


def right_in(asked: Impressions, row: int, pictured: np.ndarray | None = None) -> int:
    """What was clicked in a row, if possible an item with a picture; without labels the first candidate."""
    items, at = asked.candidates[row], slice(*asked.candidates.offsets[row : row + 2])
    clicked = items[asked.clicked[at]] if asked.clicked is not None else items[:0]
    seen = clicked[pictured[clicked]] if pictured is not None else clicked
    return int(next(iter([*seen, *clicked, *items])))


def line_with(member: Member, wanted: dict[int, str], separator: str = "\t") -> dict | None:
    """The first line of a file whose columns say what is `wanted`, {column: text}: {file, line, text}, lines counted from 1. None: there is none."""
    marks = [text.encode() for text in wanted.values()]
    for number, line in enumerate(chain.from_iterable(lines for lines, _ in read_blocks(member)), 1):
        if all(mark in line for mark in marks):  # most lines are not worth splitting
            text = line.decode("utf-8", "replace").rstrip("\r")
            cells = text.split("\t") if separator == "\t" else split_quoted(text, separator)
            if all(column < len(cells) and cells[column] == word for column, word in wanted.items()):
                return {"file": member.name, "line": number, "text": text[:SHOWN] + " ..." * (len(text) > SHOWN)}
    return None


def find(source: Path, folder: Path, log: str | None = None) -> dict:
    """{impression or user, item, lines} of a data set that has just been converted from `source` into `folder`.

    Of impressions a typical one of the dev part, or the train part where there is none, and what was clicked in it; of a log its first user and the
    last item they took; if possible an item with a picture. Lines that cannot be found again are left out.
    """
    news, pixels = read_items(folder / "news.parquet"), read_store(folder / "images.npy")
    pictured = None if pixels is None else pixels.present
    if (folder / "interactions.parquet").exists():
        taken = read_interactions(folder / "interactions.parquet")
        last = taken.items.values[taken.items.offsets[1:] - 1]  # of every user
        row = 0 if pictured is None else int(pictured[last].argmax())
        user, item = str(taken.user[row]), str(news.id[last[row]])
        mind_like = log is None and interactions.is_mind(source)
        lines = lines_of_news(source, item) if mind_like else lines_of_log(source, user, item, log)
        return {"user": user, "item": item, "lines": [line for line in lines if line]}
    paths = {part: folder / f"{part}.parquet" for part in ("dev", "train")}
    read = ((part, read_impressions(path)) for part, path in paths.items() if path.exists())
    part, shown = next(((part, shown) for part, shown in read if len(shown)), ("", None))
    if shown is None:
        return {}
    row = typical(shown, pictured)
    item = str(news.id[right_in(shown, row, pictured)])
    impression = str(shown.id[row])
    lines = [*lines_of_news(source, item), line_with(mind.find_members(source)[part]["behaviors.tsv"], {0: impression})]
    return {"impression": impression, "item": item, "lines": [line for line in lines if line]}


def lines_of_news(source: Path, item: str) -> Iterator[dict | None]:
    """The line of an item in the first news.tsv that has it."""
    members = (files["news.tsv"] for files in mind.find_members(source).values() if "news.tsv" in files)
    yield next((line for line in (line_with(member, {0: item}) for member in members) if line), None)


def lines_of_log(source: Path, user: str, item: str, log: str | None) -> Iterator[dict | None]:
    """The line of an item in the table of items, and that of a user who took it in the log."""
    table = interactions.find_table(source, "items") or next(iter(sorted(source.glob("*.item"))), None)
    for path, kinds in ((table, {"item": item}), (interactions.find_log(source, log)[-1], {"user": user, "item": item})):
        if path is not None:
            names, separator = interactions.read_header(path)
            wanted = {interactions.column_of(names, kind, path): text for kind, text in kinds.items()}
            yield line_with(Member(path.name, lambda path=path: path.open("rb")), wanted, separator)


def carried(example: dict, ids: np.ndarray, asked: Impressions) -> tuple[int, int]:
    """(row, item): the row of `asked`, and the number of the item, that the example of a data set's manifest is.

    ids (N + 1,): of items. Where `asked` has no such row, or the manifest no example, a typical one is taken, and what was right in it: both of one.
    """
    name, column = ("impression", asked.id) if "impression" in example else ("user", asked.user)
    rows, known = np.flatnonzero(column == example.get(name)), np.flatnonzero(ids == example.get("item"))
    row = int(rows[0]) if len(rows) else typical(asked)
    return row, int(known[0]) if len(rows) and len(known) else right_in(asked, row)
