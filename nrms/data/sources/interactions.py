"""How do a log of interactions and a table of items become tables?

    interactions.tsv|csv|inter   a header, then user, item and time, one interaction a line; names as RecBole has them are understood
                                 a column x_label (split, part) may say 0, 1, 2 or train, valid, test; a line whose label (click) is 0 is none
                                 ratings, reviews and clicks are names of such a file too
    train.inter valid.inter test.inter   instead: user, the items before, the item; the lines of valid and test that belong together are one user
    items.tsv|csv|item           a header, then item, title (or text) and whatever else; without it items are what the log names
                                 movies, books, products and meta are names of such a file too
    images/<item>.jpg|png|webp|gif   images, in folders as deep as they may be
    text.npy, image.npy          vectors, one row for each line of the table of items

A MIND folder or zip will do too: a user's log is then their history and what they clicked in the order of time, each news once.
Times are seconds, milli-, micro- or nanoseconds by their size, or dates; ties in the whole time keep the order of the file. Nothing is dropped in
silence: every oddity has a reason code and is counted, as for MIND.
"""

from collections.abc import Sequence
from itertools import compress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nrms import NrmsError
from nrms.data.sources import mind
from nrms.data.sources.rows import REASONS, Ledger, Member, flags, is_blank, read_rows, repeats, split_quoted
from nrms.data.sources.times import times
from nrms.data.tables import INTERACTIONS_SCHEMA, ITEMS_SCHEMA, NO_ITEM, PART, read_impressions

SUFFIXES = (".tsv", ".csv", ".inter", ".txt", ".item")
NAMES = {  # what a column is called
    "user": ("user", "user_id", "userid", "uid", "reviewerid"),
    "item": ("item", "item_id", "itemid", "iid", "asin", "movie_id", "movieid", "news_id"),
    "time": ("timestamp", "time", "unixreviewtime", "date"),
    "rating": ("rating", "label", "stars", "overall"),
    "label": ("label", "click", "clicked", "is_click"),
    "part": ("x_label", "split", "part"),
    "list": ("item_id_list", "item_list", "history"),
    "title": ("title", "name", "text", "movie_title"),
    "category": ("category", "categories", "genre", "genres", "class"),
    "subcategory": ("subcategory",),
    "url": ("url",),
}
LOGS = ("ratings", "reviews", "clicks")  # what the file of a log may be called elsewhere, and that of items
ITEM_TABLES = ("movies", "books", "products", "meta")
NOT_TAKEN = ("0", "0.0", "false", "no")  # what a column says of an item that was shown, and not taken
PARTS = {"0": 0, "1": 1, "2": 2, "0.0": 0, "1.0": 1, "2.0": 2, "train": 0, "valid": 1, "test": 2}


def find_table(source: Path, stem: str) -> Path | None:
    """The table called `stem` in a folder, whatever its suffix. Raises NrmsError where there are two."""
    paths = [source / f"{stem}{suffix}" for suffix in SUFFIXES if (source / f"{stem}{suffix}").is_file()]
    if len(paths) > 1:
        raise NrmsError(f"{source} has {paths[0].name} and {paths[1].name}: leave one.")
    return paths[0] if paths else None


def find_first(source: Path, stems: Sequence[str]) -> Path | None:
    """The table with the first of these names that a folder has."""
    return next(filter(None, (find_table(source, stem) for stem in stems)), None)


def find_items(source: Path) -> Path | None:
    """The table of items of a folder, as ours or RecBole's, or as MovieLens and others call it."""
    return find_table(source, "items") or min(source.glob("*.item"), default=None) or find_first(source, ITEM_TABLES)


def unread(source: Path, read: Sequence[Path | None]) -> list[str]:
    """Names of the files of a folder that are not among those `read`; vectors and pictures have their own counts."""
    names = {path.name for path in read if path} | {"text.npy", "image.npy"}
    return sorted(p.name for p in source.iterdir() if p.is_file() and not p.name.startswith(".") and p.name not in names)


def find_log(source: Path, name: str | None = None) -> list[Path]:
    """The log of a folder: one file of interactions, that called `name` or the one there is, or three of sequences."""
    if not source.is_dir():
        raise NrmsError(f"There is no folder {source}; `--from` takes a folder with interactions.tsv and items.tsv.")
    if (log := find_table(source, name or "interactions")) is not None:
        return [log]
    if name is not None:
        raise NrmsError(f"`log` is {name}, but {source} has no {name}.tsv, .csv or .inter.")
    parts = [find_table(source, part) for part in ("train", "valid", "test")]
    if all(parts):
        return parts
    others = sorted(source.glob("*.inter")) or list(filter(None, [find_first(source, LOGS)]))
    if len(others) != 1:
        raise NrmsError(f"{source} holds no log: expected interactions.tsv (or .csv, .inter), or train.inter, valid.inter and test.inter.")
    return others


def read_header(path: Path) -> tuple[list[str], str]:
    """Names of the columns of a table, without RecBole's types, and what separates them."""
    with path.open("rb") as file:
        line = file.readline(1 << 20).decode("utf-8-sig", "replace").rstrip("\r\n")
    separator = "\t" if "\t" in line else ","
    names = [name.split(":")[0].strip() for name in split_quoted(line, separator)]
    return names, separator


def column_of(names: Sequence[str], kind: str, path: Path, *, needed: bool = True) -> int | None:
    """The number of the column that is what `kind` says. Raises NrmsError where a needed one is missing."""
    lower = [name.lower() for name in names]
    number = next((lower.index(name) for name in NAMES[kind] if name in lower), None)
    if number is None and needed:
        header = ", ".join(names)[:400] or "nothing"
        raise NrmsError(f"{path} has no column for the {kind}: its first line names {header}; expected one of {', '.join(NAMES[kind])}.")
    return number


def read_table(path: Path, ledger: Ledger, names: Sequence[str], separator: str):
    """The sound rows of a table behind its header, block by block."""
    member = Member(path.name, lambda: path.open("rb"))
    yield from read_rows(member, ledger, len(names), separator=separator, skip=1)


def read_item_table(path: Path, max_bad: float) -> tuple[pa.Table, Ledger]:
    """The table of items, row 0 padding. `title`: the column of that name, else text or name; all other text, categories too, goes to `abstract`."""
    names, separator = read_header(path)
    ledger = Ledger(path.name)
    number = {kind: column_of(names, kind, path, needed=False) for kind in ("title", "category", "subcategory", "url")}
    number["id"] = column_of(names, "item", path)
    if number["subcategory"] is None:
        number["subcategory"] = number["category"]
    rest = [i for i, name in enumerate(names) if i != number["title"] and name.lower() not in (*NAMES["item"], *NAMES["url"])]  # no second id
    blocks, seen = [NO_ITEM], set()
    for rows in read_table(path, ledger, names, separator):
        rows.drop("id", is_blank(rows.columns[number["id"]]))
        rows.drop("duplicate", repeats(rows.columns[number["id"]], seen))
        empty = pa.array([""] * len(rows.numbers), pa.string())
        columns = {kind: empty if i is None else rows.columns[i] for kind, i in number.items()}
        rows.count("empty_title", is_blank(columns["title"]))
        columns["abstract"] = pc.utf8_trim_whitespace(pc.binary_join_element_wise(*(rows.columns[i] for i in rest), " ")) if rest else empty
        blocks.append(pa.table(columns, schema=ITEMS_SCHEMA))
    ledger.check(max_bad)
    return pa.concat_tables(blocks), ledger


def read_pairs(path: Path, ids: pa.Array | None, min_rating: float | None, max_bad: float) -> tuple[pd.DataFrame, list[Ledger]]:
    """(user, item, time, nano, part) of every sound interaction, in the order of the file; no part where no column says it.

    ids: known items; None: whatever the log names.
    """
    names, separator = read_header(path)
    ledger, blocks = Ledger(path.name), []
    user, item, time = (column_of(names, kind, path) for kind in ("user", "item", "time"))
    rating = column_of(names, "rating", path, needed=min_rating is not None)
    part, label = column_of(names, "part", path, needed=False), column_of(names, "label", path, needed=False)
    for rows in read_table(path, ledger, names, separator):
        rows.drop("id", is_blank(rows.columns[user]) | is_blank(rows.columns[item]))
        second, nano, bad = times(rows.columns[time])
        rows.columns += [pa.array(second), pa.array(nano)]
        rows.drop("time", bad)
        if label is not None and not (label == rating and min_rating is not None):  # there `min_rating` says what is taken
            rows.drop("not_taken", flags(pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(rows.columns[label])), value_set=pa.array(NOT_TAKEN))))
        if ids is not None:
            rows.drop("unknown_item", flags(pc.is_null(pc.index_in(rows.columns[item], value_set=ids))))
        if min_rating is not None:
            value = pd.to_numeric(pd.Series(rows.columns[rating].to_pylist()), errors="coerce").to_numpy(np.float64)
            rows.drop("rating", ~np.isfinite(value))
            rows.drop("low_rating", value[np.isfinite(value)] < min_rating)
        if part is not None:
            rows.drop("part", ~flags(pc.is_in(rows.columns[part], value_set=pa.array(list(PARTS)))))
        frame = {"user": rows.columns[user].to_pylist(), "item": rows.columns[item].to_pylist()}
        frame |= {"time": rows.columns[-2].to_numpy(), "nano": rows.columns[-1].to_numpy()}
        if part is not None:
            frame["part"] = [PARTS[word] for word in rows.columns[part].to_pylist()]
        blocks.append(pd.DataFrame(frame))
    log = pd.concat(blocks, ignore_index=True)
    repeated = log.duplicated(["user", "item", "time", "nano"]).to_numpy(bool)
    if repeated.any():
        ledger.counts["repeated"] += int(repeated.sum())
        for row in log[repeated][: 3 - len(ledger.examples)].itertuples(index=False):
            ledger.examples.append(f"{ledger.file}, {REASONS['repeated']}: {str(tuple(row[:3]))[:160]}")
        log = log[~repeated]
    ledger.rows_out = len(log)
    ledger.check(max_bad)
    return log, [ledger]


def read_sequences(paths: Sequence[Path], ids: pa.Array | None, max_bad: float) -> tuple[pd.DataFrame, list[Ledger]]:
    """(user, item, time) of users whose last two items stand in valid and test; time is the position in the user's order.

    The training file repeats what stands before, so it is only checked: no user may have more there than before their valid item.
    """
    parts, ledgers, known = [], [], None if ids is None else set(ids.to_pylist())
    for path in paths:
        names, separator = read_header(path)
        ledger, items_by_user, seen = Ledger(path.name), {}, set()
        user, past, item = (column_of(names, kind, path) for kind in ("user", "list", "item"))
        for rows in read_table(path, ledger, names, separator):
            rows.drop("id", is_blank(rows.columns[user]) | is_blank(rows.columns[item]))
            if path is not paths[0]:
                rows.drop("duplicate", repeats(rows.columns[user], seen))
            histories, targets = (rows.columns[i].to_pylist() for i in (past, item))
            sequences = [[*history.split(), target.strip()] for history, target in zip(histories, targets, strict=True)]
            unknown = np.array([known is not None and not known.issuperset(items) for items in sequences], bool)
            rows.drop("unknown_item", unknown)
            for name, items in zip(rows.columns[user].to_pylist(), compress(sequences, ~unknown), strict=True):
                if len(items) > len(items_by_user.get(name, ())):
                    items_by_user[name] = items
        ledger.check(max_bad)
        parts.append(items_by_user)
        ledgers.append(ledger)
    train, valid, test = parts
    for name in train | valid | test:
        first, before, last = (part.get(name, []) for part in parts)
        if not before or last[:-1] != before or first != before[: len(first)]:
            raise NrmsError(
                f"{paths[2].name}: the items before the last one of user {name[:80]!r} are not those of {paths[1].name}, or {paths[0].name} "
                "has others: these files do not leave out the last two items of each user, so give the log itself as interactions.tsv."
            )
    rows = [(name, item, position) for name, items in test.items() for position, item in enumerate(items)]
    return pd.DataFrame(rows, columns=["user", "item", "time"]), ledgers


def copy_vectors(source: Path, folder: Path, items: pa.Table, ledger: Ledger | None) -> dict[str, int]:
    """Copies text.npy and image.npy as (N + 1, W), row 0 zero; returns the widths. Raises NrmsError where rows are not those of the items."""
    widths = {}
    for path in filter(Path.is_file, (source / "text.npy", source / "image.npy")):
        if ledger is None or ledger.rows_in != len(items) - 1:
            fault = "there is none" if ledger is None else "some are set aside"
            raise NrmsError(f"{path} goes by the lines of the table of items, of which {fault}.")
        table = read_vectors(path, len(items) - 1)
        np.save(folder / path.name, table)
        widths[path.stem] = table.shape[1]
    return widths


def read_vectors(path: Path, items: int) -> np.ndarray:
    """A file of `items` rows, one for each item in its order, as (N + 1, W) float32, row 0 zero. Raises NrmsError for anything else."""
    try:
        vectors = np.lib.format.open_memmap(path, mode="r")  # never unpickles, nor opens a zip of arrays
    except Exception as error:  # of a torn header numpy raises whatever comes
        raise NrmsError(f"{path} is not an array of numbers ({' '.join(str(error).split())[:400]}).") from None
    if vectors.ndim != 2 or len(vectors) != items or not vectors.size or vectors.dtype.kind not in "fiu":
        raise NrmsError(f"{path} has shape {vectors.shape} of {vectors.dtype}; expected numbers, one row for each of {items:,} items.")
    with np.errstate(over="ignore"):  # what is too large for float32 is said below
        table = np.concatenate([np.zeros((1, vectors.shape[1]), np.float32), np.asarray(vectors, np.float32)])
    if not np.isfinite(table).all():
        raise NrmsError(f"{path} holds values that are no finite numbers, first in row {int((~np.isfinite(table)).any(1).argmax()) - 1}.")
    return table


def is_mind(source: Path) -> bool:
    """True for a folder or zip with a behaviors.tsv."""
    return source.exists() and any(member.name.endswith("behaviors.tsv") for member in mind.list_members(source))


def read_clicks(source: Path, folder: Path, max_bad: float) -> tuple[pd.DataFrame, pa.Table, list[dict]]:
    """(user, item, time) from a MIND folder or zip, its items, and what was odd in its files.

    The clicks of a history have no time of their own: they stand before the user's first impression in their order, a second each.
    """
    facts, frames = mind.convert(source, folder, max_bad), []
    for path in filter(Path.exists, (folder / "train.parquet", folder / "dev.parquet")):
        impressions = read_impressions(path)
        path.unlink()
        user, time = impressions.user, impressions.time
        order = np.lexsort((time, user))
        first = order[~pd.Series(user[order]).duplicated().to_numpy()]  # each user's first impression
        history = impressions.history.take(first)
        back = history.positions - history.lengths[history.rows]  # ..., -2, -1 in each history
        frames.append(pd.DataFrame({"user": user[first][history.rows], "item": history.values, "time": time[first][history.rows] + back}))
        row, items = impressions.candidates.rows[impressions.clicked], impressions.candidates.values[impressions.clicked]
        frames.append(pd.DataFrame({"user": user[row], "item": items, "time": time[row]}))
    items = pq.read_table(folder / "news.parquet", schema=ITEMS_SCHEMA)
    ids = items["id"].to_numpy(zero_copy_only=False)
    log = pd.concat(frames, ignore_index=True)
    log = log.sort_values("time", kind="stable").drop_duplicates(["user", "item"])
    return log.assign(item=ids[log["item"]]), items, facts["files"]


def convert(source: Path, folder: Path, max_bad: float, *, min_rating: float | None, min_length: int, name: str | None = None) -> dict:
    """Reads `source` and writes news.parquet (its items) and interactions.parquet into `folder`. Returns the facts for its manifest.

    Raises NrmsError when files or columns are missing, or when more than the share `max_bad` of the rows of one file is bad.
    """
    if name is None and is_mind(source):
        log, items, files = read_clicks(source, folder, max_bad)
        return {**write_log(log, items, folder, min_length), "has_time": True, "vectors": {}, "files": files}
    paths, table = find_log(source, name), find_items(source)
    items, item_ledger = (None, None) if table is None else read_item_table(table, max_bad)
    ids = None if items is None else items["id"].combine_chunks()[1:]
    log, ledgers = read_pairs(paths[0], ids, min_rating, max_bad) if len(paths) == 1 else read_sequences(paths, ids, max_bad)
    files = [ledger.summary() for ledger in (item_ledger, *ledgers) if ledger]
    if items is None:
        names = pd.unique(log["item"]).tolist()
        items = pa.table([["", *names], *[[""] * (len(names) + 1)] * 5], schema=ITEMS_SCHEMA)
    widths = copy_vectors(source, folder, items, item_ledger)
    facts = write_log(log, items, folder, min_length)
    facts |= {"has_time": len(paths) == 1 and log["time"].nunique() > 1, "vectors": widths, "files": files}
    return facts | {"unread": unread(source, [table, *paths])}


def write_log(log: pd.DataFrame, items: pa.Table, folder: Path, min_length: int) -> dict:
    """Writes the tables; users with fewer than `min_length` interactions are left out and counted. Raises NrmsError if none is left."""
    size = log.groupby("user")["item"].transform("size").to_numpy()
    short = size < min_length
    if short.all():
        raise NrmsError(f"No user has {min_length} interactions, which `min_length` asks for; the log has {len(log):,} sound ones in all.")
    left_out = {"users": int(log["user"][short].nunique()), "interactions": int(short.sum())}
    user, names = pd.factorize(log["user"][~short])
    log = log[~short]
    moments = [log[name] for name in ("nano", "time") if name in log]  # the part of a second decides, and is not kept
    log = log.iloc[np.lexsort((*moments, user))]  # which is stable: ties keep the order of the file
    number = pc.index_in(pa.array(log["item"].tolist(), pa.string()), value_set=items["id"].combine_chunks())
    schema, columns = INTERACTIONS_SCHEMA, [number.to_numpy().astype(np.int32), log["time"].to_numpy(np.int64)]
    if "part" in log:
        schema, columns = schema.append(PART), [*columns, log["part"].to_numpy(np.int8)]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(user))])
    lists = [pa.ListArray.from_arrays(offsets, values) for values in columns]
    pq.write_table(items, folder / "news.parquet", compression="zstd")
    pq.write_table(pa.table([[str(n) for n in names], *lists], schema=schema), folder / "interactions.parquet", compression="zstd")
    return {"news": len(items) - 1, "users": len(names), "interactions": len(log), "short": left_out}
