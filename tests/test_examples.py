"""One example is carried through the notebooks: it is found in the source as it is, and again in what became of it."""

import numpy as np
import pytest

from nrms.config import load_dataset
from nrms.data import examples
from nrms.data.prepare import prepare
from nrms.data.sources.rows import Member
from nrms.data.splits import split_log
from nrms.data.tables import Impressions, Ragged


def asked(history, candidates, clicked):
    """Impressions of these histories and slates."""
    columns = [Ragged(np.concatenate(rows), np.r_[0, np.cumsum([len(row) for row in rows])]) for rows in (history, candidates)]
    names = np.array([str(i) for i in range(len(history))])
    return Impressions(names, names, np.zeros(len(history), int), *columns, np.concatenate(clicked))


def test_typical_fits_on_a_screen():
    """The first impression with enough history and not too many candidates; the first of all where none has both."""
    short, long, right = np.arange(2), np.arange(300), np.arange(8)
    shown = asked([short, right, right], [right, long, right], [right == 1, long == 1, right == 1])
    assert examples.typical(shown) == 2 and examples.typical(shown.take(np.arange(2))) == 0


@pytest.mark.parametrize(("separator", "line"), [("\t", 'i10\ta "title"\tx'), (",", 'i10,"a, title",x')])
def test_a_line_is_found_by_whole_cells(tmp_path, separator, line):
    """Not by a part of a cell, nor in another column; its number is that of an editor."""
    path = tmp_path / "items"
    path.write_text(separator.join(("i100", "i10", "x")) + "\n" + line + "\n")
    found = examples.line_with(Member("items", lambda: path.open("rb")), {0: "i10", 2: "x"}, separator)
    assert found == {"file": "items", "line": 2, "text": line}
    assert examples.line_with(Member("items", lambda: path.open("rb")), {0: "x"}, separator) is None


def test_a_long_line_is_cut(tmp_path):
    """A line of any length is shown by its beginning."""
    path = tmp_path / "items"
    path.write_text("i1\t" + "word " * 1000)
    assert examples.line_with(Member("items", lambda: path.open("rb")), {0: "i1"})["text"] == ("i1\t" + "word " * 1000)[:1000] + " ..."


def test_the_example_of_impressions(tiny, split):
    """The manifest has the lines of one dev impression and of what was clicked in it; `carried` finds both in the tables."""
    example = tiny.manifest["example"]
    news, behaviors = example["lines"]
    row, item = examples.carried(example, tiny.items.id, split.test)
    assert (split.test.id[row], tiny.items.id[item]) == (example["impression"], example["item"])
    assert news["text"].split("\t")[:4] == [getattr(tiny.items, k)[item] for k in ("id", "category", "subcategory", "title")]
    raw = (tiny.folder / "raw" / behaviors["file"]).read_text().split("\n")[behaviors["line"] - 1]
    assert raw == behaviors["text"] and f"{example['item']}-1" in raw and raw.split("\t")[3].split() == list(tiny.items.id[split.test.history[row]])


def test_the_example_of_a_log(board, monkeypatch):
    """The first user whose last item, which is what leaving one out asks for, has a picture."""
    folder, _ = board
    monkeypatch.setenv("NRMS_HOME", str(folder))
    from nrms.data.prepare import load

    data = load_dataset("movies")
    tables = load("movies", data)
    example = tables.manifest["example"]
    items, log = example["lines"]
    _, item = examples.carried(example, tables.items.id, split_log(tables.log, "leave_one_out", 0.1, 0.1).test)
    assert tables.has_image[item] and items["text"].split("\t")[:2] == [tables.items.id[item], tables.items.title[item]]
    assert log["text"].split("\t")[:2] == [example["user"], example["item"]]


def test_data_prepared_before_have_an_example_too(split, tiny):
    """Without one in the manifest a typical impression is taken, and what was clicked in it."""
    row, item = examples.carried({}, tiny.items.id, split.test)
    begin = split.test.candidates.offsets[row]
    assert row == examples.typical(split.test) and split.test.clicked[begin + list(split.test.candidates[row]).index(item)]


def test_an_example_is_of_one_row(split, tiny):
    """Where the user of the manifest is not asked in this split, neither is their item shown beside somebody else's history."""
    item = tiny.items.id[-1]
    assert examples.carried({"user": "nobody", "item": item}, tiny.items.id, split.test) == examples.carried({}, tiny.items.id, split.test)
    user = split.test.user[3]
    row, found = examples.carried({"user": user, "item": item}, tiny.items.id, split.test)
    assert split.test.user[row] == user and found == len(tiny.items) - 1


def test_a_part_is_read_once(tiny, home, monkeypatch):
    """What was read to see whether there is something is what is taken; the train part where the dev part has nothing."""
    read = []
    monkeypatch.setattr(
        examples, "read_impressions", lambda path: read.append(path.stem) or tiny.parts["dev"].take(np.arange(9 * (path.stem == "train")))
    )
    assert examples.find(tiny.folder / "raw", tiny.folder)["impression"] in tiny.parts["dev"].id and read == ["dev", "train"]


def test_the_example_of_real_lines(real_data, home):
    """Lines of MIND as they are."""
    manifest = prepare("mind-excerpt", load_dataset("mind-excerpt"), real_data / "mind-excerpt")
    news, behaviors = manifest["example"]["lines"]
    assert (real_data / "mind-excerpt" / news["file"]).read_text().split("\n")[news["line"] - 1].startswith(news["text"][:900])
    assert f"{manifest['example']['item']}-1" in behaviors["text"] or behaviors["text"].endswith("...")
