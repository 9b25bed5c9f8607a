"""How does a notebook show a text or a table of strangers? As text: nothing in it becomes Markdown or HTML."""

import pandas as pd
from pandas.io.formats.style import Styler


def code(text: str) -> str:
    """A text of strangers for Markdown: in a code span that nothing in it can leave, for it has no backtick and no end of a line."""
    joined = " ".join(str(text).split()).replace("`", "'")
    return f"`{joined}`" if joined else "(empty)"


def readable(table: pd.DataFrame) -> Styler:
    """The table with its texts whole and to the left, and as text: what looks like HTML in a title stays what it looks like."""
    table = table if table.index.is_unique else table.reset_index()  # pandas styles no index whose names repeat
    style = table.style.format(precision=3, escape="html").format_index(escape="html", axis=0).format_index(escape="html", axis=1)
    return style.set_properties(**{"text-align": "left"}).set_table_styles([{"selector": "th", "props": "text-align: left"}])
