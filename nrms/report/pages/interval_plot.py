"""How does a number with its interval look on a page? A dot on a line, in SVG: small in a table, or all of a data set in one panel."""

import math
from dataclasses import dataclass
from html import escape

import pandas as pd

from nrms.evaluation.protocols import Protocol

ROW, NAMES, WIDTH = 17, 150, 400  # pixels: height of a row, width of the names, of a panel


@dataclass(frozen=True)
class Scale:
    """From values to pixels."""

    low: float
    high: float
    left: float
    right: float

    def __call__(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low)
        return f"{self.left + share * (self.right - self.left):.1f}"

    def ticks(self) -> list[float]:
        """A few round values, three to ten steps apart."""
        step = 10 ** math.floor(math.log10(self.high - self.low))
        step = next(s for s in (step, step / 2, step / 5) if (self.high - self.low) / s >= 3)
        first = math.ceil(self.low / step)
        return [i * step for i in range(first, math.floor(self.high / step) + 1)]


def scale(rows: pd.DataFrame, protocol: Protocol, left: float, right: float) -> Scale:
    """The common scale of the finished rows of one data set: all intervals lie in it."""
    low, high = rows[f"{protocol.main}_low"].min(), rows[f"{protocol.main}_high"].max()
    margin = 0.03 * (high - low) or 0.01
    return Scale(low - margin, high + margin, left, right)


def marks(rows: pd.DataFrame, protocol: Protocol) -> list[tuple[str, float]]:
    """What everything is read against: the ceilings and the best baseline, (kind, value)."""
    values = rows[protocol.main]
    best = values[rows["kind"] == "baseline"].max()
    return [("ceiling", v) for v in values[rows["kind"] == "ceiling"]] + ([("baseline", best)] if pd.notna(best) else [])


def vertical(x: str, top: float, bottom: float, css: str) -> str:
    return f'<line class="{css}" x1="{x}" x2="{x}" y1="{top:g}" y2="{bottom:g}"/>'


def dot(low: str, value: str, high: str, y: float) -> str:
    return f'<line class="span" x1="{low}" x2="{high}" y1="{y:g}" y2="{y:g}"/><circle class="dot" cx="{value}" cy="{y:g}" r="3.5"/>'


def bar(row: pd.Series, rows: pd.DataFrame, protocol: Protocol) -> str:
    """The main metric of one row, on the common scale, for a cell of a table."""
    at, main = scale(rows, protocol, 4, 124), protocol.main
    drawn = "".join(vertical(at(value), 0, 16, f"mark {kind}") for kind, value in marks(rows, protocol))
    drawn += dot(*(at(row[main + end]) for end in ("_low", "", "_high")), 8)
    return f'<svg class="bar {row.kind}" viewBox="0 0 128 16" aria-hidden="true">{drawn}</svg>'


def panel(rows: pd.DataFrame, protocol: Protocol) -> str:
    """All finished rows of one data set that have a value, best first: dots with intervals, lines for ceilings and the best baseline."""
    rows = rows.dropna(subset=[protocol.main])
    if rows.empty:
        return f"<p>No finished run has a value of {escape(protocol.label)}.</p>"
    at, main = scale(rows, protocol, NAMES, WIDTH - 8), protocol.main
    height = ROW * len(rows) + 4
    drawn = ""
    for tick in at.ticks():
        drawn += vertical(at(tick), 0, height, "") + f'<text class="dim" x="{at(tick)}" y="{height + 14}" text-anchor="middle">{tick:.3g}</text>'
    drawn += "".join(vertical(at(value), 0, height, f"mark {kind}") for kind, value in marks(rows, protocol))
    for i, (_, row) in enumerate(rows.sort_values(main, ascending=False, kind="stable").iterrows()):
        y = ROW * i + ROW / 2 + 2
        name = row.exp if len(row.exp) < 22 else row.exp[:20] + "…"
        says = f"{row.exp}: {protocol.label} {row[main]:.3f}, {row[f'{main}_low']:.3f} to {row[f'{main}_high']:.3f}"
        drawn += f'<g class="{row.kind}"><title>{escape(says)}</title><text x="0" y="{y + 4:g}">{escape(name)}</text>'
        drawn += dot(*(at(row[main + end]) for end in ("_low", "", "_high")), y) + "</g>"
    label = f'<text class="dim" x="{NAMES}" y="{height + 30}">{escape(protocol.label)}, 95 % interval</text>'
    return (
        f'<svg class="panel" viewBox="0 0 {WIDTH} {height + 36}" role="img" aria-label="{escape(protocol.label)} of every run">{drawn}{label}</svg>'
    )
