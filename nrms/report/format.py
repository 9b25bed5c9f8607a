"""How is a number written? Digits, thousands, p, intervals."""

from pathlib import Path
from typing import Any

import pandas as pd


def name_only(value: Any) -> Any:
    """A value as it may be passed on: of absolute paths, at any depth of lists and dicts, the last name."""
    if isinstance(value, dict):
        return {key: name_only(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [name_only(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


# words and numbers ---------------------------------------------------------------------------------------------------


def number(value: float, digits: int = 3) -> str:
    return "" if pd.isna(value) else f"{value:.{digits}f}"


def thousands(value: float) -> str:
    return "" if pd.isna(value) else f"{value:,.0f}"


def p_value(p: float) -> str:
    return "" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def with_interval(row: pd.Series, name: str) -> str:
    return "" if pd.isna(row.get(name)) else f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"


def difference(row: pd.Series) -> str:
    return "" if pd.isna(row.difference) else f"[{row.difference_low:+.3f}, {row.difference_high:+.3f}], p {p_value(row.p)}"
