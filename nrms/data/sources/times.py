"""When was that? Texts of any usual form -> seconds since 1970 and the nanoseconds behind them, so that what came first stays first."""

import numpy as np
import pandas as pd
import pyarrow as pa

UNITS = ((10**11, 1), (10**14, 10**3), (10**17, 10**6), (10**20, 10**9))  # numbers up to the first are such parts of a second


def times(column: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whole seconds and nanoseconds, (n,) each, and where a text is no time: there both are 0.

    Numbers are seconds, or by their size milliseconds, microseconds or nanoseconds (UNITS), those with a fraction to the microsecond; texts are ISO
    dates, without a zone in UTC.
    """
    try:
        return *split(column.cast(pa.int64()).to_numpy()), np.zeros(len(column), bool)
    except pa.ArrowInvalid:  # not all of them are whole numbers
        text = pd.Series(column.to_pylist(), dtype=object).str.strip()
    second, nano, bad = np.zeros(len(text), np.int64), np.zeros(len(text), np.int64), np.ones(len(text), bool)
    number = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
    whole = text.str.fullmatch(r"[+-]?\d+").to_numpy(bool) & (np.abs(number) < 2.0**63)
    second[whole], nano[whole] = split(text[whole].astype(np.int64).to_numpy())
    decimal = ~whole & (np.abs(number) < UNITS[-1][0])
    second[decimal], nano[decimal] = split(np.round(number[decimal] / unit_of(number[decimal]) * 10**6).astype(np.int64), 10**6)
    date = np.flatnonzero(np.isnan(number) & text.str.match(r"\d{4}\D").to_numpy(bool))  # pandas would also take `now` and `today`
    digits = text[date].str.replace(r".*:\d+[.,](\d{1,9}).*|.*", r"\1", n=1, regex=True)  # of a part of a second
    plain = text[date].str.replace(r"(:\d+)[.,]\d+", r"\1", regex=True)  # nanoseconds in one row would narrow the years of all others
    dates = pd.to_datetime(plain, errors="coerce", utc=True, format="ISO8601")
    is_date = dates.notna().to_numpy()
    second[date[is_date]] = [int(d.timestamp()) for d in dates[is_date]]
    nano[date[is_date]] = digits[is_date].str.ljust(9, "0").astype(np.int64)
    bad[whole | decimal] = bad[date[is_date]] = False
    return second, nano, bad


def unit_of(values: np.ndarray) -> np.ndarray:
    """Of how many a second is made, for numbers of this size."""
    return np.select([np.abs(values) <= limit for limit, _ in UNITS], [unit for _, unit in UNITS])


def split(values: np.ndarray, unit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Whole seconds and nanoseconds of whole numbers (n,) of which a second has `unit`; None: as many as their size says."""
    size = unit or unit_of(values)
    return values // size, values % size * (10**9 // size)
