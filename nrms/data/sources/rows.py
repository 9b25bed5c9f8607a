"""What is odd in a file, and how is nothing lost in silence? Rows are read in blocks as columns; every oddity has a reason code and a count.

`set aside`: the row is left out. `repaired`: it is kept without what was wrong. `noted`: it is kept as it is.
"""

import csv
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nrms import NrmsError

BLOCK = 32 << 20  # bytes read at once; bounds memory
MAX_LINES = 1000  # of one row, whose quoted cells may have line ends
MAX_LINE_BYTES = 16 << 20  # one of MIND has some tens of thousands at most
csv.field_size_limit(MAX_LINE_BYTES)  # texts may be longer than the 128 kB that csv takes by default
REASONS = {
    # set aside: the row is left out
    "columns": "not as many columns as the format has, or a quote that is not closed",
    "nul": "a NUL byte, the trace of a torn write",
    "encoding": "not UTF-8",
    "id": "no id",
    "duplicate": "an id that an earlier row has",
    "time": "a time that is not of the form that the format has",
    "candidates": "no candidates",
    "label": "a candidate that does not end in -0 or -1",
    "unknown_candidate": "a candidate that no news.tsv has",
    "unknown_item": "an item that the table of items does not have",
    "rating": "a rating that is no number",
    "part": "a part that is none of 0, 1, 2, train, valid and test",
    "repeated": "user, item and time of an earlier row",
    # set aside by choice: the row is sound, but not wanted
    "low_rating": "a rating below `min_rating`",
    "not_taken": "a label that says that the item was shown, and not taken",
    # repaired: the row is kept without it
    "unknown_history": "clicks in the history that no news.tsv has",
    # noted: the row is kept as it is
    "bom": "a byte order mark before the first row",
    "crlf": "Windows line ends",
    "blank": "a line without anything; not counted as a row",
    "empty_title": "a title without text",
    "conflict": "an id that another part's news.tsv has with other text; the first is kept",
    "empty_history": "a history without clicks",
    "one_class": "all candidates clicked, or none: no metric can be computed, so evaluation skips it",
}
REPAIRED, NOTED = {"unknown_history"}, {"bom", "crlf", "blank", "empty_title", "conflict", "empty_history", "one_class"}
CHOSEN = {"low_rating", "not_taken"}


@dataclass
class Ledger:
    """What was found in one file. rows_in = rows_out + the sum of what was set aside.

    strict: no row may be left out, as of a part to be predicted; the first that would be is an error.
    """

    file: str
    strict: bool = False
    rows_in: int = 0
    rows_out: int = 0
    counts: Counter = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)  # the first three bad rows

    @property
    def bad(self) -> int:
        return sum(n for reason, n in self.counts.items() if reason not in NOTED | CHOSEN)

    def check(self, max_bad: float) -> None:
        """Raises NrmsError when more than the share `max_bad` of all rows is bad."""
        if self.bad > max_bad * self.rows_in:
            share, first = self.bad / self.rows_in, "\n  ".join(self.examples)
            advice = "Mend the file" if share < 0.5 else "So many say that the file has another form than was expected: mend it"
            if share < 0.5:
                advice += f", or allow them with `-p max_bad {min(0.9, max(0.01, round(1.5 * share, 2))):g}`, a share"
            raise NrmsError(
                f"{self.file}: {self.bad} of {self.rows_in} rows ({share:.2%}) are bad, more than the {max_bad:.2%} that `max_bad` allows. "
                f"{advice}. The first ones:\n  {first}"
            )

    def summary(self) -> dict:
        counts = {"set_aside": {}, "repaired": {}, "noted": {}}
        for reason, count in sorted(self.counts.items()):
            counts["repaired" if reason in REPAIRED else "noted" if reason in NOTED else "set_aside"][reason] = count
        return {"file": self.file, "rows_in": self.rows_in, "rows_out": self.rows_out, **counts, "examples": self.examples}


def counts_of(summary: dict) -> Iterator[tuple[str, str, int]]:
    """(set aside, repaired or noted; reason; count) of everything odd that the summary of a file names."""
    for kind in ("set_aside", "repaired", "noted"):
        for reason, count in summary[kind].items():
            yield kind.replace("_", " "), reason, count


@dataclass(frozen=True)
class Member:
    """One file of the source, on disk or inside a zip (which is read in place and never unpacked)."""

    name: str  # with the folders in which it stands
    open: Callable[[], IO[bytes]]

    @property
    def base(self) -> str:
        return self.name.rsplit("/", 1)[-1]


def read_blocks(member: Member, width: int = 0) -> Iterator[tuple[list[bytes], bool]]:
    """Lines of a file, block by block, and whether a byte order mark stood before the first. Raises NrmsError for a line that never ends.

    width: of a table with commas, how many cells a row has: lines that are one row, as quoted cells may have line ends, stay together.
    """
    rest, bom = b"", None
    with member.open() as stream:
        while block := stream.read(BLOCK):
            if bom is None:
                bom = block.startswith(b"\xef\xbb\xbf")
                block = block[3:] if bom else block
            *lines, rest = (rest + block).split(b"\n")
            if width:
                lines, rest = join_quoted(lines, rest, width)
            if len(rest) > MAX_LINE_BYTES:
                raise NrmsError(f"{member.name} has a line of more than {MAX_LINE_BYTES:,} bytes: it is no table of text.")
            yield lines, bool(bom)
            bom = False
    if rest:
        yield join_quoted(rest.removesuffix(b"\n").split(b"\n"), None, width)[0] if width else [rest], bool(bom)


def join_quoted(lines: list[bytes], rest: bytes | None, width: int) -> tuple[list[bytes], bytes | None]:
    """Lines put together where a quoted cell has line ends, and what is to be read on with: `rest`, behind a row that is not at its end.

    A quote that nothing closes, so that a row of `width` cells would come out, breaks its own line alone. rest: None at the end of the file.
    """
    is_open = [line.count(b'"') % 2 == 1 for line in lines]
    if not any(is_open):
        return lines, rest
    rows, i = [], 0
    while i < len(lines):
        end = next((j for j in range(i + 1, min(i + MAX_LINES, len(lines))) if is_open[j]), None) if is_open[i] else i
        if end is None and rest is not None and i + MAX_LINES > len(lines):
            return rows, b"\n".join([*lines[i:], rest])
        row = b"\n".join(lines[i : end + 1]) if end is not None else b""
        if end is None or (end > i and len(split_quoted(row.decode("utf-8", "replace").removesuffix("\r"))) != width):
            row, end = lines[i], i
        rows.append(row)
        i = end + 1
    return rows, rest


@dataclass
class Rows:
    """The rows of a block that are still sound: their text, their line numbers in the file, their columns."""

    ledger: Ledger
    lines: pa.Array
    numbers: np.ndarray
    columns: list[pa.Array] = field(default_factory=list)

    def count(self, reason: str, odd: np.ndarray) -> None:
        """Counts the rows where `odd` (n,) is True."""
        if not odd.any():
            return
        self.ledger.counts[reason] += int(odd.sum())
        if reason not in NOTED | CHOSEN:
            self.ledger.examples += [self.show(reason, i) for i in np.flatnonzero(odd)[: max(3 - len(self.ledger.examples), 0)]]

    def show(self, reason: str, row: int) -> str:
        """Where a row stands, what is odd about it, and how it begins."""
        text = self.lines[int(row)].as_py().decode("utf-8", "replace")
        return f"{self.ledger.file}, line {self.numbers[row]}, {REASONS[reason]}: {text[:160]!r}"

    def drop(self, reason: str, odd: np.ndarray) -> None:
        """Counts these rows and leaves them out from here on; raises NrmsError where the ledger is strict."""
        if self.ledger.strict and reason not in NOTED and odd.any():
            raise NrmsError(f"{self.show(reason, odd.argmax())}. Every line must be ranked, so none is left out: get the file again.")
        self.count(reason, odd)
        if odd.any():
            sound = pa.array(~odd)
            self.lines, self.numbers, self.columns = self.lines.filter(sound), self.numbers[~odd], [c.filter(sound) for c in self.columns]


def split_quoted(line: str, separator: str = ",") -> list[str]:
    """The cells of a line with quotes; none where they are not closed."""
    try:
        return next(csv.reader([line], delimiter=separator, strict=True), [])
    except csv.Error:
        return []


def split_cells(text: pa.Array, separator: str) -> pa.Array:
    """The cells of every row as a list; between commas, quotes are understood."""
    cells = pc.split_pattern(text, separator)
    if separator == "\t" or not pc.any(pc.match_substring(text, '"')).as_py():
        return cells
    return pa.array([split_quoted(line) if '"' in line else row for line, row in zip(text.to_pylist(), cells.to_pylist(), strict=True)], cells.type)


def read_rows(member: Member, ledger: Ledger, width: int, *, separator: str = "\t", skip: int = 0) -> Iterator[Rows]:
    """The rows of a file that have `width` columns of sound text, block by block; the first `skip` lines are a header.

    What the reader then drops of them is set aside; the rest is counted as `rows_out` when it asks for the next.
    """
    first = 1  # number of the block's first line
    for lines, bom in read_blocks(member, width if separator == "," else 0):
        raw, begins = lines[skip:], first + np.cumsum([0, *(1 + line.count(b"\n") for line in lines)])
        rows = Rows(ledger, pa.array(raw, pa.binary()), begins[:-1][skip:])
        first, skip = begins[-1], max(skip - len(lines), 0)
        if bom:
            ledger.counts["bom"] += 1
        windows = flags(pc.ends_with(rows.lines, pattern=b"\r"))
        rows.count("crlf", windows)
        if windows.any():
            rows.lines = pa.array([line.removesuffix(b"\r") for line in raw], pa.binary())
        rows.drop("blank", flags(pc.equal(pc.binary_length(rows.lines), 0)))
        ledger.rows_in += len(rows.numbers)
        rows.drop("nul", flags(pc.match_substring(rows.lines, b"\0")))
        try:
            text = rows.lines.cast(pa.string())
        except pa.ArrowInvalid:
            rows.drop("encoding", np.array([line.decode("utf-8", "ignore").encode() != line for line in rows.lines.to_pylist()]))
            text = rows.lines.cast(pa.string())
        cells = split_cells(text, separator)
        wrong = pc.list_value_length(cells).to_numpy() != width
        rows.drop("columns", wrong)
        cells = cells.filter(pa.array(~wrong))
        rows.columns = [pc.list_element(cells, i) for i in range(width)] if len(cells) else [pa.array([], pa.string())] * width
        yield rows
        ledger.rows_out += len(rows.numbers)  # all that whoever reads them has not set aside


def flags(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False).astype(bool)


def is_blank(column: pa.Array) -> np.ndarray:
    return flags(pc.equal(pc.utf8_trim_whitespace(column), ""))


def repeats(ids: pa.Array, seen: set[str]) -> np.ndarray:
    """True where an id stands in `seen` or earlier in `ids`; adds all of them to `seen`."""
    repeated = []
    for name in ids.to_pylist():
        repeated.append(name in seen)
        seen.add(name)
    return np.array(repeated, bool)
