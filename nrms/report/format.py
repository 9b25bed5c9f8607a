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


def bracketed(mean: float, low: float, high: float, sign: str = "") -> str:
    """A mean and its interval; sign `+`: of a difference."""
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def with_interval(row: pd.Series, name: str, sign: str = "") -> str:
    return "" if pd.isna(row.get(name)) else bracketed(row[name], row[f"{name}_low"], row[f"{name}_high"], sign)
