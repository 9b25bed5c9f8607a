"""Whatever stands in a file: a correct table, or one sentence. Slow readers, written here, say what is correct.

500 cases in the suite, always the same ones. `NRMS_FUZZ=40 pytest tests/test_fuzz.py` draws 40 times as many, and others each time.
"""

import contextlib
import csv
import io
import math
import os
import random
import re
import tempfile
import zipfile
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from nrms import NrmsError, config
from nrms.config import params_files
from nrms.config.parameters import Dataset
from nrms.data import images
from nrms.data.sources import interactions, mind
from nrms.data.sources.rows import CHOSEN, NOTED, REASONS, REPAIRED

MANY = int(os.environ.get("NRMS_FUZZ", 0))
MAX_BAD = Dataset.model_fields["max_bad"].default
chance = st.randoms(use_true_random=True)  # a generator with a drawn seed: one number says the whole case


def cases(count):
    """So many cases in the suite; none may take five seconds."""
    return settings(
        max_examples=count * max(MANY, 1),
        deadline=timedelta(seconds=5),
        derandomize=not MANY,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


def says(error, *names):
    """An error is a sentence that names the file, or what else is at fault."""
    text = str(error)
    assert type(error) is NrmsError and any(name in text for name in names), text
    assert re.match(r"[\w`/(].*[.?)'\"]$", text, re.DOTALL) and "Traceback" not in text and len(text) < 3000, text


# files of rows, spoilt --------------------------------------------------------------------------------------------------

ODD = [
    *(
        "",
        " ",
        "  ",
        "\t",
        "\r",
        "\n",
        "\r\n",
        "\0",
        "\ufeff",
        "\u2028",
        "\x85",
        "\x1c",
        "\xa0",
        "\u3000",
        "\u200b",
        "é",
        "e\u0301",
        "\U0001f600",
        "\u202e",
    ),
    *(",", '"', '""', '"a', '"a,b"', '"a"b', "'", "\\", "/", ":", "-0", "-1", "N1-", "-", "--1", "N1-2", "N1-01", "N1 -1", "0", "1", "2", "-5"),
    *("nan", "NaN", "inf", "-inf", "1e999", "-1e999", "1e13", "100000000000", "100000000001", "-200000000000", "9" * 400, "1_000", "\u0661", "0x10"),
    *("True", "None", "null", "now", "today", "NaT", "NA", "2020-02-30", "9999-12-31", "0001-01-01", "-2020-01-01", "2020-01-01T00:00:00.123456789Z"),
    *("11/31/2019 1:44:52 AM", "11/9/2019 1:44:60 AM", "11/9/2019 0:44:52 AM", "11/9/2019 13:44:52 PM", "11/9/19 1:44:52 AM", "11/9/20191:44:52AM"),
    *("2/29/2019 1:00:00 PM", "2/29/2020 12:00:00 AM", "11/9/2019 1:44:52", "1/1/0000 1:00:00 AM", "x" * 3000, '"' + "y" * 200_000 + '"'),
]
BYTES = [b"\xff", b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\0", b"\xef\xbb\xbf", b"\r", b"\n", b"\t", b'"', b",", b" "]


def spoil(rng, cells, separator):
    """The row of these cells with one thing wrong with it."""
    cells, i, way = list(cells), rng.randrange(len(cells)), rng.randrange(8)
    if way == 0:
        del cells[i]
    elif way == 1:
        cells.insert(i, rng.choice(cells))
    elif way == 2:
        rng.shuffle(cells)
    elif way == 3:
        cells[i] = rng.choice(ODD)
    elif way == 4:
        at = rng.randrange(len(cells[i]) + 1)
        cells[i] = cells[i][:at] + rng.choice(ODD) + cells[i][at:]
    row = separator.join(cells).encode()
    at = rng.randrange(len(row) + 1)
    return row[:at] if way == 5 else row[:at] + rng.choice(BYTES) + row[at:] if way == 6 else rng.randbytes(at) if way == 7 else row


def table(rng, *columns, header=None, separator="\t", odds=0.15):
    """A file of rows with a value from each column; some rows are spoilt, and line ends, beginning and end may be odd."""
    rows = [[rng.choice(c) for c in columns] for _ in range(rng.randrange(12))]
    lines = [spoil(rng, row, separator) if rng.random() < odds else separator.join(row).encode() for row in rows]
    if header:
        lines.insert(0, spoil(rng, header, separator) if rng.random() < odds / 3 else separator.join(header).encode())
    ends = rng.choice([[b"\n"]] * 6 + [[b"\r\n"], [b"\n", b"\r\n"], [b"\n", b"\n\n", b"\n\r\n"], [b"\r"], [b"\n", b"\r\r\n"]])
    data = b"".join(line + rng.choice(ends) for line in lines)
    data = rng.choice([b""] * 9 + [b"\xef\xbb\xbf"]) + data
    return rng.choice([data] * 8 + [data.rstrip(b"\r\n"), data[: rng.randrange(len(data) + 1)], rng.randbytes(rng.randrange(40))])


def spoil_bytes(rng, data):
    """A file of bytes cut off, or with some of them others."""
    data, at = bytearray(data), rng.randrange(len(data))
    way = rng.randrange(6)
    if way == 0:
        return bytes(data[:at])
    if way == 1:
        return rng.randbytes(at)
    if way == 2:
        return bytes(data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:])
    for _ in range(rng.choice([1, 1, 4, 40])):
        data[rng.randrange(len(data) if way == 3 else min(len(data), 80))] = rng.choice([0, 255, 32, 39, 40, 45, 57, rng.randrange(256)])
    return bytes(data)


# the slow readers -------------------------------------------------------------------------------------------------------


def with_line_ends(lines, width):
    """Lines between commas, put together where a quote is closed further down and a row of `width` cells comes out."""
    if not lines:
        return []
    closing = [j for j, line in enumerate(lines) if line.count(b'"') % 2 == 1]
    if closing[:1] == [0] and len(closing) > 1:
        row = b"\n".join(lines[: closing[1] + 1])
        with contextlib.suppress(csv.Error):
            if len(next(csv.reader([row.decode("utf-8", "replace").removesuffix("\r")], strict=True))) == width:
                return [row, *with_line_ends(lines[closing[1] + 1 :], width)]
    return [lines[0], *with_line_ends(lines[1:], width)]


def rows_of(data, width, separator="\t", skip=0):
    """Every row as its cells, or None where it has not `width` cells of sound text."""
    *lines, last = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    lines = [*lines, *([last] if last else [])]
    for line in (lines if separator == "\t" else with_line_ends(lines, width))[skip:]:
        line = line.removesuffix(b"\r")
        if not line:
            continue
        try:
            text = line.decode()
            quoted = separator == "," and '"' in text
            cells = next(csv.reader([text], strict=True)) if quoted else text.split(separator)
        except (UnicodeDecodeError, csv.Error):
            cells = []
        yield cells if len(cells) == width and b"\0" not in line else None


def news_of(data, known):
    """(rows, rows kept) of a news.tsv; adds what is new to `known`."""
    seen, rows = set(), list(rows_of(data, 8))
    for cells in rows:
        if cells and cells[0].strip() and cells[0] not in seen:
            seen.add(cells[0])
            known.setdefault(cells[0], cells[:6])
    return len(rows), len(seen)


def time_of(text):
    if not re.fullmatch(r"\d{1,2}/\d{1,2}/[12]\d{3} \d{1,2}:\d\d:\d\d [AP]M", text, re.ASCII):
        return None
    with contextlib.suppress(ValueError):
        return datetime.strptime(text, "%m/%d/%Y %I:%M:%S %p")


def impressions_of(data, known, labelled):
    """(rows, the rows kept, how many of them lost clicks that are not known) of a behaviors.tsv."""
    seen, kept, mended, rows = set(), [], 0, list(rows_of(data, 5))
    for cells in rows:
        if not cells or not cells[0].strip() or cells[0] in seen:
            continue
        seen.add(cells[0])
        name, user, time, history, shown = cells
        words = [w for w in shown.split(" ") if w]
        if labelled and not all(w.endswith(("-0", "-1")) for w in words):
            continue
        ids = [w[:-2] if labelled else w for w in words]
        if time_of(time) is None or not shown.strip() or not all(i in known for i in ids):
            continue
        past = [w for w in history.split(" ") if w]
        clicks = [w[-1] == "1" for w in words] if labelled else None
        kept.append([name, user, time_of(time), [w for w in past if w in known], ids, clicks])
        mended += not all(w in known for w in past)
    return len(rows), kept, mended


def balanced(entry, rows, kept):
    """So many rows in, so many out, and what is between them has reasons."""
    assert (entry["rows_in"], entry["rows_out"]) == (rows, kept) and rows == kept + sum(entry["set_aside"].values()), entry
    assert entry["set_aside"].keys() <= REASONS.keys() - NOTED - REPAIRED
    assert bool(entry["examples"]) == bool((entry["set_aside"].keys() | entry["repaired"].keys()) - CHOSEN)


def check_mind(files, most):
    """The tables of a MIND folder are those of the slow readers; or, where too many rows are bad, there is a sentence."""
    known, expected, worst = {}, {}, []
    for part in files:
        rows, kept = news_of(files[part]["news.tsv"], known)
        worst.append(rows - kept > most * rows)
        expected[f"{part}/news.tsv"] = (rows, kept)
    for part in files:
        data = files[part]["behaviors.tsv"]
        labelled = part != "test" or any(re.search(rb"-[01](\s|$)", line.split(b"\t")[-1]) for line in data.split(b"\n"))
        rows, kept, mended = impressions_of(data, known, labelled)
        worst.append(rows - len(kept) + mended > most * rows)
        expected[f"{part}/behaviors.tsv"] = (rows, kept)
    with tempfile.TemporaryDirectory() as name:
        source, folder = Path(name) / "in", Path(name)
        for part in files:
            (source / part).mkdir(parents=True)
            for base, data in files[part].items():
                (source / part / base).write_bytes(data)
        if any(worst):
            with pytest.raises(NrmsError) as error:
                mind.convert(source, folder, most)
            return says(error.value, "news.tsv", "behaviors.tsv")
        facts = mind.convert(source, folder, most)
        news = [list(row.values()) for row in pq.read_table(folder / "news.parquet").to_pylist()]
        assert news == [[""] * 6, *known.values()]
        for entry in facts["files"]:
            rows, kept = expected[entry["file"]]
            if entry["file"].endswith("news.tsv"):
                balanced(entry, rows, kept)
                continue
            balanced(entry, rows, len(kept))
            found = [list(row.values()) for row in pq.read_table(folder / f"{entry['file'].split('/')[0]}.parquet").to_pylist()]
            assert [[*row[:3], *([news[i][0] for i in row[k]] for k in (3, 4)), row[5]] for row in found] == kept


IDS = [f"N{i}" for i in range(1, 7)]
NEWS = (IDS, ["sports", "news"], ["tennis", ""], ["A serve", '"Quoted" title', "", "null"], ["Text", ""], ["http://x"], ["[]"], ["[]"])
TIMES = ["11/9/2019 1:44:52 AM", "11/10/2019 12:00:00 PM", "2/29/2020 12:59:59 AM"]
HISTORIES = ["", "N1", "N1 N2 N3", "N2 N2", "N1 N77", " N1  N2 "]
SHOWN = ["N1-1 N2-0", "N3-0", "N1-1", "N4-0 N5-0 N1-1 N6-1", "N2-1  N1-0 "]
SOUND_NEWS = "\n".join("\t".join([name, *(c[0] for c in NEWS[1:])]) for name in IDS).encode()
SOUND_SHOWN = f"1\tU1\t{TIMES[0]}\tN1 N2\tN3-1 N1-0\n".encode()
NUMBERS = [str(i) for i in range(1, 40)]


@cases(70)
@given(chance)
def test_any_news_end_in_a_correct_table_or_a_sentence(rng):
    """news.tsv of two parts, spoilt: ids, titles and texts of the kept rows are those of the file, and the first of an id is kept."""
    most = rng.choice([1.0, MAX_BAD])
    check_mind({part: {"news.tsv": table(rng, *NEWS), "behaviors.tsv": b""} for part in ("train", "dev")}, most)


@cases(80)
@given(chance)
def test_any_impressions_end_in_a_correct_table_or_a_sentence(rng):
    """behaviors.tsv of three parts, spoilt: who, when, history, candidates and clicks of the kept rows are those of the file."""
    shown = {"train": rng.choice([SHOWN, [*SHOWN, "-1 N1-0"]]), "dev": SHOWN, "test": rng.choice([SHOWN, ["N1 N2", "N3"]])}
    users = ["U1", "U2", "U-1"]
    files = {p: {"news.tsv": SOUND_NEWS, "behaviors.tsv": table(rng, NUMBERS, users, TIMES, HISTORIES, words)} for p, words in shown.items()}
    check_mind(files, rng.choice([1.0, 1.0, MAX_BAD]))


@cases(20)
@given(chance)
@example(random.Random(7180))  # a name in a header that is no UTF-8
def test_any_zip_ends_in_a_correct_table_or_a_sentence(rng):
    """A zip of MIND, spoilt: whole files inside are read as they are, damaged ones are refused."""
    sound = {f"{part}/{name}": data for part in ("train", "dev") for name, data in (("news.tsv", SOUND_NEWS), ("behaviors.tsv", SOUND_SHOWN))}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])) as file:
        for name, data in sound.items():
            file.writestr(name, data)
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "MIND.zip").write_bytes(spoil_bytes(rng, buffer.getvalue()))
        try:
            facts = mind.convert(Path(name) / "MIND.zip", Path(name), MAX_BAD)
        except NrmsError as error:
            return says(error, "MIND.zip")
        assert facts["parts"].keys() <= {"train", "dev"} and all(p["impressions"] == 1 for p in facts["parts"].values())
        assert pq.read_table(Path(name) / "news.parquet")["id"].to_pylist() == ["", *IDS]


# logs -------------------------------------------------------------------------------------------------------------------

NUMBER = re.compile(r"[ \t\v\f\r]*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[ \t\v\f\r]*", re.ASCII)
DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(?:Z|([+-]\d\d):(\d\d))?)?", re.ASCII)


def number_of(text):
    """A finite number, or None."""
    return value if NUMBER.fullmatch(text) and abs(value := float(text)) < float("inf") else None


def seconds_of(text):
    """Seconds since 1970 as a fraction, or None. Of dates that are written in a way that is not DATE's it is not said here what they are."""
    if (value := number_of(text)) is not None:
        unit = next((unit for limit, unit in ((10**11, 1), (10**14, 10**3), (10**17, 10**6), (10**20, 10**9)) if abs(value) <= limit), None)
        if unit is None:
            return None
        return Fraction(int(text), unit) if re.fullmatch(r"\s*[+-]?\d+\s*", text) else Fraction(round(value / unit * 10**6), 10**6)
    if not (found := DATE.fullmatch(text)):
        raise NotImplementedError if re.match(r"\s*\d{4}\D", text, re.ASCII) else LookupError
    *parts, fraction, hours, minutes = found.groups()
    hours, minutes, parts = int(hours or 0), int(minutes or 0), [int(x or 0) for x in parts]
    try:
        zone = timezone(timedelta(hours=hours, minutes=-minutes if (found[8] or "").startswith("-") else minutes))
        whole = (datetime(*parts, tzinfo=zone) - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds()
        return int(whole) + Fraction(int((fraction or "0")[:9].ljust(9, "0")), 10**9)
    except ValueError:
        return None


def header_of(data):
    """Names of the columns and what separates them, or None where the first line is no header."""
    line = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")[0].removesuffix(b"\r").decode("utf-8", "replace")
    separator = "\t" if "\t" in line else ","
    try:
        names = next(csv.reader([line], delimiter=separator, strict=True), [])
    except csv.Error:
        names = []
    return [name.split(":")[0].strip().lower() for name in names], separator


def place(names, kind):
    return next((names.index(name) for name in interactions.NAMES[kind] if name in names), None)


def catalogue_of(data):
    """(rows, {id: row of the table}) of a table of items; None where it has no column of ids."""
    names, separator = header_of(data)
    at = {kind: place(names, kind) for kind in ("item", "title", "category", "subcategory", "url")}
    if at["item"] is None:
        return None
    items, rows = {}, list(rows_of(data, len(names), separator, 1))
    for cells in rows:
        if cells and cells[at["item"]].strip() and cells[at["item"]] not in items:
            rest = [c for i, c in enumerate(cells) if i != at["title"] and names[i] not in (*interactions.NAMES["item"], "url")]
            name, title, category, subcategory, url = ("" if i is None else cells[i] for i in at.values())
            items[name] = [name, category, category if at["subcategory"] is None else subcategory, title, " ".join(rest).strip(), url]
    return len(rows), items


def log_of(data, items, least):
    """(rows, rows below `least`, [(user, item, time, part)]) of a log; None where a column is missing."""
    names, separator = header_of(data)
    user, item, time, rating, part, label = (place(names, kind) for kind in ("user", "item", "time", "rating", "part", "label"))
    if None in (user, item, time) or (least is not None and rating is None):
        return None
    kept, low, rows = {}, 0, list(rows_of(data, len(names), separator, 1))
    for cells in rows:
        if not cells or not cells[user].strip() or not cells[item].strip():
            continue
        try:
            when = seconds_of(cells[time])
        except LookupError:
            continue
        if when is None or (items is not None and cells[item] not in items):
            continue
        if least is not None and (stars := number_of(cells[rating])) is None:
            continue
        says = None if label is None or (label == rating and least is not None) else cells[label].strip().lower()
        if (least is not None and stars < least) or says in interactions.NOT_TAKEN:
            low += 1
        elif part is None or cells[part] in interactions.PARTS:
            kept.setdefault((cells[user], cells[item], when), None if part is None else interactions.PARTS[cells[part]])
    return len(rows), low, [(*key, label) for key, label in kept.items()]


def by_user(log):
    """{user: [(item, whole seconds, part)]}, oldest first."""
    found = {}
    for user, *rest in log:
        found.setdefault(user, []).append(tuple(rest))
    in_order = {user: sorted(rows, key=lambda row: row[1]) for user, rows in found.items()}
    return {user: [(item, math.floor(time), part) for item, time, part in rows] for user, rows in in_order.items()}


def written(folder):
    """What `interactions.convert` wrote, in the form of `by_user`, and the items."""
    items = [list(row.values()) for row in pq.read_table(folder / "news.parquet").to_pylist()]
    found = {}
    for row in pq.read_table(folder / "interactions.parquet").to_pylist():
        parts = row.get("part") or [None] * len(row["time"])
        found[row["user"]] = list(zip((items[i][0] for i in row["items"]), row["time"], parts, strict=True))
    return found, items


def convert_log(files, most, least=None, length=1):
    """(facts, log, items) of a folder of these files, or the error."""
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "in"
        source.mkdir()
        for base, data in files.items():
            (source / base).write_bytes(data)
        try:
            facts = interactions.convert(source, Path(name), most, min_rating=least, min_length=length)
        except NrmsError as error:
            return error
        vectors = {k: np.load(Path(name) / f"{k}.npy") for k in facts["vectors"]}
        return facts, *written(Path(name)), vectors


def check_log(files, most, least=None, length=1):
    """The tables of a log are those of the slow readers, or there is a sentence."""
    (base, log), table = next(iter(files.items())), files.get("items.tsv")
    catalogue = None if table is None else catalogue_of(table)
    try:
        expected = log_of(log, None if catalogue is None else catalogue[1], least)
    except NotImplementedError:
        expected = "unsaid"
    found = convert_log(files, most, least, length)
    if isinstance(found, NrmsError):
        says(found, base, "items.tsv", "min_length")
        if expected == "unsaid" or expected is None or (table is not None and catalogue is None):
            return
        rows, low, kept = expected
        bad = rows - low - len(kept) > most * rows or (catalogue is not None and catalogue[0] - len(catalogue[1]) > most * catalogue[0])
        assert bad or all(len(rows) < length for rows in by_user(kept).values()), found
        return
    facts, users, items, _ = found
    if expected == "unsaid":
        return
    assert expected is not None and (table is None or catalogue is not None)
    rows, low, kept = expected
    balanced(facts["files"][-1], rows, len(kept))
    wanted = {user: rows for user, rows in by_user(kept).items() if len(rows) >= length}
    assert users == wanted and list(users) == list(wanted)
    assert (
        facts["short"]["interactions"] == len(kept) - sum(map(len, wanted.values()))
        and sum(facts["files"][-1]["set_aside"].get(reason, 0) for reason in ("low_rating", "not_taken")) == low
    )
    if catalogue is not None:
        balanced(facts["files"][0], catalogue[0], len(catalogue[1]))
        assert items == [[""] * 6, *catalogue[1].values()]


STAMPS = [
    "1",
    "5",
    "5.5",
    "1e3",
    "1577836800",
    "1577836800000",
    "2020-01-01",
    "2020-01-01 10:00:00",
    "2020-01-01T10:00:00+01:00",
    "2020-06-01T10:00Z",
]
TITLES = ["A film", "", '"B", a film', "C, or: film"]
ITEMS = "item\ttitle\tgenres\n" + "".join(f"{i}\tfilm {i}\tDrama\n" for i in "abcdef")


def log_table(rng):
    """(name, bytes) of a log with its columns in some order."""
    separator, suffix = rng.choice([("\t", "tsv"), (",", "csv"), ("\t", "inter"), (",", "txt")])
    columns = {
        rng.choice(["user", "user_id:token", "UserId"]): ["u", "v", "w"],
        rng.choice(["item", "item_id:token", "asin"]): list("abcdef"),
        rng.choice(["timestamp", "time:float", "date"]): STAMPS,
        "rating": ["3", "4.5", "5"],
        "note": ["", "x"],
    } | rng.choice([{}, {"x_label": ["0", "1", "2", "train", "test"]}])
    names = rng.sample(sorted(columns), len(columns))
    return f"interactions.{suffix}", table(rng, *(columns[n] for n in names), header=names, separator=separator)


@cases(100)
@given(chance)
def test_any_log_ends_in_a_correct_table_or_a_sentence(rng):
    """A log in every form, spoilt: users, their items in order, times and parts are those of the file."""
    name, data = log_table(rng)
    files = {name: data} | rng.choice([{}, {"items.tsv": ITEMS.encode()}])
    check_log(files, rng.choice([1.0, 1.0, MAX_BAD]), rng.choice([None, 4.0]), rng.choice([1, 1, 3]))


@cases(50)
@given(chance)
def test_any_table_of_items_ends_in_a_correct_table_or_a_sentence(rng):
    """items.tsv, spoilt, beside a sound log: ids, titles, categories and texts are those of the file."""
    separator = rng.choice("\t,")
    titles = [f'"{t.replace(chr(34), chr(34) * 2)}"' if separator == "," else t for t in TITLES]
    columns = {"item": list("abcdefgh"), "title": titles, "genres": ["Drama", ""], "year": ["1990"], "asin": ["X"], "url": ["http://x"]}
    names = rng.sample(sorted(columns), len(columns))
    log = b"user\titem\ttimestamp\n" + b"".join(b"u\t%c\t%d\n" % (c, t) for t, c in enumerate(b"abcdefgh"))
    check_log({"interactions.tsv": log, "items.tsv": table(rng, *(columns[n] for n in names), header=names, separator=separator)}, 1.0)


@cases(40)
@given(chance)
def test_any_vectors_end_in_a_correct_table_or_a_sentence(rng):
    """text.npy and image.npy, spoilt: the rows are those of the file behind one of zeros, or the file is refused."""
    shape = rng.choice([(6, 2)] * 5 + [(6, 0), (5, 2), (6,), (2, 6, 1), (6, 1)])
    array = np.arange(np.prod(shape)).reshape(shape).astype(rng.choice(["f4", ">f8", "i8", "u1", "f2", "f4", "S3", "c8", "?"]))
    if array.size and array.dtype.kind == "f" and rng.random() < 0.3:
        array.flat[0] = rng.choice([np.nan, np.inf, -np.inf])
    buffer = io.BytesIO()
    rng.choice([np.save, np.save, np.save, np.savez])(buffer, array)
    data = rng.choice([buffer.getvalue(), spoil_bytes(rng, buffer.getvalue())])
    name = rng.choice(["text", "image"])
    try:
        given = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        sound = given.ndim == 2 and given.shape[0] == 6 and given.shape[1] > 0 and given.dtype.kind in "fiu"
        with np.errstate(all="ignore"):
            sound = sound and np.isfinite(given.astype(np.float32)).all()
    except Exception:  # whatever numpy raises
        sound = False
    log = b"user\titem\ttimestamp\nu\ta\t1\n"
    found = convert_log({"interactions.tsv": log, "items.tsv": ITEMS.encode(), f"{name}.npy": data}, MAX_BAD)
    if isinstance(found, NrmsError):
        says(found, f"{name}.npy")
        assert not sound, found
    else:
        assert sound and np.array_equal(found[-1][name], np.r_[np.zeros((1, given.shape[1])), given.astype(np.float32)])


def sequences_of(data, items, once):
    """[(user, items)] of a file of sequences, its rows; None where a column is missing."""
    names, separator = header_of(data)
    user, past, item = (place(names, kind) for kind in ("user", "list", "item"))
    if None in (user, past, item):
        return None
    rows, kept, seen = list(rows_of(data, len(names), separator, 1)), [], set()
    for cells in rows:
        if cells and cells[user].strip() and cells[item].strip() and not (once and cells[user] in seen):
            seen.add(cells[user])
            taken = [*cells[past].split(), cells[item].strip()]
            if items is None or all(i in items for i in taken):
                kept.append((cells[user], taken))
    return len(rows), kept


@cases(40)
@given(chance)
def test_any_sequences_end_in_a_correct_table_or_a_sentence(rng):
    """train, valid and test.inter, spoilt: every user's items are those of the test file, and nobody is lost between the files."""
    users = {name: rng.choices("abcdef", k=rng.randrange(3, 6)) for name in ("u", "v", "w", "x y")[: rng.randrange(1, 5)]}
    files, head = {}, ["user_id:token", "item_id_list:token_seq", "item_id:token"]
    for part, back in (("train", 2), ("valid", 1), ("test", 0)):
        rows = [[name, " ".join(taken[: len(taken) - back - 1]), taken[-back - 1]] for name, taken in users.items()]
        lines = [head, *(row for row in rows for _ in range(rng.choice([1] * 20 + [0, 2])))]
        files[f"{part}.inter"] = b"".join((spoil(rng, r, "\t") if rng.random() < 0.02 else "\t".join(r).encode()) + b"\n" for r in lines)
    items = rng.choice([None, "abcdef"])
    found = convert_log(files | ({} if items is None else {"items.tsv": ITEMS.encode()}), rng.choice([1.0, 1.0, MAX_BAD]))
    if isinstance(found, NrmsError):
        return says(found, ".inter", "min_length")
    facts, log, _, _ = found
    train, valid, test = (sequences_of(data, items, part != "train.inter") for part, data in files.items())
    for entry, (rows, kept) in zip(facts["files"][-3:], (train, valid, test), strict=True):
        balanced(entry, rows, len(kept))
    first = dict(test[1])
    assert {user: [item for item, _, _ in rows] for user, rows in log.items()} == first
    assert {user for user, _ in train[1]} <= first.keys() == {user for user, _ in valid[1]}
    assert dict(valid[1]) == {user: taken[:-1] for user, taken in first.items()}


# params -----------------------------------------------------------------------------------------------------------------

WORDS = [
    *("", "null", "~", "true", "yes", "1", "0", "-1", "1e-4", "1.0e-4", ".nan", ".inf", "-.inf", "9" * 400, "9" * 5000, "0x1F", "1_0", "1:30", "0o7"),
    *(
        "[]",
        "{}",
        "[1, 2",
        "{a: 1",
        "'x",
        '"x',
        '"\\q"',
        "&a [*a]",
        "*b",
        "&a 1",
        "!!python/object:os.system x",
        "!!int abc",
        '!!int ""',
        "!!bool maybe",
    ),
    *(
        "!!timestamp x",
        "2001-99-99",
        "2001-01-01",
        "!!binary x",
        "!!set {a}",
        "!!omap [a]",
        "!!map [a]",
        "!!str [a]",
        "!!float x",
        "!t x",
        "%x",
        "@x",
    ),
    *(
        "[" * 1000,
        "{a: " * 500,
        "- - -",
        "a: b",
        "a: b: c",
        "# c",
        "|",
        ">\n  x",
        "é",
        "\u2028x",
        "\ufeff",
        "x" * 3000,
        "<<: {lr: 1}",
        "? [a]",
        "[bert]",
    ),
    "&l0 [x, x]\nl1: &l1 [" + ", ".join(["*l0"] * 9) + "]" + "".join(f"\nl{i}: &l{i} [" + ", ".join([f"*l{i - 1}"] * 9) + "]" for i in range(2, 9)),
]
PARAMS = {folder: [p.read_text() for p in sorted((config.PARAMS / folder).glob("*.yaml"))] for folder in ("", "data")}


def spoil_params(rng, text):
    """A params file with some of its lines others."""
    lines = text.splitlines()
    for _ in range(rng.choice([0, 1, 1, 2])):
        i, way = rng.randrange(len(lines)), rng.randrange(8)
        if way == 0:
            del lines[i]
            lines = lines or [""]
        elif way == 1:
            lines.insert(i, rng.choice(lines))
        elif way == 2:
            lines[i] = lines[i].split(":")[0] + ": " + rng.choice(WORDS)
        elif way == 3:
            lines.append(rng.choice(["lr", "epochs", "text", "terms", "world", "training", "max_bad", "min_rating"]) + ": " + rng.choice(WORDS))
        elif way == 4:
            lines[i] = rng.choice([" ", "\t", "- ", "? ", "1: ", "null: "]) + lines[i]
        elif way == 5:
            at = rng.randrange(len(lines[i]) + 1)
            lines[i] = lines[i][:at] + rng.choice(ODD + WORDS) + lines[i][at:]
        elif way == 6:
            lines.append(rng.choice(["clip: ", "weight_decay: ", "min_rating: "]) + rng.choice([".inf", ".nan", "1.0"]))
    data = "\n".join(lines).encode() + b"\n"
    return rng.choice([data] * 6 + [spoil_bytes(rng, data)])


@cases(60)
@given(chance)
def test_any_params_end_in_a_config_or_a_sentence(rng):
    """Files of an experiment and of a data set, spoilt: what they say is what the config has, every name once, and every number is one."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(params_files, "ROOT", Path(name))
        patch.setattr(params_files, "PARAMS", Path(name) / "params")
        (params_files.PARAMS / "data").mkdir(parents=True)
        files = [spoil_params(rng, rng.choice(PARAMS[folder])) for folder in ("", "data")]
        (params_files.PARAMS / "some.yaml").write_bytes(files[0])
        (params_files.PARAMS / "data" / "other.yaml").write_bytes(files[1])
        results = []
        for read in (lambda: config.load_dataset("other"), lambda: config.resolve("some", "other")):
            try:
                results.append(read())
            except NrmsError as error:
                results.append(None)
                says(error, "some", "other", "the given parameters", *config.Experiment.model_fields)  # the file, or values that do not go together
    data, whole = results
    for found, text in ((data, files[1]), (whole, files[0])):
        if found is not None:
            said = yaml.safe_load(text.decode())
            names = [key.value for key, _ in yaml.compose(text.decode(), Loader=yaml.SafeLoader).value if isinstance(key, yaml.ScalarNode)]
            assert len(names) == len(set(names)) and all(found.model_dump()[k] == v for k, v in said.items() if k not in ("world", "download"))
            assert np.isfinite([v for v in found.model_dump().values() if isinstance(v, float)]).all()
    assert whole is None or whole.data == data


# pictures ---------------------------------------------------------------------------------------------------------------

SVG = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
GREY = {"1": 255, "L": 120, "I;16": 120 * 257, "P": 120, "LA": (120, 255)}
MODES = {  # what each format can hold
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("P", "L"),
    "BMP": ("1", "L", "P", "RGB"),
    "TIFF": ("L", "RGB", "CMYK", "I;16"),
}


def picture(rng):
    """(bytes, format, the colour it has all over when laid on white) of a sound picture."""
    form = rng.choice(["JPEG", "PNG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
    mode, size, options = rng.choice(MODES[form]), (rng.choice([1, 2, 7, 40]), rng.choice([1, 3, 40])), {}
    colour, shade = (120, 120, 120), GREY.get(mode)
    if mode in ("RGB", "RGBA"):
        shade = colour = (200, 40, 90)
        if mode == "RGBA":
            alpha = rng.choice([0, 255])
            shade, colour = (*shade, alpha), colour if alpha else (255, 255, 255)
    elif mode == "CMYK":
        shade, colour = (0, 0, 0, 135), (120, 120, 120)
    elif mode == "1":
        colour = (255, 255, 255)
    image = Image.new(mode, size, shade)
    if mode == "P":
        image.putpalette([c for i in range(256) for c in (i, i, i)])
    if form == "PNG" and mode in ("P", "L", "RGB") and rng.random() < 0.4:
        options["transparency"] = shade
        colour = (255, 255, 255)
    elif form in ("PNG", "WEBP") and rng.random() < 0.3:
        options |= {"save_all": True, "append_images": [Image.new(mode, size, shade)] * 2}
    if form in ("JPEG", "PNG", "WEBP") and rng.random() < 0.5:
        exif = Image.Exif()
        exif[274] = rng.choice([1, 3, 6, 8, 9, 700])
        options["exif"] = exif
    if form == "WEBP":
        options["lossless"] = True
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue(), form, colour


def opens(data):
    """True for bytes that Pillow reads whole as one of the formats that are wanted, and that are not too large."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return image.format in ("JPEG", "PNG", "WEBP", "MPO", "GIF") and image.width * image.height <= images.MAX_PIXELS
    except Exception:  # whatever Pillow raises
        return False


@cases(40)
@given(chance)
@pytest.mark.filterwarnings("ignore")
def test_any_bytes_are_a_picture_or_have_a_reason(rng):
    """Pictures of all kinds, spoilt and mislabelled: a sound one keeps its colour, one that cannot be read has a reason, and none is lost."""
    data, form, colour = picture(rng)
    whole = rng.random() < 0.4
    data = data if whole else rng.choice([spoil_bytes(rng, data)] * 9 + [SVG, b"", data + rng.randbytes(9)])
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"N1{rng.choice(images.SUFFIXES)}"
        path.write_bytes(data)
        found = images.decode(path, 16)
    if isinstance(found, str):
        assert found in images.REASONS and not opens(data), found
        assert not whole or (found == "format" and form not in images.FORMATS)
    else:
        assert found.shape == (16, 16, 3) and found.dtype == np.uint8 and opens(data)
        assert not whole or abs(found.astype(int) - colour).max() <= 3
