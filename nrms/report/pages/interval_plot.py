"""How does a number with its interval look on a page? A dot on a line, in SVG: small in a table, or all of a data set in one panel."""

import math
from dataclasses import dataclass

import pandas as pd

from nrms.evaluation.protocols import Protocol
from nrms.report.result_tables import levels
from nrms.runtime.templates import render


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
        decade = 10 ** math.floor(math.log10(self.high - self.low))
        step = max(step for step in (decade, decade / 2, decade / 5) if (self.high - self.low) / step >= 3)
        return [i * step for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def scale(rows: pd.DataFrame, protocol: Protocol, left: float, right: float) -> Scale:
    """The common scale of the finished rows of one data set: all intervals lie in it."""
    low, high = rows[f"{protocol.main}_low"].min(), rows[f"{protocol.main}_high"].max()
    margin = 0.03 * (high - low) or 0.01
    return Scale(low - margin, high + margin, left, right)


def reference_lines(rows: pd.DataFrame, protocol: Protocol) -> list[tuple[str, float]]:
    """What everything is read against: the ceilings and the best baseline, (kind, value)."""
    return list(levels(rows, protocol.main)[["kind", protocol.main]].itertuples(index=False, name=None))


def bar(row: pd.Series, rows: pd.DataFrame, protocol: Protocol) -> str:
    """The main metric of one row, on the common scale, for a cell of a table."""
    x_of, lines = scale(rows, protocol, 4, 124), reference_lines(rows, protocol)
    return render("report/pages/interval_bar.html.j2", row=row, x_of=x_of, lines=lines, main=protocol.main)


def panel(rows: pd.DataFrame, protocol: Protocol) -> str:
    """All finished rows of one data set that have a value, best first: dots with intervals, lines for ceilings and the best baseline."""
    rows = rows.dropna(subset=[protocol.main])
    x_of = scale(rows, protocol, 150, 392) if len(rows) else None  # names stand to the left of it
    best_first = [row for _, row in rows.sort_values(protocol.main, ascending=False, kind="stable").iterrows()]
    return render("report/pages/interval_panel.html.j2", rows=best_first, x_of=x_of, lines=reference_lines(rows, protocol), protocol=protocol)
