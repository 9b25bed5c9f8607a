"""What does one reader's list look like? HTML of a history and of rankings side by side: cards with title, category, picture, score and reasons.

Nothing outside is asked for, whatever a title says is escaped, and no colour carries what words do not. Backgrounds are see-through and text has the
colour of the page around it, so that it fits a light page, a dark one and JupyterLab's themes alike.
"""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from nrms.data.prepare import Tables
from nrms.serve.one_user import Ranking, Served, meaning

SIDE = 96  # pixels of a picture that is shown
LATEST = 8  # clicks of a history that are open to see
COLOURS = {"text": "#2b83c6", "picture": "#e08a00"}  # told apart by all eyes; every bar has its name beside it
STYLE = """<style>
.nrms-list{font:14px/1.4 system-ui,sans-serif;max-width:72rem}.nrms-list *{box-sizing:border-box}.nrms-list h3{margin:.6em 0 .2em;font-size:1.15em}
.nrms-list h4{margin:1em 0 .4em;font-size:1em;overflow-wrap:anywhere}.nrms-list small{opacity:.75;font-size:.86em}
.nrms-list h3,.nrms-list h4{font-weight:600!important}
.nrms-list ol,.nrms-list ul.cards{list-style:none!important;margin:0!important;padding:0!important;display:grid;gap:.5rem}
.nrms-list .two{display:grid;gap:0 1.5rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr))}
.nrms-list ul.cards{grid-template-columns:repeat(auto-fill,minmax(min(100%,15rem),1fr))}
.nrms-list li.card{display:flex;gap:.6rem;padding:.5rem;border:1px solid #8886;border-radius:.4rem;background:#8881;margin:0;min-width:0}
.nrms-list li.yes{border:2px solid currentColor}.nrms-list .body{flex:1;min-width:0;overflow-wrap:anywhere}
.nrms-list img,.nrms-list .none{width:4.2rem;height:4.2rem;flex:none;border-radius:.3rem;object-fit:cover;margin:0}
.nrms-list .none{border:1px dashed #888a;display:flex;align-items:center;justify-content:center;text-align:center;font-size:.75em;opacity:.75}
.nrms-list .title{font-weight:600}.nrms-list .mark{font-weight:700;border:1px solid;border-radius:.3rem;padding:0 .3em;white-space:nowrap}
.nrms-list .part{display:grid;grid-template-columns:minmax(4.8rem,auto) 1fr minmax(3.2rem,auto);gap:.4rem;align-items:center;font-size:.86em}
.nrms-list .part b{text-align:right;font-weight:400;font-variant-numeric:tabular-nums}
.nrms-list .bar{position:relative;height:.6em;background:#8883;border-radius:.2em}
.nrms-list .bar i{position:absolute;top:0;bottom:0;border-radius:.2em}
.nrms-list .bar u{position:absolute;top:-.15em;bottom:-.15em;width:1px;background:currentColor}.nrms-list summary{cursor:pointer}
.jp-OutputArea-output.jupyter-widgets:not(:has(*)){display:none}
</style>"""  # the last line: pickers of a notebook that is opened again without its kernel are not there, and say nothing


def picture(tables: Tables, item: int) -> str:
    """An item's picture as an <img> that carries its own data; a box that says there is none; nothing where the data set has no pictures."""
    if tables.pixels is None:
        return ""
    if not tables.pixels.present[item]:
        return '<span class="none">no picture</span>'
    image, file = Image.fromarray(np.asarray(tables.pixels.values[item])), io.BytesIO()
    image.thumbnail((SIDE, SIDE))
    image.save(file, "JPEG", quality=85)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'


def bar(name: str, value: float, low: float, high: float, form: str = "+.2f") -> str:
    """One number with its name, as a bar from 0 on a scale from `low`, at most 0, to `high`, at least 0; written as `form` says."""
    width = max(high - low, 1e-12)
    left, zero = (min(value, 0) - low) / width, -low / width
    fill = f"left:{left:.1%};width:{abs(value) / width:.1%};background:{COLOURS.get(name, '#888')}"
    return (
        f'<div class="part"><span>{html.escape(name)}</span><span class="bar"><i style="{fill}"></i><u style="left:{zero:.1%}"></u></span>'
        f"<b>{value:{form}}</b></div>"
    )


def unread(name: str) -> str:
    """In the place of a bar: that a ranking did not read this click."""
    return f'<div class="part"><span>{html.escape(name)}</span><span class="bar"></span><b>not read</b></div>'


def card(tables: Tables, item: int, body: str, classes: str = "") -> str:
    """An item with its picture, title, category and id, and what else is to be said of it, already HTML."""
    news = tables.items
    facts = " · ".join(html.escape(str(part)) for part in (news.category[item], news.id[item]) if part)
    title = html.escape(str(news.name(item)))
    inner = f'<div class="title" dir="auto">{title}</div><small>{facts}</small>{body}'
    return f'<li class="card {classes}">{picture(tables, item)}<div class="body">{inner}</div></li>'


def history(tables: Tables, rankings: Sequence[Ranking]) -> str:
    """The clicks that any ranking read, latest first, each with its weight and attention in every one; all but the LATEST behind a line that opens.

    Models read histories of different length: each its own number of the latest clicks of the same past.
    """
    reader = max((ranking.reader for ranking in rankings), key=lambda r: len(r.history))
    if not len(reader.history):
        return "<h4>History</h4><p>Nothing yet: a newcomer.</p>"
    named = list(zip(numerals(rankings), rankings, strict=True))
    bars = []  # name, values, and the largest of their kind, which all of it share
    for kind, of in (("weight", lambda r: r.weights), ("attention", lambda r: r.attention)):
        known = [(f"{kind} {name}", of(r)) for name, r in named if of(r) is not None]
        most = max((values.max() for _, values in known), default=0.0)
        bars += [(name, values, most) for name, values in known]
    cards = []
    for i, item in enumerate(reader.history[::-1]):
        of_click = [bar(name, values[-i - 1], 0, most, ".2f") if i < len(values) else unread(name) for name, values, most in bars]
        cards.append(card(tables, item, "".join(of_click)))
    count = f"{len(cards):,} clicks, latest first" if len(cards) > 1 else "1 click"
    rest = f"<details><summary>{len(cards) - LATEST:,} earlier</summary>{listed(cards[LATEST:])}</details>" if len(cards) > LATEST else ""
    older = f"<small>{len(reader.earlier):,} still earlier are not read.</small>" if len(reader.earlier) else ""
    return f"<h4>History: {count}</h4>{listed(cards[:LATEST])}{rest}{older}"


def listed(cards: Sequence[str]) -> str:
    return f'<ul class="cards">{"".join(cards)}</ul>'


def numerals(rankings: Sequence[Ranking]) -> list[str]:
    """What tells rankings apart in few letters."""
    return [""] if len(rankings) == 1 else [chr(ord("A") + i) for i in range(len(rankings))]


def ranked(served: Served, ranking: Ranking, numeral: str) -> str:
    """One ranking: its cards in order, each with its lead, the parts of it, and the click that did most."""
    tables, reader = served.tables, ranking.reader
    shown = [*ranking.parts.values(), ranking.leads]
    low, high = min(0.0, *(v.min() for v in shown)), max(0.0, *(v.max() for v in shown))
    cards = []
    for place, item in enumerate(ranking.items):
        chosen = reader.user is not None and item in reader.chosen
        seen = "shown, not clicked" if item in reader.shown else ""
        mark = f' <span class="mark">✓ {served.verb}</span>' if chosen else f" <small>{seen}</small>"
        body = f"<div>rank {place + 1} · score {ranking.scores[place]:.3f}{mark}</div>"
        parts = {name: part[place] for name, part in ranking.parts.items()}
        body += "".join(bar(name, value, low, high) for name, value in ({"lead": ranking.leads[place]} | parts).items())
        if ranking.clicks is not None and ranking.clicks.shape[1] and (most := ranking.clicks[place].max()) > 0:
            click = reader.history[int(ranking.clicks[place].argmax())]
            body += f'<small dir="auto">most by “{html.escape(str(tables.items.name(click)))}” {most:+.2f}</small>'
        cards.append(card(tables, item, body, "yes" if chosen else ""))
    name = html.escape(f"{numeral}: {served.name}" if numeral else served.name)
    stand = f"; {served.verb}: rank {', '.join(map(str, ranking.ranks))}" if len(ranking.ranks) else ""
    head = f"{name} <small>first {len(cards):,} of {ranking.among:,}{stand}</small>"
    return f"<section><h4>{head}</h4><ol>{''.join(cards)}</ol></section>"


def compare(models: Sequence[Served], rankings: Sequence[Ranking]) -> str:
    """One reader's history, and what each model ranks for them, side by side where there is room; below, what the numbers mean."""
    tables, reader = models[0].tables, rankings[0].reader
    who = f"User {reader.user}" if reader.user is not None else "Somebody with this history"
    lists = "".join(ranked(*each) for each in zip(models, rankings, numerals(rankings), strict=True))
    said: dict[str, list[str]] = {}  # by line, the rankings of which it is true
    for name, ranking in zip(numerals(rankings), rankings, strict=True):
        for line in meaning(ranking):
            said.setdefault(line, []).append(name)
    lines = [line if len(of) == len(rankings) else f"{', '.join(of)}: {line}" for line, of in said.items()]
    terms = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return (
        f'<div class="nrms-list">{STYLE}<h3>{html.escape(who)} <small>{html.escape(models[0].config.dataset)}</small></h3>'
        f'{history(tables, rankings)}<div class="two">{lists}</div><h4>What the numbers mean</h4><ul>{terms}</ul></div>'
    )
