"""What does one reader's list look like? HTML of a history and of rankings side by side: cards with title, category, image, score and reasons.

Nothing outside is asked for, whatever a title says is escaped, and no colour carries what words do not. Backgrounds are see-through and text has the
colour of the page around it, so that it fits a light page, a dark one and JupyterLab's themes alike.
"""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from nrms.data.prepare import Tables
from nrms.runtime.templates import render
from nrms.serve.one_user import Ranking, Served, meaning

SIDE = 96  # pixels of an image that is shown
LATEST = 8  # clicks of a history that are open to see
COLOURS = {"text": "#2b83c6", "picture": "#e08a00"}  # told apart by all eyes; every bar has its name beside it


def image_address(tables: Tables, item: int) -> str | None:
    """An item's image as an address that holds its data; empty where it has none, None where the data set has no images."""
    if tables.pixels is None:
        return None
    if not tables.pixels.present[item]:
        return ""
    image, file = Image.fromarray(np.asarray(tables.pixels.values[item])), io.BytesIO()
    image.thumbnail((SIDE, SIDE))
    image.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def bar(name: str, value: float | None, low: float, high: float, form: str = "+.2f") -> str:
    """One number with its name, as a bar from 0 on a scale from `low`, at most 0, to `high`, at least 0; written as `form` says.

    None, of a click: that the ranking did not read it.
    """
    if value is None:
        return render("serve/bar.html.j2", name=name, fill="", number="not read")
    width = max(high - low, 1e-12)
    left, zero = (min(value, 0) - low) / width, -low / width
    fill = f"left:{left:.1%};width:{abs(value) / width:.1%};background:{COLOURS.get(name, '#888')}"
    return render("serve/bar.html.j2", name=name, fill=fill, zero=f"{zero:.1%}", number=f"{value:{form}}")


def card(tables: Tables, item: int, bars: Sequence[str], **ranked: object) -> dict:
    """What the template shows of an item: title, facts (category and id), image and bars.

    ranked: of an item in a ranking also its rank and score (`standing`), what the user did with it (`chosen`, `seen`), and the click that did most
    for it (`most_by`).
    """
    facts = " · ".join(str(part) for part in (tables.items.category[item], tables.items.id[item]) if part)
    shown = {"title": str(tables.items.name(item)), "facts": facts, "image": image_address(tables, item), "bars": bars}
    return shown | {"standing": "", "chosen": False, "most_by": ""} | ranked


def numerals(rankings: Sequence[Ranking]) -> list[str]:
    """What tells rankings apart in few letters."""
    return [""] if len(rankings) == 1 else [chr(ord("A") + i) for i in range(len(rankings))]


def click_cards(tables: Tables, rankings: Sequence[Ranking], history: np.ndarray) -> list[dict]:
    """The clicks of a history, latest first, each with its weight and attention in every ranking.

    Models read histories of different length: each its own number of the latest clicks of the same past.
    """
    scales = []  # (name, values, the largest of their kind, which all of it share)
    for kind, name in (("weights", "weight"), ("attention", "attention")):
        pairs = [(numeral, getattr(ranking, kind)) for numeral, ranking in zip(numerals(rankings), rankings, strict=True)]
        known = {f"{name} {numeral}": values for numeral, values in pairs if values is not None}
        largest = max((values.max(initial=0.0) for values in known.values()), default=0.0)
        scales += [(name, values, largest) for name, values in known.items()]
    cards = []
    for age, item in enumerate(history[::-1], 1):
        bars = [bar(name, values[-age] if age <= len(values) else None, 0, largest, ".2f") for name, values, largest in scales]
        cards.append(card(tables, item, bars))
    return cards


def ranked_cards(served: Served, ranking: Ranking) -> list[dict]:
    """The items of a ranking in order, each with its lead, the parts of it, and the click that did most."""
    tables, reader = served.tables, ranking.reader
    lengths = {"lead": ranking.leads} | ranking.parts
    low, high = min(0.0, *(v.min() for v in lengths.values())), max(0.0, *(v.max() for v in lengths.values()))
    cards = []
    for i, item in enumerate(ranking.items):
        most = ranking.most_by(i)
        ranked = {
            "standing": f"rank {i + 1} · score {ranking.scores[i]:.3f}",
            "chosen": reader.user is not None and item in reader.relevant,
            "seen": "shown, not clicked" if item in reader.slate else "",
            "most_by": "" if most is None else f"most by “{tables.items.name(most[0])}” {most[1]:+.2f}",
        }
        cards.append(card(tables, item, [bar(name, values[i], low, high) for name, values in lengths.items()], **ranked))
    return cards


def compare(models: Sequence[Served], rankings: Sequence[Ranking]) -> str:
    """One reader's history, and what each model ranks for them, side by side where there is room; below, what the numbers mean."""
    verb, reader = models[0].verb, rankings[0].reader
    longest = max((ranking.reader for ranking in rankings), key=lambda r: len(r.history))
    lists, true_of = [], {}  # true_of: {line: the rankings of which it is true}
    for numeral, served, ranking in zip(numerals(rankings), models, rankings, strict=True):
        found_at = f"; {verb}: rank {', '.join(map(str, ranking.ranks))}" if len(ranking.ranks) else ""
        about = f"first {len(ranking.items):,} of {ranking.among:,}{found_at}"
        lists.append({"name": f"{numeral}: {served.name}" if numeral else served.name, "about": about, "cards": ranked_cards(served, ranking)})
        for line in meaning(ranking):
            true_of.setdefault(line, []).append(numeral)
    page = render(
        "serve/cards.html.j2",
        who=f"User {reader.user}" if reader.user is not None else "Somebody with this history",
        dataset=models[0].config.dataset,
        clicks=click_cards(models[0].tables, rankings, longest.history),
        latest=LATEST,
        unread=len(longest.earlier),
        lists=lists,
        verb=verb,
        meanings=[line if len(names) == len(rankings) else f"{', '.join(names)}: {line}" for line, names in true_of.items()],
    )
    return str(page)  # markup would escape a string that somebody adds it to
