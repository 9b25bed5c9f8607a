"""How does a MIND folder become tables?

news.tsv and behaviors.tsv, in folders or zips, at any depth, are read in blocks as columns. Nothing is dropped in silence: every oddity has a
reason code and is counted as `set aside` (the row is left out), `repaired` (the row is kept without its unknown clicks) or `noted` (the row is
kept as it is). Entities (columns 7 and 8 of news.tsv) are not read. Format: https://github.com/msnews/msnews.github.io (assets/doc/introduction.md).
"""

import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nrms import NrmsError
from nrms.data.tables import IMPRESSIONS_SCHEMA, NEWS_SCHEMA
from nrms.runtime import progress

BLOCK = 32 << 20  # bytes read at once; bounds memory
TIME = "%m/%d/%Y %I:%M:%S %p"
PARTS = {"train": r"train", "dev": r"dev|valid", "test": r"test"}
REASONS = {
    # set aside: the row is left out
    "columns": "not as many tab-separated columns as the format has",
    "nul": "a NUL byte, the trace of a torn write",
    "encoding": "not UTF-8",
    "id": "no id",
    "duplicate": "an id that an earlier row has",
    "time": f"a time that is not {TIME}",
    "candidates": "no candidates",
    "label": "a candidate that does not end in -0 or -1",
    "unknown_candidate": "a candidate that no news.tsv has",
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


@dataclass
class Ledger:
    """What was found in one file. rows_in = rows_out + the sum of what was set aside."""

    file: str
    rows_in: int = 0
    rows_out: int = 0
    counts: Counter = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)  # the first three bad rows

    @property
    def bad(self) -> int:
        return sum(n for reason, n in self.counts.items() if reason not in NOTED)

    def check(self, most: float) -> None:
        """Raises NrmsError when more than the share `most` of all rows is bad."""
        if self.bad > most * self.rows_in:
            share, first = self.bad / self.rows_in, "\n  ".join(self.examples)
            raise NrmsError(
                f"{self.file}: {self.bad} of {self.rows_in} rows ({share:.2%}) are bad, more than the {most:.2%} that `max_bad` allows. "
                f"Mend the file, or raise max_bad in the data set's file in params/data. The first ones:\n  {first}"
            )

    def summary(self) -> dict:
        kinds = {"set_aside": {}, "repaired": {}, "noted": {}}
        for reason, n in sorted(self.counts.items()):
            kinds["repaired" if reason in REPAIRED else "noted" if reason in NOTED else "set_aside"][reason] = n
        return {"file": self.file, "rows_in": self.rows_in, "rows_out": self.rows_out, **kinds, "examples": self.examples}


@dataclass(frozen=True)
class Member:
    """One file of the source, on disk or inside a zip (which is read in place and never unpacked)."""

    name: str
    open: Callable[[], IO[bytes]]


def list_members(source: Path) -> list[Member]:
    """Every news.tsv and behaviors.tsv of a folder or zip, zips inside the folder included."""
    if not source.exists():
        raise NrmsError(f"There is no file or folder {source}; `--from` takes a MIND folder or zip.")
    members: list[Member] = []
    paths = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    for path in paths:
        shown = path.name if source.is_file() else str(path.relative_to(source))
        if path.name in ("news.tsv", "behaviors.tsv"):
            members.append(Member(shown, lambda path=path: path.open("rb")))
        elif path.suffix.lower() == ".zip":
            try:
                names = zipfile.ZipFile(path).namelist()
            except zipfile.BadZipFile:
                raise NrmsError(f"{path} is not a complete zip file; download it again.") from None
            for name in names:
                if name.rsplit("/", 1)[-1] in ("news.tsv", "behaviors.tsv"):
                    members.append(Member(f"{shown}/{name}", lambda path=path, name=name: zipfile.ZipFile(path).open(name)))
    return members


def find_members(source: Path) -> dict[str, dict[str, Member]]:
    """{part: {"news.tsv": member, "behaviors.tsv": member}} of a folder or zip; a part is told by `train`, `dev` or `test` in the path."""
    found: dict[str, dict[str, Member]] = {}
    for member in list_members(source):
        *folders, base = member.name.split("/")
        parts = [part for folder in reversed(folders) for part, pattern in PARTS.items() if re.search(pattern, folder.lower())]
        if not parts:
            raise NrmsError(f"{member.name} in {source} belongs to no part: put it into a folder whose name contains train, dev or test.")
        if base in found.setdefault(parts[0], {}):
            raise NrmsError(f"{source} has {base} of the part {parts[0]} twice: {found[parts[0]][base].name} and {member.name}; leave one.")
        found[parts[0]][base] = member
    for part, files in found.items():
        if "behaviors.tsv" in files and "news.tsv" not in files:
            raise NrmsError(f"{source}: the part {part} has behaviors.tsv but no news.tsv beside it.")
    if not any("behaviors.tsv" in files for part, files in found.items() if part == "train"):
        raise NrmsError(f"{source} holds no train part: expected news.tsv and behaviors.tsv in a folder or zip whose name contains `train`.")
    return {part: found[part] for part in PARTS if part in found}


def read_blocks(stream: IO[bytes]) -> Iterator[tuple[list[bytes], bool]]:
    """Lines of a file, block by block, and whether a byte order mark stood before the first."""
    rest, bom = b"", None
    while block := stream.read(BLOCK):
        if bom is None:
            bom = block.startswith(b"\xef\xbb\xbf")
            block = block[3:] if bom else block
        *lines, rest = (rest + block).split(b"\n")
        yield lines, bool(bom)
        bom = False
    if rest:
        yield [rest], bool(bom)


@dataclass
class Rows:
    """The rows of a block that are still sound: their text, their line numbers in the file, their columns."""

    ledger: Ledger
    lines: pa.Array
    numbers: np.ndarray
    columns: list[pa.Array] = field(default_factory=list)

    def count(self, reason: str, found: np.ndarray) -> None:
        """Counts the rows where `found` (n,) is True."""
        if not found.any():
            return
        self.ledger.counts[reason] += int(found.sum())
        if reason not in NOTED:
            for i in np.flatnonzero(found)[: max(3 - len(self.ledger.examples), 0)]:
                text = self.lines[int(i)].as_py().decode("utf-8", "replace")
                self.ledger.examples.append(f"{self.ledger.file}, line {self.numbers[i]}, {REASONS[reason]}: {text[:160]!r}")

    def drop(self, reason: str, found: np.ndarray) -> None:
        """Counts these rows and leaves them out from here on."""
        self.count(reason, found)
        if found.any():
            keep = pa.array(~found)
            self.lines, self.numbers, self.columns = self.lines.filter(keep), self.numbers[~found], [c.filter(keep) for c in self.columns]


def read_rows(member: Member, ledger: Ledger, width: int) -> Iterator[Rows]:
    """The rows of a file that have `width` columns of sound text, block by block."""
    line = 1
    with member.open() as stream:
        for raw, bom in read_blocks(stream):
            rows = Rows(ledger, pa.array(raw, pa.binary()), line + np.arange(len(raw)))
            line += len(raw)
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
            cells = pc.split_pattern(text, "\t")
            wrong = pc.list_value_length(cells).to_numpy() != width
            rows.drop("columns", wrong)
            cells = cells.filter(pa.array(~wrong))
            rows.columns = [pc.list_element(cells, i) for i in range(width)] if len(cells) else [pa.array([], pa.string())] * width
            yield rows


def flags(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False).astype(bool)


def repeats(ids: pa.Array, seen: set[str]) -> np.ndarray:
    """True where an id stands in `seen` or earlier in `ids`; adds all of them to `seen`."""
    found = []
    for name in ids.to_pylist():
        found.append(name in seen)
        seen.add(name)
    return np.array(found, bool)


def any_of(found: np.ndarray, owner: np.ndarray, rows: int) -> np.ndarray:
    """(rows,) True where any value that belongs to the row is True."""
    return np.bincount(owner[found], minlength=rows) > 0


def read_all_news(members: dict[str, Member], most: float) -> tuple[pa.Table, list[Ledger]]:
    """All news of all parts, row 0 padding; a news that several parts have is kept once."""
    blocks, ledgers = [pa.table([[""]] * 6, schema=NEWS_SCHEMA)], []
    known: dict[str, tuple] = {}
    for member in members.values():
        ledger = Ledger(member.name)
        ledgers.append(ledger)
        seen: set[str] = set()
        for rows in read_rows(member, ledger, 8):
            rows.drop("id", flags(pc.equal(pc.utf8_trim_whitespace(rows.columns[0]), "")))
            rows.drop("duplicate", repeats(rows.columns[0], seen))
            rows.count("empty_title", flags(pc.equal(pc.utf8_trim_whitespace(rows.columns[3]), "")))
            ledger.rows_out += len(rows.numbers)
            ids = rows.columns[0].to_pylist()
            texts = list(zip(*(c.to_pylist() for c in rows.columns[1:5]), strict=True))
            rows.count("conflict", np.array([known.get(i, t) != t for i, t in zip(ids, texts, strict=True)], bool))
            new = pa.array([i not in known for i in ids], pa.bool_())
            known |= {i: t for i, t in zip(ids, texts, strict=True) if i not in known}
            blocks.append(pa.table([c.filter(new) for c in rows.columns[:6]], schema=NEWS_SCHEMA))
        ledger.check(most)
    return pa.concat_tables(blocks), ledgers


def read_news_of(source: Path) -> pa.Table:
    """The news of every news.tsv in a folder or zip, row 0 padding, whatever parts they belong to; bad rows are left out."""
    members = {m.name: m for m in list_members(source) if m.name.rsplit("/", 1)[-1] == "news.tsv"}
    if not members:
        raise NrmsError(f"{source} holds no news.tsv.")
    return read_all_news(members, most=1.0)[0]


def has_labels(member: Member) -> bool:
    """False for a behaviors.tsv whose first block has no candidate that ends in -0 or -1: a test part to be predicted."""
    with member.open() as stream:
        lines, _ = next(read_blocks(stream), ([], False))
    return any(re.search(rb"-[01](\s|$)", line) for line in lines[:1000])


def read_behaviors(member: Member, labelled: bool, news: pa.Array, ledger: Ledger) -> Iterator[pa.Table]:
    """The sound impressions of a behaviors.tsv, block by block, with news as row numbers of the table of news."""
    seen: set[str] = set()
    for rows in read_rows(member, ledger, 5):
        rows.drop("id", flags(pc.equal(pc.utf8_trim_whitespace(rows.columns[0]), "")))
        rows.drop("duplicate", repeats(rows.columns[0], seen))
        rows.drop("time", wrong_times(rows.columns[2]))
        rows.drop("candidates", flags(pc.equal(pc.utf8_trim_whitespace(rows.columns[4]), "")))

        shown, owner = words_of(rows.columns[4])
        if labelled:
            marks = pc.utf8_slice_codeunits(shown, -2)
            bad = any_of(~flags(pc.is_in(marks, pa.array(["-0", "-1"]))), owner, len(rows.numbers))
            rows.drop("label", bad)
            shown, owner = words_of(rows.columns[4])
            clicked = flags(pc.equal(pc.utf8_slice_codeunits(shown, -1), "1"))
            shown = pc.utf8_slice_codeunits(shown, 0, -2)
        number = pc.index_in(shown, value_set=news)
        lost = any_of(flags(pc.is_null(number)), owner, len(rows.numbers))
        rows.drop("unknown_candidate", lost)
        number, clicked = number.filter(pa.array(~lost[owner])), clicked[~lost[owner]] if labelled else None
        size = np.bincount(owner, minlength=len(lost))[~lost]

        read, reader = words_of(rows.columns[3])
        past = pc.index_in(read, value_set=news)
        unknown = flags(pc.is_null(past))
        rows.count("unknown_history", any_of(unknown, reader, len(rows.numbers)))
        length = np.bincount(reader[~unknown], minlength=len(rows.numbers))
        rows.count("empty_history", length == 0)
        if labelled:
            clicks = np.bincount(np.repeat(np.arange(len(size)), size)[clicked], minlength=len(size))
            rows.count("one_class", (clicks == 0) | (clicks == size))
        ledger.rows_out += len(rows.numbers)
        labels = lists(pa.array(clicked), size) if labelled else pa.nulls(len(size), pa.list_(pa.bool_()))
        time = pc.strptime(rows.columns[2], format=TIME, unit="s")
        yield pa.table([*rows.columns[:2], time, lists(past.drop_null(), length), lists(number, size), labels], schema=IMPRESSIONS_SCHEMA)


def wrong_times(column: pa.Array) -> np.ndarray:
    """True where a text is no time of the form TIME, or names a day that its month does not have."""
    time = pc.strptime(column, format=TIME, unit="s", error_is_null=True)
    day = pc.list_element(pc.split_pattern(pc.if_else(pc.is_null(time), "0/0/", column), "/"), 1)
    return flags(pc.fill_null(pc.not_equal(pc.cast(pc.utf8_trim_whitespace(day), pa.int64()), pc.day(time)), True))


def words_of(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The space-separated words of every row in one array, and the row of each."""
    words = pc.split_pattern(column, " ")
    owner, flat = pc.list_parent_indices(words).to_numpy(), pc.list_flatten(words)
    real = pc.not_equal(flat, "")
    return flat.filter(real), owner[flags(real)].astype(np.int64)


def lists(values: pa.Array, size: np.ndarray) -> pa.ListArray:
    """`values` cut into rows of the given sizes."""
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(size)]), pa.int32()), values)


def convert(source: Path, folder: Path, most: float) -> dict:
    """Reads the MIND folder or zip `source` and writes news.parquet and <part>.parquet into `folder`. Returns the facts for its manifest.

    Raises NrmsError when files are missing, or when more than the share `most` of the rows of one file is bad.
    """
    members = find_members(source)
    news, ledgers = read_all_news({part: files["news.tsv"] for part, files in members.items() if "news.tsv" in files}, most)
    pq.write_table(news, folder / "news.parquet", compression="zstd")
    ids, parts = news["id"].combine_chunks(), {}
    for part, files in members.items():
        if "behaviors.tsv" not in files:
            continue
        member, ledger = files["behaviors.tsv"], Ledger(files["behaviors.tsv"].name)
        ledgers.append(ledger)
        labelled = part != "test" or has_labels(member)
        with (
            pq.ParquetWriter(folder / f"{part}.parquet", IMPRESSIONS_SCHEMA, compression="zstd") as writer,
            progress(what=f"reading {part}", unit=" rows") as bar,
        ):
            for table in read_behaviors(member, labelled, ids, ledger):
                writer.write_table(table)
                bar.update(len(table))
        ledger.check(most)
        parts[part] = {"impressions": ledger.rows_out, "labelled": labelled}
    return {"news": len(news) - 1, "parts": parts, "files": [ledger.summary() for ledger in ledgers]}
