"""Pictures from IM-MIND cards, which are named by other ids than the news of MIND-small."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nrms import NrmsError
from nrms.config import load_dataset
from nrms.data import images
from nrms.data.prepare import load, prepare
from nrms.data.sources import im_mind
from nrms.data.tables import Items

HEADER = ("id", "category", "subcategory", "title", "abstract", "url")


def card(path, colour):
    """A card with a red word on it and a cover of one colour."""
    picture = Image.new("RGB", im_mind.SIZE, "white")
    picture.paste("red", (300, 60, 500, 90))
    picture.paste(colour, im_mind.COVER)
    picture.save(path, quality=90)


def news(*rows):
    """News of (id, title, abstract, url), behind the padding row."""
    columns = zip(("", "", "", ""), *rows, strict=True)
    name, title, abstract, url = (np.array(c, object) for c in columns)
    return Items(name, title, title, title, abstract, url)


def test_the_cover_is_cut_out_and_a_white_one_is_missing(tmp_path):
    """Of a card only the cover is kept; white ones and pictures of another size are counted by reason."""
    card(tmp_path / "N1.jpg", "blue")
    card(tmp_path / "N2.jpg", "white")
    Image.new("RGB", (100, 100), "blue").save(tmp_path / "N3.jpg")
    facts = images.write_store(tmp_path, ["", "N1", "N2", "N3", "N4"], 16, tmp_path / "s.npy", cut=im_mind.cover)
    store = images.read_store(tmp_path / "s.npy")
    assert facts == {"found": 1, "missing": 1, "bad": {"blank": 1, "card": 1}, "unknown": 0, "twice": 0, "others": {}}
    assert abs(store.values[1, 1:-1, 1:-1].astype(int) - [0, 0, 255]).max() < 12, "no white border, no word"


def test_a_table_of_ids_that_is_none_is_named(tmp_path):
    """Bytes that are no UTF-8 are one sentence."""
    (tmp_path / "ids.csv").write_bytes(b"N1,\xff\n")
    with pytest.raises(NrmsError, match=r"ids\.csv is not a table in UTF-8"):
        im_mind.read_table(tmp_path / "ids.csv")


def test_news_are_matched_by_url_then_by_text():
    """An equal url is the same news; else equal title and abstract; what two share tells nothing."""
    ours = news(("a", "T1", "x", "u1"), ("b", "T2", "", "u9"), ("c", "T3", "", ""), ("d", "T4", "", "u4"), ("e", "", "", ""))
    twice = [("C", "T3", "", ""), ("C2", "T3", "", ""), ("D", "q", "", "u4"), ("D2", "r", "", "u4")]
    theirs = pd.DataFrame([("A", "other", "y", "u1"), ("B", "T2", "", "gone"), *twice], columns=["id", "title", "abstract", "url"])
    found, counts = im_mind.match(ours, theirs)
    assert found == {"a": "A", "b": "B"} and counts == {"url": 1, "title and abstract": 1, "nothing": 3}


@pytest.mark.parametrize("name, text", [("t.csv", "nid,title,IM-MIND-INDEX\nN1,x,77\n"), ("t.tsv", "N1\t77\nQ\t1\n")])
def test_a_table_of_ids(name, text, tmp_path):
    """Two columns, or the two that are named; ids that no news has are left out."""
    (tmp_path / name).write_text(text)
    assert im_mind.names_of_images(news(("N1", "", "", ""), ("N2", "", "", "")), tmp_path / name) == ({"N1": "77"}, {"table": 1, "nothing": 1})


def test_wrong_tables_are_sentences(tmp_path):
    """No file, one column, no news in common: each says what is expected."""
    (tmp_path / "one.csv").write_text("N1\n")
    (tmp_path / "other.csv").write_text("x,y\n")
    some = news(("N1", "", "", ""))
    for name, words in (("no.csv", "--ids"), ("one.csv", "line 1: expected two columns"), ("other.csv", "matches none of the 1 news")):
        with pytest.raises(NrmsError, match=words):
            im_mind.names_of_images(some, tmp_path / name)


def test_mind_small_with_cards_of_mind_large(tmp_path, home):
    """prepare --images CARDS --cards --ids MINDLARGE: covers arrive at the right news, and the manifest says how many were matched."""
    source = tmp_path / "small"
    for part, day in (("train", 10), ("dev", 15)):
        (source / part).mkdir(parents=True)
        (source / part / "news.tsv").write_text("N1\tc\ts\tFirst\tx\tu1\t[]\t[]\nN2\tc\ts\tSecond\ty\tu2\t[]\t[]\n")
        (source / part / "behaviors.tsv").write_text(f"1\tU1\t11/{day}/2019 8:00:00 AM\t\tN1-1 N2-0\n")
    large = tmp_path / "large" / "MINDlarge_train"
    large.mkdir(parents=True)
    (large / "news.tsv").write_text("N900\tc\ts\tSecond\ty\tu2\t[]\t[]\n")
    (tmp_path / "cards").mkdir()
    card(tmp_path / "cards" / "N900.jpg", "green")
    card(tmp_path / "cards" / "N1.jpg", "red")
    data = load_dataset("mind-small", image_size=16)
    manifest = prepare("mind-small", data, source, tmp_path / "cards", are_cards=True, ids=tmp_path / "large")
    assert manifest["images"]["matched"] == {"url": 1, "title and abstract": 0, "nothing": 1} and manifest["images"]["unknown"] == 1
    pixels = load("mind-small", data).pixels
    assert pixels.present.tolist() == [False, False, True] and pixels.values[2][..., 1].mean() > 100
    with pytest.raises(NrmsError, match="--images FOLDER"):
        prepare("mind-small", data, source, are_cards=True)
