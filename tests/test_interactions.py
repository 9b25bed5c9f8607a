"""Logs of interactions: what is read, what is set aside and why, and what is refused."""

import re

import numpy as np
import pytest

from nrms import NrmsError
from nrms.__main__ import show_data_report
from nrms.config import load_dataset, resolve
from nrms.data.prepare import load, prepare
from nrms.models.build import build

ITEMS = ["item\ttitle\tgenres\tyear", "a\tA film\tDrama\t1990", "b\tB film\tComedy\t1991", "c\tC film\tDrama\t1992", "d\tD film\tNoir\t1993"]
LOG = ["user\titem\trating\ttimestamp", *(f"{u}\t{i}\t{r}\t{t}" for u, i, r, t in (("u", "a", 3, 30), ("u", "b", 4, 10), ("u", "c", 5, 20)))]


def write(folder, log=LOG, items=ITEMS, name="interactions.tsv"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(log) + "\n")
    if items:
        (folder / "items.tsv").write_text("\n".join(items) + "\n")
    return folder


def read(folder, **given):
    """The log as {user: ids}, the tables and the manifest."""
    data = load_dataset("movies", max_bad=1.0, **given)
    manifest = prepare("movies", data, folder)
    tables = load("movies", data)
    names = {user: tables.items.id[tables.log.items[r]].tolist() for r, user in enumerate(tables.log.user)}
    return names, tables, manifest


def found(manifest, file="interactions.tsv"):
    """{reason: count} of a file, and that nothing is lost."""
    entry = next(f for f in manifest["files"] if f["file"] == file)
    assert entry["rows_in"] == entry["rows_out"] + sum(entry["set_aside"].values())
    return entry["set_aside"] | entry["noted"]


def test_order_is_that_of_time_then_of_the_file(home, tmp_path):
    """Items of a user come oldest first; where times are equal, as the file has them; columns of items find their places."""
    names, tables, _ = read(write(tmp_path / "in", [*LOG, "v\td\t1\t5", "v\ta\t1\t5", "v\tb\t1\t4"]))
    assert names == {"u": ["b", "c", "a"], "v": ["b", "d", "a"]}
    assert (
        tables.items.title[1] == "A film"
        and tables.items.category[4] == "Noir"
        and tables.items.abstract[2] == "Comedy 1991"
        and tables.pixels is None
    )


def test_every_odd_row_has_a_reason(home, tmp_path):
    """One row for each reason: it is set aside and counted, the others are kept."""
    odd = ["u\ta", "\ta\t3\t1", "u\t \t3\t1", "u\tb\t3\tsoon", "u\tz\t3\t1", "u\ta\t3\t30", "u\ta\0\t3\t31", "u\ta\thigh\t32"]
    names, _, manifest = read(write(tmp_path / "in", [*LOG, *odd]), min_rating=1.0)
    assert names == {"u": ["b", "c", "a"]}
    assert found(manifest) == {"columns": 1, "id": 2, "time": 1, "unknown_item": 1, "repeated": 1, "nul": 1, "rating": 1}


@pytest.mark.parametrize("time, seconds", [("9999-12-31", 253402214400), ("-200000000000", -200000000), ("0001-01-01", -62135596800), ("5.9", 5)])
def test_times_far_away_are_what_they_say(time, seconds, home, tmp_path):
    """A date is never taken for milliseconds, a large negative number is, and nanoseconds in one row change no other."""
    log = ["user\titem\ttime", f"u\ta\t{time}", "u\tb\t2020-01-01T00:00:00.123456789Z"]
    tables = read(write(tmp_path / "in", log), min_length=1)[1]
    assert sorted(tables.log.time.tolist()) == sorted([seconds, 1577836800])


FORMS = {
    "milliseconds": ("1601798071100", "1601798070901", "1601798071099"),
    "microseconds": ("1600000000000300", "1600000000000100", "1600000000000200"),
    "nanoseconds": ("1600000000000000003", "1600000000000000001", "1600000000000000002"),
    "decimals": ("1600000000.3", "1600000000.1", "1600000000.25"),
    "dates": ("2020-09-13T12:26:40.3", "2020-09-13T12:26:40.1Z", "2020-09-13 12:26:40.25"),
    "units that are mixed": ("1600000000900000", "1600000000100", "1600000000.5"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_part_of_a_second_decides(form, home, tmp_path):
    """The order is that of the whole time, in whatever unit or form; two that differ within a second are two interactions."""
    rows = [f"u\t{item}\t{time}" for item, time in zip("abc", FORMS[form], strict=True)]
    names, tables, manifest = read(write(tmp_path / "in", ["user\titem\ttime", *rows, rows[0].replace("\ta\t", "\tb\t")]))
    assert names == {"u": ["b", "c", "a", "b"]} and found(manifest) == {} and 1.6e9 <= tables.log.time.min() <= tables.log.time.max() < 1.61e9


def test_numbers_and_dates_are_the_same_moments(home, tmp_path):
    """1,600,000,000 seconds, also as milli-, micro- and nanoseconds, with a point or an exponent, and as a date of any zone."""
    times = ["1600000000", "1600000000000", "1600000000000000", "1600000000000000000", "1600000000.0", "1.6e9", "2020-09-13T14:26:40+02:00"]
    tables = read(write(tmp_path / "in", ["user\titem\ttime", *(f"u{i}\ta\t{time}" for i, time in enumerate(times))]), min_length=1)[1]
    assert tables.log.time.tolist() == [1_600_000_000] * 7


@pytest.mark.parametrize("column", ["label:float", "is_click", "clicked"])
def test_what_was_not_taken_is_no_interaction(column, home, tmp_path):
    """A label of 0 says that the item was shown: it is left out and counted, and is no bad row; with `min_rating` the rating decides."""
    rows = ["u\ta\t1\t1", "u\tb\t2\t0", "u\tc\t3\t0.0", "u\td\t4\t1.0", "u\tb\t5\tFalse", "u\tc\t6\ttrue"]
    folder = write(tmp_path / "in", [f"user_id:token\titem_id:token\ttimestamp:float\t{column}", *rows])
    names, _, manifest = read(folder)
    assert names == {"u": ["a", "d", "c"]} and found(manifest) == {"not_taken": 3} and manifest["files"][-1]["examples"] == []


def test_names_that_are_known_are_found_and_others_named(home, tmp_path, capsys):
    """MovieLens calls its files ratings.csv and movies.csv; what lies beside them unread is said."""
    log = ["userId,movieId,rating,timestamp", *("u,{},4.0,{}".format(*pair) for pair in (("1", 30), ("2", 10), ("3", 20)))]
    folder = write(tmp_path / "in", log, items=None, name="ratings.csv")
    write(folder, ["movieId,title,genres", '1,"A, the film (1995)",Drama', "2,B,Comedy", "3,C,Noir|War"], items=None, name="movies.csv")
    write(folder, ["movieId,imdbId", "1,7"], items=None, name="links.csv")
    names, tables, manifest = read(folder)
    assert names == {"u": ["2", "3", "1"]} and tables.items.title[1] == "A, the film (1995)" and manifest["unread"] == ["links.csv"]
    show_data_report(manifest)
    assert "not read: links.csv" in capsys.readouterr().out


def test_what_reads_titles_needs_some(home, tmp_path):
    """Where no item has a title that is said before anything is trained."""
    read(write(tmp_path / "in", items=None))
    with pytest.raises(NrmsError, match="no item of movies has one: put a table of items"):
        build(resolve("morec_ts_sasrec", "movies", device="cpu"), load("movies", load_dataset("movies")))


@pytest.mark.parametrize("block", [7, 1 << 20])
def test_quoted_cells_may_have_line_ends(block, home, tmp_path, monkeypatch):
    """As every reader of CSV has it; a quote that nothing closes breaks its own line alone; line numbers are those of the file."""
    monkeypatch.setattr("nrms.data.sources.rows.BLOCK", block)
    items = ["item,title,description", 'a,A,"one\ntwo, ""three""\n\nfour"', 'b,B,"torn', "c,C,plain", 'd,"D\r\nof two lines",x', "e,E"]
    log = [line.replace("\t", ",") for line in LOG]
    _, tables, manifest = read(write(tmp_path / "in", log, items=items), min_length=1)
    assert tables.items.id.tolist() == ["", "a", "c", "d"] and tables.items.abstract[1] == 'one\ntwo, "three"\n\nfour'
    assert tables.items.title[3] == "D\r\nof two lines"
    entry = next(f for f in manifest["files"] if f["file"].startswith("items"))
    assert entry["set_aside"] == {"columns": 2} and [re.search(r"line (\d+)", e)[1] for e in entry["examples"]] == ["6", "10"]


@pytest.mark.parametrize("time", ["now", "today", "-2020-01-01", "inf", "1e21", "99999999999999999999999"])
def test_words_are_no_times(time, home, tmp_path):
    """What pandas would take for the moment of reading, or for a year before Christ, is set aside."""
    assert found(read(write(tmp_path / "in", [*LOG, f"u\td\t3\t{time}"]))[2]) == {"time": 1}


def test_no_rating_is_infinite(home, tmp_path):
    """A rating of inf or 1e999 is no number."""
    assert found(read(write(tmp_path / "in", [*LOG, "u\td\tinf\t40", "u\td\t1e999\t41"]), min_rating=1.0)[2]) == {"rating": 2}


def test_the_first_bad_rows_are_bad(home, tmp_path):
    """Rows that are left out by choice are no examples of bad ones; those that repeat an earlier one are."""
    manifest = read(write(tmp_path / "in", [LOG[0], "u\td\t1\t1", *LOG[1:], LOG[1]]), min_rating=2.0)[2]
    (example,) = manifest["files"][-1]["examples"]
    assert "user, item and time of an earlier row" in example and "'u', 'a', 30" in example


@pytest.mark.parametrize("row", ['u,d,"torn,40', 'u,d,"x"y,40', 'u\r,d,"x",40'])
def test_quotes_that_are_not_closed_are_counted(row, home, tmp_path):
    """A row that breaks the rules of quotes is set aside, as is one with a line end outside of them; a long text in quotes is no fault."""
    lines = [line.replace("\t", ",") for line in LOG]
    names, _, manifest = read(write(tmp_path / "in", [*lines, f'u,d,"{5:0200000}",50', row], name="interactions.csv"))
    assert found(manifest, "interactions.csv") == {"columns": 1} and names == {"u": ["b", "c", "a", "d"]}


def test_a_header_ends_where_its_line_ends(home, tmp_path):
    """Old Macintosh line ends make the whole file a header: that is said, and no row is taken for a part of it."""
    with pytest.raises(NrmsError, match=r"interactions\.tsv has no column for the user"):
        read(write(tmp_path / "in", ["\r".join(LOG)]))


def test_a_long_field_costs_its_own_length(home, tmp_path):
    """A part of a megabyte among many rows is set aside without a megabyte for each of them."""
    log = ["user\titem\ttime\tpart", *(f"u\ta\t{t}\ttrain" for t in range(20_000)), "u\ta\t30000\t" + "x" * 1_000_000]
    assert found(read(write(tmp_path / "in", log))[2]) == {"part": 1}


def test_nobody_is_lost_between_files_of_sequences(home, tmp_path):
    """A user that the test file lacks is an error, and a second line of a user is counted."""
    folder, head = tmp_path / "in", "user_id:token\titem_id_list:token_seq\titem_id:token"
    for name, rows in {"train": ["u\ta\tb"], "valid": ["u\ta b\tc"], "test": ["u\ta b c\td", "u\tb\ta"]}.items():
        write(folder, [head, *rows], name=f"{name}.inter")
    names, _, manifest = read(folder)
    assert names == {"u": ["a", "b", "c", "d"]} and found(manifest, "test.inter") == {"duplicate": 1}
    write(folder, [head, "v\ta b\tc", "u\ta b\tc"], name="valid.inter")
    write(folder, [head, "u\ta b c\td"], name="test.inter")
    with pytest.raises(NrmsError, match="user 'v' are not those of"):
        read(folder)


def test_ratings_and_short_users_are_choices(home, tmp_path):
    """Below `min_rating` a row is left out, below `min_length` a user; neither counts as bad."""
    folder = write(tmp_path / "in", [*LOG, "u\td\t2\t40", "v\ta\t5\t1", "v\tb\t5\t2"])
    data = load_dataset("movies", min_rating=3.0, max_bad=0.0)
    manifest = prepare("movies", data, folder)
    assert found(manifest) == {"low_rating": 1} and manifest["short"] == {"users": 1, "interactions": 2} and manifest["users"] == 1
    with pytest.raises(NrmsError, match="No user has 9 interactions"):
        read(folder, min_length=9)


def test_too_many_bad_rows_stop(home, tmp_path):
    """Above `max_bad` preparing stops with the first bad rows."""
    folder = write(tmp_path / "in", [*LOG, "u\tb\t3\tsoon"])
    with pytest.raises(NrmsError, match="25.00%.*max_bad") as error:
        prepare("movies", load_dataset("movies"), folder)
    advised = float(re.search(r"`-p max_bad ([\d.]+)`", str(error.value))[1])
    prepare("movies", load_dataset("movies", max_bad=advised), folder)  # the advice helps
    with pytest.raises(NrmsError, match="has another form than was expected") as error:
        prepare("movies", load_dataset("movies"), write(tmp_path / "bad", [LOG[0], *("u\ta\t1\tnever" for _ in range(9))]))
    assert "-p max_bad" not in str(error.value)


def test_forms_of_tables(home, tmp_path):
    """Commas with quotes, RecBole's names with types, dates, milliseconds, Windows line ends and a byte order mark read the same."""
    expected = {"u": ["b", "c", "a"]}
    recbole = ["user_id:token,item_id:token,timestamp:float", "u,a,3000000000000", "u,b,1000000000000.0", "u,c,2000000000000"]
    assert read(write(tmp_path / "1", recbole, name="movies.inter"))[0] == expected
    dates = ['user,item,date,note\r\nu,a,2020-03-01,"x, y"\r\nu,b,2020-01-01T10:00:00Z,\r\nu,c,2020-02-01 12:30:00,"""q"""\r']
    assert read(write(tmp_path / "2", ["\ufeff" + dates[0]], name="interactions.csv"))[0] == expected
    _, tables, _ = read(write(tmp_path / "4", items=["item,asin,title", "a,X1,A", "b,X2,B", "c,X3,C"]))
    assert tables.items.abstract.tolist() == [""] * 4, "a second id is no text"
    names, tables, _ = read(write(tmp_path / "3", LOG, items=None))
    assert names == expected and set(tables.items.id) == {"", "a", "b", "c"}, "without a table of items they are those of the log"


def test_sequences_are_the_log_without_times(home, tmp_path):
    """train, valid and test with the items before: one user, one log, which leaves out what the files left out."""
    folder, head = tmp_path / "in", "user_id:token\titem_id_list:token_seq\titem_id:token"
    for name, rows in {"train": ["u\ta\tb"], "valid": ["u\ta b\tc"], "test": ["u\ta b c\td"]}.items():
        write(folder, [head, *rows], name=f"{name}.inter")
    names, tables, manifest = read(folder)
    split = tables.split(load_dataset("movies"))
    assert names == {"u": ["a", "b", "c", "d"]} and not manifest["has_time"]
    assert tables.items.id[split.valid.candidates.values].tolist() == ["c"] and tables.items.id[split.test.candidates.values].tolist() == ["d"]
    write(folder, [head, "u\tb a\tc"], name="valid.inter")
    with pytest.raises(NrmsError, match="user 'u' are not those of"):
        read(folder)


def test_missing_files_and_columns_are_sentences(home, tmp_path):
    """No log, two logs, no column: each says what was expected."""
    with pytest.raises(NrmsError, match="no folder"):
        read(tmp_path / "none")
    with pytest.raises(NrmsError, match="holds no log"):
        read(write(tmp_path / "1", name="other.tsv"))
    write(tmp_path / "2", name="interactions.csv")
    with pytest.raises(NrmsError, match="leave one"):
        read(write(tmp_path / "2"))
    with pytest.raises(NrmsError, match="no column for the time: its first line names user, item, when"):
        read(write(tmp_path / "3", ["user\titem\twhen", "u\ta\t1"]))
    with pytest.raises(NrmsError, match="comes from a folder"):
        prepare("movies", load_dataset("movies"))


def test_given_vectors_go_by_the_lines_of_items(home, tmp_path):
    """Row i belongs to line i; another number of rows, pickles and values that are no numbers are refused, and what the file counts on must come."""
    folder = write(tmp_path / "in")
    np.save(folder / "text.npy", np.arange(8.0).reshape(4, 2))
    _, tables, manifest = read(folder)
    assert manifest["vectors"] == {"text": 2} and tables.vectors["text"].tolist() == [[0, 0], [0, 1], [2, 3], [4, 5], [6, 7]]
    sentences = {"one row for each": ((3, 2), (4, 0)), "no finite numbers, first in row 0": ((4, 2),)}
    for bad, says in ((np.full(shape, np.nan), says) for says, shapes in sentences.items() for shape in shapes):
        np.save(folder / "text.npy", bad)
        with pytest.raises(NrmsError, match=says):
            read(folder)
    np.save(folder / "text.npy", np.array([{}] * 4, object))
    with pytest.raises(NrmsError, match="not an array of numbers"):
        read(folder)
    for data in (b"PK\x03\x04 half", b"\x93NUMPY\x01\x00\x08\x00{'descr'"):
        (folder / "text.npy").write_bytes(data)
        with pytest.raises(NrmsError, match="not an array of numbers"):
            read(folder)
    (folder / "text.npy").unlink()
    with pytest.raises(NrmsError, match=r"no text.npy beside the log"):
        read(folder, given=["text"])


def test_other_values_ask_for_preparing_again(home, tmp_path):
    """A log that was prepared with one `min_length` is not served for another."""
    read(write(tmp_path / "in"))
    with pytest.raises(NrmsError, match="prepare it again"):
        load("movies", load_dataset("movies", min_length=4))
    with pytest.raises(NrmsError, match="is not prepared"):
        load("scientific", load_dataset("scientific"))


def test_clicks_of_mind_are_a_log(tiny, home):
    """A user's log is the history, then what they clicked by time, each news once."""
    data = load_dataset("mind-clicks")
    prepare("mind-clicks", data, tiny.folder / "raw")
    log, news = (tables := load("mind-clicks", data)).log, tables.items
    user = int(np.argmax(log.items.lengths))
    taken = news.id[log.items[user]].tolist()
    train, dev = (tiny.parts[p] for p in ("train", "dev"))
    expected = []
    for part in (train, dev):
        rows = np.flatnonzero(part.user == log.user[user])
        rows = rows[np.argsort(part.time[rows], kind="stable")]
        expected += tiny.items.id[part.history[rows[0]]].tolist() if len(rows) and part is train else []
        for r in rows:
            begin = part.candidates.offsets[r]
            expected += [tiny.items.id[i] for j, i in enumerate(part.candidates[r]) if part.clicked[begin + j]]
    assert len(set(taken)) == len(taken) and set(expected) <= set(taken)
    assert (np.diff(log.time.reshape(-1))[np.diff(log.items.rows) == 0] >= 0).all()


def test_clicks_of_a_part_without_impressions(home, tmp_path):
    """A dev part without a row adds no clicks; where no part has one, that is said."""
    for part, rows in (("train", "1\tU1\t11/9/2019 1:44:52 AM\tN1\tN2-1 N1-0\n"), ("dev", "")):
        write(tmp_path / "in" / part, [f"N{i}\tnews\tworld\tA\tB\thttp://x\t[]\t[]" for i in (1, 2)], items=None, name="news.tsv")
        (tmp_path / "in" / part / "behaviors.tsv").write_text(rows)
    data = load_dataset("mind-clicks", min_length=1)
    assert prepare("mind-clicks", data, tmp_path / "in")["interactions"] == 2
    (tmp_path / "in" / "train" / "behaviors.tsv").write_text("")
    with pytest.raises(NrmsError, match="No user has 1 interactions"):
        prepare("mind-clicks", data, tmp_path / "in")


def test_real_logs(home, real_data):
    """The films and the supplies are read whole: every row, every picture, every vector."""
    manifest = prepare("movies", load_dataset("movies"), real_data / "movies")
    assert (manifest["users"], manifest["interactions"], manifest["news"], manifest["images"]["found"]) == (943, 100_000, 1682, 1399)
    manifest = prepare("scientific", load_dataset("scientific"), real_data / "scientific")
    assert (manifest["users"], manifest["interactions"], manifest["news"], manifest["vectors"]) == (2928, 19_712, 1585, {"text": 512, "image": 512})
