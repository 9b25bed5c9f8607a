"""MIND as it is met in the wild: every oddity has a reason and a count, nothing is dropped in silence, nothing is half written."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nrms import NrmsError
from nrms.config import Dataset, load_dataset
from nrms.data.prepare import load, prepare
from nrms.data.sources import mind
from nrms.data.sources import rows as row_reader
from nrms.data.sources.rows import Ledger, Member
from nrms.data.tables import read_impressions, read_items
from nrms.runtime import data_folder

LENIENT = Dataset(source="mind", max_bad=1.0)
NEWS = [
    "N1\tsports\ttennis\tA serve\tText\thttp://x\t[]\t[]",
    'N2\tnews\tworld\t"Quoted" title\t\thttp://x\t[]\t[]',
    "N3\tnews\tworld\tnull\tNaN\thttp://x\t[]\t[]",
]
ROWS = ["1\tU1\t11/9/2019 1:44:52 AM\tN1 N2\tN3-1 N1-0", "2\tU2\t11/10/2019 12:00:00 PM\t\tN2-0 N1-1"]


def write(folder, news=NEWS, train=ROWS, dev=ROWS, end="\n"):
    """A MIND folder of these lines; returns its path."""
    for part, rows in (("MINDx_train", train), ("MINDx_dev", dev)):
        (folder / part).mkdir(parents=True)
        (folder / part / "news.tsv").write_bytes((end.join(news) + end).encode())
        (folder / part / "behaviors.tsv").write_bytes((end.join(rows) + end).encode() if isinstance(rows, list) else rows)
    return folder


def ledger(manifest, name="MINDx_train/behaviors.tsv"):
    return next(f for f in manifest["files"] if f["file"] == name)


def test_plain_rows(home, tmp_path):
    """Two news, two impressions: texts, order, times and labels survive; row 0 of the news is padding."""
    prepare("mind-small", LENIENT, write(tmp_path / "in"))
    tables = load("mind-small", LENIENT)
    assert tables.items.id.tolist() == ["", "N1", "N2", "N3"] and tables.items.title.tolist() == ["", "A serve", '"Quoted" title', "null"]
    train = tables.parts["train"]
    assert [train.history[i].tolist() for i in (0, 1)] == [[1, 2], []]
    assert [train.candidates[i].tolist() for i in (0, 1)] == [[3, 1], [2, 1]] and train.clicked.tolist() == [True, False, False, True]
    assert [str(t) for t in train.time.astype("datetime64[s]")] == ["2019-11-09T01:44:52", "2019-11-10T12:00:00"]


ODD = {  # reason: (a row, is it set aside?)
    "columns": ("9\tU1\t11/9/2019 1:44:52 AM\tN1", True),
    "nul": ("9\tU1\0\t11/9/2019 1:44:52 AM\tN1\tN2-1 N1-0", True),
    "id": ("\tU1\t11/9/2019 1:44:52 AM\tN1\tN2-1 N1-0", True),
    "duplicate": ("1\tU1\t11/9/2019 1:44:52 AM\tN1\tN2-1 N1-0", True),
    "time": ("9\tU1\t2019-11-09 01:44:52\tN1\tN2-1 N1-0", True),
    "time ": ("9\tU1\t2/31/2019 1:44:52 AM\tN1\tN2-1 N1-0", True),
    "candidates": ("9\tU1\t11/9/2019 1:44:52 AM\tN1\t ", True),
    "label": ("9\tU1\t11/9/2019 1:44:52 AM\tN1\tN2-1 N1", True),
    "unknown_candidate": ("9\tU1\t11/9/2019 1:44:52 AM\tN1\tN2-1 N77-0", True),
    "unknown_history": ("9\tU1\t11/9/2019 1:44:52 AM\tN1 N77 N2\tN2-1 N1-0", False),
    "empty_history": ("9\tU1\t11/9/2019 1:44:52 AM\t\tN2-1 N1-0", False),
    "one_class": ("9\tU1\t11/9/2019 1:44:52 AM\tN1\tN2-0 N1-0", False),
}


@pytest.mark.parametrize("reason", ODD)
def test_every_oddity_is_counted_by_its_reason(reason, home, tmp_path):
    """One odd row more than two sound ones: one more under its reason, and rows in = rows out + set aside."""
    row, aside = ODD[reason]
    found = ledger(prepare("mind-small", LENIENT, write(tmp_path / "in", train=[*ROWS, row])))
    counts = found["set_aside"] | found["repaired"] | found["noted"]
    assert counts[reason.strip()] == 1 + (reason == "empty_history")
    assert found["rows_in"] == 3 and found["rows_out"] == 3 - aside and sum(found["set_aside"].values()) == aside
    history = load("mind-small", LENIENT).parts["train"].history
    if reason == "unknown_history":
        assert history[2].tolist() == [1, 2], "known clicks stay"


def test_bytes_that_are_not_text(home, tmp_path):
    """Latin-1 bytes in one row set that row aside, not the file."""
    rows = ("\n".join(ROWS) + "\n").encode() + b"9\tU\xe9\t11/9/2019 1:44:52 AM\tN1\tN2-1 N1-0\n"
    assert ledger(prepare("mind-small", LENIENT, write(tmp_path / "in", train=rows)))["set_aside"] == {"encoding": 1}


def test_windows_files_are_read_alike(home, tmp_path):
    """A byte order mark, CRLF and a missing last line end change no value and are noted."""
    prepare("mind-small", LENIENT, write(tmp_path / "a"))
    plain = load("mind-small", LENIENT).parts["train"]
    rows = b"\xef\xbb\xbf" + "\r\n".join(ROWS).encode()
    windows = prepare("mind-small", LENIENT, write(tmp_path / "b", train=rows))
    train = load("mind-small", LENIENT).parts["train"]
    assert train.id.tolist() == plain.id.tolist() and train.time.tolist() == plain.time.tolist() and train.clicked.tolist() == plain.clicked.tolist()
    assert train.candidates.values.tolist() == plain.candidates.values.tolist() and train.history.values.tolist() == plain.history.values.tolist()
    assert ledger(windows)["noted"] == {"bom": 1, "crlf": 1, "empty_history": 1}


def test_blank_lines_are_no_rows(home, tmp_path):
    """An empty line at the end or in between is noted, and is neither a row nor bad."""
    found = ledger(prepare("mind-small", load_dataset("mind-small"), write(tmp_path / "in", train=[ROWS[0], "", ROWS[1], ""])))
    assert found["rows_in"] == found["rows_out"] == 2 and found["noted"]["blank"] == 2


def test_too_many_bad_rows_are_an_error(home, tmp_path):
    """More than 0.1 % bad rows: the first three are shown, and nothing is left behind."""
    source = write(tmp_path / "in", train=[*ROWS, *(ODD["columns"][0] for _ in range(4))])
    with pytest.raises(NrmsError) as error:
        prepare("mind-small", load_dataset("mind-small"), source)
    assert "4 of 6 rows (66.67%)" in str(error.value) and str(error.value).count("\n") == 3 and "line 3" in str(error.value)
    assert not list(home.glob("data/[!.]*"))


def test_an_interrupted_prepare_leaves_the_old_data_set(home, tmp_path, monkeypatch):
    """A crash in the middle leaves what was there before, and no half data set."""
    prepare("mind-small", LENIENT, write(tmp_path / "a"))
    monkeypatch.setattr(mind, "read_behaviors", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare("mind-small", LENIENT, write(tmp_path / "b", train=ROWS[:1]))
    assert len(load("mind-small", LENIENT).parts["train"]) == 2 and [p.name for p in data_folder("").glob("[!.]*")] == ["mind-small"]


def test_zips_at_any_depth(home, tmp_path):
    """MINDsmall_train.zip with a sub-folder inside reads like the folder."""
    plain = prepare("mind-small", LENIENT, write(tmp_path / "a"))
    (tmp_path / "zips").mkdir()
    for part in ("train", "dev"):
        with zipfile.ZipFile(tmp_path / "zips" / f"MINDsmall_{part}.zip", "w") as file:
            for name in ("news.tsv", "behaviors.tsv"):
                file.write(tmp_path / "a" / f"MINDx_{part}" / name, f"deep/er/{name}")
    assert prepare("mind-small", LENIENT, tmp_path / "zips")["tables"] == plain["tables"]


def test_a_half_zip_is_named(home, tmp_path):
    """A download that was cut off is one sentence."""
    (tmp_path / "MINDsmall_train.zip").write_bytes(b"PK\x03\x04 half")
    with pytest.raises(NrmsError, match="not a complete zip"):
        prepare("mind-small", LENIENT, tmp_path)


def test_missing_things_are_named(home, tmp_path):
    """No folder, no train part, no news beside behaviors, a part twice: each is one sentence."""
    with pytest.raises(NrmsError, match="There is no file or folder"):
        prepare("mind-small", LENIENT, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NrmsError, match="no train part"):
        prepare("mind-small", LENIENT, tmp_path / "empty")
    source = write(tmp_path / "in")
    (source / "MINDx_dev" / "news.tsv").unlink()
    with pytest.raises(NrmsError, match=r"no news\.tsv beside it"):
        prepare("mind-small", LENIENT, source)
    with pytest.raises(NrmsError, match="is not prepared: run"):
        load("mind-small", LENIENT)


def test_test_part_without_labels(home, tmp_path):
    """MIND-large's test has no labels: it is read, and knows that it has none."""
    source = write(tmp_path / "in")
    (source / "test").mkdir()
    (source / "test" / "news.tsv").write_text("\n".join(NEWS))
    (source / "test" / "behaviors.tsv").write_text("1\tU1\t11/9/2019 1:44:52 AM\tN1 N2\tN3 N1")
    assert prepare("mind-small", LENIENT, source)["parts"]["test"] == {"impressions": 1, "labelled": False}
    test = load("mind-small", LENIENT).parts["test"]
    assert test.clicked is None and test.candidates[0].tolist() == [3, 1]


def test_blocks_do_not_matter(tmp_path, monkeypatch):
    """The same tables whether a file is read at once or in pieces smaller than a row."""
    source, results = write(tmp_path / "in", train=[f"{i}\t" + ROWS[0].split("\t", 1)[1] for i in range(50)]), []
    for size in (1 << 20, 37):
        monkeypatch.setattr(row_reader, "BLOCK", size)
        folder = tmp_path / str(size)
        folder.mkdir()
        facts = mind.convert(source, folder, 1.0)
        part = read_impressions(folder / "train.parquet")
        results.append((facts, part.id.tolist(), part.candidates.values.tolist(), part.clicked.tolist()))
    assert results[0] == results[1]


def test_a_label_without_a_news_is_no_padding(home, tmp_path):
    """The candidate `-1` names nothing: its row is set aside, and row 0 of the news is never a candidate."""
    found = ledger(prepare("mind-small", LENIENT, write(tmp_path / "in", train=[*ROWS, "9\tU1\t11/9/2019 1:44:52 AM\tN1\t-1 N1-0"])))
    assert found["set_aside"] == {"unknown_candidate": 1} and load("mind-small", LENIENT).parts["train"].candidates.values.all()


@pytest.mark.parametrize("time", ["11/9/19 1:44:52 AM", "11/9/2019 1:44:60 AM", "11/9/20191:44:52AM", "1/1/0000 1:44:52 AM", "11/9/2019\r1:44:52 AM"])
def test_times_of_another_form_are_set_aside(time, home, tmp_path):
    """A year of two digits is not one of the first century, and a 60th second is none."""
    found = ledger(prepare("mind-small", LENIENT, write(tmp_path / "in", train=[*ROWS, f"9\tU1\t{time}\tN1\tN2-1 N1-0"])))
    assert found["set_aside"] == {"time": 1}


@pytest.mark.parametrize("row, labelled", [("1\tU-1\t11/9/2019 1:44:52 AM\tN1\tN3 N1\n", False), ("1\tU1\t11/9/2019 1:44:52 AM\tN1\tN3-1", True)])
def test_labels_are_looked_for_among_candidates_of_every_line(row, labelled, home, tmp_path):
    """A user called U-1 is no label, and one line without an end is a line."""
    source = write(tmp_path / "in")
    (source / "test").mkdir()
    (source / "test" / "news.tsv").write_text("\n".join(NEWS))
    (source / "test" / "behaviors.tsv").write_text(row)
    assert prepare("mind-small", LENIENT, source)["parts"]["test"] == {"impressions": 1, "labelled": labelled}


def test_a_damaged_zip_is_named(home, tmp_path):
    """A zip with its table of contents, but with other bytes in a file, is one sentence."""
    source = write(tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "MINDsmall.zip", "w") as file:
        for path in source.rglob("*.tsv"):
            file.write(path, path.relative_to(source))
    data = (tmp_path / "MINDsmall.zip").read_bytes()
    (tmp_path / "MINDsmall.zip").write_bytes(data.replace(b"A serve", b"A nerve"))
    with pytest.raises(NrmsError, match=r"news\.tsv.* is damaged \(Bad CRC-32.*get the zip again"):
        prepare("mind-small", LENIENT, tmp_path / "MINDsmall.zip")


fields = st.text(alphabet="NU1237 -01\t\r\0é/:AMP", max_size=30)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(fields.map(str.encode), st.binary(max_size=30), st.sampled_from([r.encode() for r in ROWS])), max_size=8))
def test_any_bytes_end_in_a_table_or_a_sentence(lines):
    """Whatever stands in behaviors.tsv: rows in = rows out + set aside, and never another library's traceback."""
    news = Ledger("news.tsv")
    member = Member("train/behaviors.tsv", lambda: io.BytesIO(b"\n".join(lines)))
    table, _ = mind.read_all_news({"train": Member("train/news.tsv", lambda: io.BytesIO("\n".join(NEWS).encode()))}, 1.0)
    tables = list(mind.read_behaviors(member, True, table["id"].combine_chunks(), news))
    assert news.rows_in == news.rows_out + sum(news.summary()["set_aside"].values()) and sum(map(len, tables)) == news.rows_out
    for part in tables:
        assert all(len(c) == len(k) > 0 for c, k in zip(part["candidates"].to_pylist(), part["clicked"].to_pylist(), strict=True))


def test_real_lines(real_data, home):
    """The excerpt of real MIND: as many rows out as in, every id known, and each user's history the same within a part."""
    data = load_dataset("mind-excerpt")
    manifest = prepare("mind-excerpt", data, real_data / "mind-excerpt")
    assert all(f["rows_in"] == f["rows_out"] > 0 for f in manifest["files"])
    tables = load("mind-excerpt", data)
    assert np.isin(tables.parts["train"].candidates.values, np.arange(1, len(tables.items))).all()
    train = tables.parts["train"]
    seen = {}
    assert all(
        seen.setdefault(u, h.tolist()) == h.tolist() for u, h in zip(train.user, map(train.history.__getitem__, range(len(train))), strict=True)
    )
    assert read_items(tables.folder / "news.parquet").title[1] == tables.items.title[1]
