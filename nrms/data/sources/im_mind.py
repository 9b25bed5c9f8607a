"""Which image belongs to which item when images come from IM-MIND? Its cards show cover and title, and are named by the ids of MIND-large.

Xun et al., "Why Do We Click: Visual Impression-aware Items Recommendation", ACM MM 2021. MIND-small has other ids for the same news: a table says
which is which, or the news.tsv files of MIND-large do, by equal url, else by equal title and abstract.
"""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from nrms import NrmsError
from nrms.data.sources import mind
from nrms.data.tables import Items

if TYPE_CHECKING:
    from PIL import Image

SIZE = (610, 195)  # pixels, width and height of a card
COVER = (15, 15, 215, 180)  # left, top, right, bottom
WHITE, DARK = 245, 0.005  # a cover of which no larger share than DARK is darker than WHITE was missing; JPEG blurs its edges


def cover(card: "Image.Image") -> "Image.Image | str":
    """The cover of a card, or the reason (a key of images.REASONS) why there is none."""
    if card.size != SIZE:
        return "card"
    image = card.crop(COVER)
    return "blank" if (np.asarray(image.convert("L")) < WHITE).mean() <= DARK else image


def read_table(path: Path) -> dict[str, str]:
    """{item id: name of its image} from a CSV or TSV of two columns, or with columns `nid` and `IM-MIND-INDEX`. Raises NrmsError for any other."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file, delimiter="\t" if path.suffix.lower() in (".tsv", ".txt") else ","))
    except (UnicodeDecodeError, csv.Error) as error:
        raise NrmsError(f"{path} is not a table in UTF-8 ({error}); expected two columns, news id and name of its picture.") from None
    for line, row in enumerate(rows or [[]], 1):
        if len(row) < 2:
            raise NrmsError(f"{path}, line {line}: expected two columns, news id and name of its picture, separated by commas (.csv) or tabs.")
    head = rows[0]
    if "nid" in head and "IM-MIND-INDEX" in head:
        ours, theirs = head.index("nid"), head.index("IM-MIND-INDEX")
        return {row[ours]: row[theirs] for row in rows[1:]}
    return {row[0]: row[1] for row in rows}


def match(items: Items, others: pd.DataFrame) -> tuple[dict[str, str], dict[str, int]]:
    """{id in `items`: id in `others`} of the items that are the same, and how many were matched by url, by title and abstract, or not.

    others: a line for each, with id, title, abstract and url. What several of them share tells nothing and is not used.
    """
    ours = pd.DataFrame({name: getattr(items, name)[1:] for name in ("title", "abstract", "url")})
    by_url = others[others["url"] != ""].drop_duplicates("url", keep=False)
    by_text = others[others["title"] != ""].drop_duplicates(["title", "abstract"], keep=False)
    same_url = ours.merge(by_url[["url", "id"]], "left", "url")["id"]
    same_text = ours.merge(by_text[["title", "abstract", "id"]], "left", ["title", "abstract"])["id"]
    other = same_url.fillna(same_text).set_axis(items.id[1:]).dropna()
    url = int(same_url.count())
    return other.to_dict(), {"url": url, "title and abstract": len(other) - url, "nothing": len(ours) - len(other)}


def names_of_images(items: Items, ids: Path) -> tuple[dict[str, str], dict[str, int]]:
    """{id in `items`: name of its image}, and how they were matched. ids: a table, or a folder or zip with the news.tsv files of MIND-large.

    Raises NrmsError if there is no such file, or if it matches nothing.
    """
    if not ids.exists():
        raise NrmsError(f"There is no file or folder {ids}; `--ids` takes a table of two columns, or a folder or zip with MIND-large's news.tsv.")
    if ids.is_dir() or ids.suffix.lower() == ".zip":
        names, counts = match(items, mind.read_news_of(ids)[1:].to_pandas())
    else:
        known = set(map(str, items.id[1:]))
        names = {ours: theirs for ours, theirs in read_table(ids).items() if ours in known}
        counts = {"table": len(names), "nothing": len(known) - len(names)}
    if not names:
        raise NrmsError(f"{ids} matches none of the {len(items) - 1:,} news: is it the right file?")
    return names, counts
