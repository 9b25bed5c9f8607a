"""How does a MIND folder become tables?

news.tsv and behaviors.tsv, in folders or zips, at any depth, are read in blocks as columns; what is odd is counted by `rows.py`. Entities
(columns 7 and 8 of news.tsv) are not read. Format: https://github.com/msnews/msnews.github.io (assets/doc/introduction.md).
"""

import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nrms import NrmsError
from nrms.data.sources.rows import Ledger, Member, flags, is_blank, read_blocks, read_rows, repeats
from nrms.data.sources.zips import entries
from nrms.data.tables import IMPRESSIONS_SCHEMA, ITEMS_SCHEMA, NO_ITEM
from nrms.runtime.progress import progress

TIME = "%m/%d/%Y %I:%M:%S %p"
FILES = {"news.tsv": 8, "behaviors.tsv": 5}  # and their columns
FORM = r"^\d{1,2}/\d{1,2}/[12]\d{3} \d{1,2}:[0-5]\d:[0-5]\d [AP]M$"  # C's strptime would also take `11/9/19` and `1:44:60`
PARTS = {"train": r"train", "dev": r"dev|valid", "test": r"test"}


def list_members(source: Path) -> list[Member]:
    """Every news.tsv and behaviors.tsv of a folder or zip, zips inside the folder included.

    Links to files are followed, wherever they lead (the cache of a hub is made of them); links to folders are not.
    """
    if not source.exists():
        raise NrmsError(f"There is no file or folder {source}; `--from` takes a MIND folder or zip.")
    members: list[Member] = []
    paths = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    for path in paths:
        name = path.name if source.is_file() else str(path.relative_to(source))
        if path.name in FILES:
            members.append(Member(name, lambda path=path: path.open("rb")))
        elif path.suffix.lower() == ".zip":
            members += entries(path, tuple(FILES), name)
    return members


def by_part(source: Path, above: tuple[str, ...] = ()) -> dict[str, dict[str, Member]]:
    """{part: {"news.tsv": member, "behaviors.tsv": member}} of a folder or zip; a part is told by `train`, `dev` or `test` in the path.

    above: names of the folders that stand before those in `source`.
    """
    files: dict[str, dict[str, Member]] = {}
    for member in list_members(source):
        *folders, base = [*above, *member.name.split("/")]
        parts = [part for folder in reversed(folders) for part, pattern in PARTS.items() if re.search(pattern, folder.lower())]
        if not parts:
            raise NrmsError(f"{member.name} in {source} belongs to no part: put it into a folder whose name contains train, dev or test.")
        of_part = files.setdefault(parts[0], {})
        if base in of_part:
            raise NrmsError(f"{source} has {base} of the part {parts[0]} twice: {of_part[base].name} and {member.name}; leave one.")
        of_part[base] = member
    for part, of_part in files.items():
        if "behaviors.tsv" in of_part and "news.tsv" not in of_part:
            raise NrmsError(f"{source}: the part {part} has behaviors.tsv but no news.tsv beside it.")
    return files


def find_part(source: Path, part: str) -> dict[str, Member]:
    """{"news.tsv": member, "behaviors.tsv": member} of one part: `source` is its folder or zip, or that of a whole MIND."""
    files = by_part(source, above=(source.absolute().name,))
    parts = [name for name in PARTS if "behaviors.tsv" in files.get(name, {})]
    if part not in parts:
        names = ", ".join(parts) or "none"
        raise NrmsError(f"{source} holds no part `{part}`: expected news.tsv and behaviors.tsv in a folder or zip so called. Parts there: {names}.")
    return files[part]


def find_members(source: Path) -> dict[str, dict[str, Member]]:
    """As `by_part`, in the order of PARTS; a train part must be there."""
    files = by_part(source)
    if "behaviors.tsv" not in files.get("train", {}):
        raise NrmsError(f"{source} holds no train part: expected news.tsv and behaviors.tsv in a folder or zip whose name contains `train`.")
    return {part: files[part] for part in PARTS if part in files}


def any_of(marks: np.ndarray, owner: np.ndarray, rows: int) -> np.ndarray:
    """(rows,) True where any value that belongs to the row is marked."""
    return np.bincount(owner[marks], minlength=rows) > 0


def read_all_news(members: dict[str, Member], max_bad: float) -> tuple[pa.Table, list[Ledger]]:
    """All items of all parts, row 0 padding; an item that several parts have is kept once."""
    blocks, ledgers = [NO_ITEM], []
    known: dict[str, tuple] = {}
    for member in members.values():
        ledger = Ledger(member.name)
        ledgers.append(ledger)
        seen: set[str] = set()
        for rows in read_rows(member, ledger, FILES["news.tsv"]):
            rows.drop("id", is_blank(rows.columns[0]))
            rows.drop("duplicate", repeats(rows.columns[0], seen))
            rows.count("empty_title", is_blank(rows.columns[3]))
            ids = rows.columns[0].to_pylist()
            texts = list(zip(*(c.to_pylist() for c in rows.columns[1:5]), strict=True))
            rows.count("conflict", np.array([known.get(i, t) != t for i, t in zip(ids, texts, strict=True)], bool))
            new = pa.array([i not in known for i in ids], pa.bool_())
            known |= {i: t for i, t in zip(ids, texts, strict=True) if i not in known}
            blocks.append(pa.table([c.filter(new) for c in rows.columns[:6]], schema=ITEMS_SCHEMA))
        ledger.check(max_bad)
    return pa.concat_tables(blocks), ledgers


def read_news_of(source: Path) -> pa.Table:
    """The items of every news.tsv in a folder or zip, row 0 padding, whatever parts they belong to; bad rows are left out."""
    members = {m.name: m for m in list_members(source) if m.base == "news.tsv"}
    if not members:
        raise NrmsError(f"{source} holds no news.tsv.")
    return read_all_news(members, max_bad=1.0)[0]


def has_labels(member: Member) -> bool:
    """False for a behaviors.tsv whose first thousand lines have no candidate that ends in -0 or -1: a test part to be predicted."""
    lines = islice(chain.from_iterable(lines for lines, _ in read_blocks(member)), 1000)
    return any(re.search(rb"-[01](\s|$)", line.rsplit(b"\t", 1)[-1]) for line in lines)


def read_behaviors(member: Member, labelled: bool, ids: pa.Array, ledger: Ledger) -> Iterator[pa.Table]:
    """The sound impressions of a behaviors.tsv, block by block, with items as row numbers of the table of items, whose `ids` these are.

    Where the ledger wants all of them an unknown candidate is kept, as number 0.
    """
    seen: set[str] = set()
    for rows in read_rows(member, ledger, FILES["behaviors.tsv"]):
        rows.drop("id", is_blank(rows.columns[0]))
        rows.drop("duplicate", repeats(rows.columns[0], seen))
        rows.drop("time", wrong_times(rows.columns[2]))
        rows.drop("candidates", is_blank(rows.columns[4]))

        candidates, owner = words_of(rows.columns[4])
        if labelled:
            wrong = ~flags(pc.is_in(pc.utf8_slice_codeunits(candidates, -2), pa.array(["-0", "-1"])))
            rows.drop("label", any_of(wrong, owner, len(rows.numbers)))
            candidates, owner = words_of(rows.columns[4])
            clicked = flags(pc.equal(pc.utf8_slice_codeunits(candidates, -1), "1"))
            candidates = pc.utf8_slice_codeunits(candidates, 0, -2)
        number = pc.fill_null(pc.index_in(candidates, value_set=ids), 0)  # row 0, padding, is what `-1` alone would name
        unknown = any_of(flags(pc.equal(number, 0)) & (not ledger.strict), owner, len(rows.numbers))
        rows.drop("unknown_candidate", unknown)
        number, clicked = number.filter(pa.array(~unknown[owner])), clicked[~unknown[owner]] if labelled else None
        size = np.bincount(owner, minlength=len(unknown))[~unknown]

        history, owner = words_of(rows.columns[3])
        past = pc.index_in(history, value_set=ids)
        missing = flags(pc.is_null(past))
        rows.count("unknown_history", any_of(missing, owner, len(rows.numbers)))
        length = np.bincount(owner[~missing], minlength=len(rows.numbers))
        rows.count("empty_history", length == 0)
        if labelled:
            clicks = np.bincount(np.repeat(np.arange(len(size)), size)[clicked], minlength=len(size))
            rows.count("one_class", (clicks == 0) | (clicks == size))
        labels = lists(pa.array(clicked), size) if labelled else pa.nulls(len(size), pa.list_(pa.bool_()))
        time = pc.strptime(rows.columns[2], format=TIME, unit="s")
        yield pa.table([*rows.columns[:2], time, lists(past.drop_null(), length), lists(number, size), labels], schema=IMPRESSIONS_SCHEMA)


def wrong_times(column: pa.Array) -> np.ndarray:
    """True where a text is no time of the form TIME, or names a day that its month does not have."""
    column = pc.if_else(pc.match_substring_regex(column, FORM), column, "0/0/")
    time = pc.strptime(column, format=TIME, unit="s", error_is_null=True)
    day = pc.list_element(pc.split_pattern(column, "/"), 1)
    return flags(pc.fill_null(pc.not_equal(pc.cast(day, pa.int64()), pc.day(time)), True))


def words_of(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The space-separated words of every row in one array, and the row of each."""
    words = pc.split_pattern(column, " ")
    owner, flat = pc.list_parent_indices(words).to_numpy(), pc.list_flatten(words)
    real = pc.not_equal(flat, "")
    return flat.filter(real), owner[flags(real)].astype(np.int64)


def lists(values: pa.Array, size: np.ndarray) -> pa.ListArray:
    """`values` cut into rows of the given sizes."""
    return pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(size)]), values)


def convert(source: Path, folder: Path, max_bad: float) -> dict:
    """Reads the MIND folder or zip `source` and writes news.parquet and <part>.parquet into `folder`. Returns the facts for its manifest.

    Raises NrmsError when files are missing, or when more than the share `max_bad` of the rows of one file is bad.
    """
    members = find_members(source)
    items, ledgers = read_all_news({part: files["news.tsv"] for part, files in members.items() if "news.tsv" in files}, max_bad)
    pq.write_table(items, folder / "news.parquet", compression="zstd")
    ids, parts = items["id"].combine_chunks(), {}
    behaviors = {part: files["behaviors.tsv"] for part, files in members.items() if "behaviors.tsv" in files}
    for part, member in behaviors.items():
        ledger = Ledger(member.name)
        ledgers.append(ledger)
        labelled = part != "test" or has_labels(member)
        with (
            pq.ParquetWriter(folder / f"{part}.parquet", IMPRESSIONS_SCHEMA, compression="zstd") as writer,
            progress(what=f"reading {part}", unit=" rows") as bar,
        ):
            for table in read_behaviors(member, labelled, ids, ledger):
                writer.write_table(table)
                bar.update(len(table))
        ledger.check(max_bad)
        parts[part] = {"impressions": ledger.rows_out, "labelled": labelled}
    return {"news": len(items) - 1, "parts": parts, "files": [ledger.summary() for ledger in ledgers]}
