"""Every reason in the catalogues has a file that gives it, and it alone, once."""

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from nrms.data import images
from nrms.data.sources import im_mind, interactions, mind
from nrms.data.sources.rows import REASONS

NEWS = ["N1\tnews\tworld\tA title\tText\thttp://x\t[]\t[]", "N2\tnews\tworld\tB title\tText\thttp://x\t[]\t[]"]
SHOWN = "1\tU1\t11/9/2019 1:44:52 AM\tN1\tN2-1 N1-0"
MIND = {"train/news.tsv": "\n".join(NEWS), "train/behaviors.tsv": SHOWN}
LOG = {"interactions.tsv": "user\titem\trating\ttime\tpart\nu\ta\t5\t1\ttrain\nu\tb\t5\t2\ttest", "items.tsv": "item\ttitle\na\tA\nb\tB\nc\tC"}


def shown(old, new):
    """MIND with one more impression: the first, with something else in the place of `old`."""
    return {"train/behaviors.tsv": f"{SHOWN}\n2{SHOWN[1:].replace(old, new)}"}


def taken(row):
    """A log with one more row."""
    return {"interactions.tsv": f"{LOG['interactions.tsv']}\n{row}"}


HEADER, *TAKEN = LOG["interactions.tsv"].split("\n")
CLICKS = "\n".join([f"{HEADER}\tclick", *(f"{line}\t1" for line in TAKEN)])  # a log that says of each line whether it is a click
FIXTURES = {  # reason: files in the place of the sound ones
    "columns": shown("\tN2-1", " N2-1"),
    "nul": shown("U1", "U\0"),
    "encoding": {"train/behaviors.tsv": f"{SHOWN}\n2{SHOWN[1:]}".encode() + b"\xff"},
    "id": {"train/behaviors.tsv": f"{SHOWN}\n {SHOWN[1:]}"},
    "duplicate": {"train/news.tsv": "\n".join([*NEWS, NEWS[0]])},
    "time": shown("11/9/2019", "11/31/2019"),
    "candidates": shown("N2-1 N1-0", " "),
    "label": shown("N1-0", "N1"),
    "unknown_candidate": shown("N1-0", "N3-0"),
    "unknown_history": shown("\tN1\t", "\tN1 N3\t"),
    "empty_history": shown("\tN1\t", "\t\t"),
    "one_class": shown("N1-0", "N1-1"),
    "unknown_item": taken("u\tz\t5\t3\ttrain"),
    "rating": taken("u\tc\tgood\t3\ttrain"),
    "low_rating": taken("u\tc\t1\t3\ttrain"),
    "not_taken": {"interactions.tsv": CLICKS + "\nu\tc\t5\t3\ttrain\t0"},
    "part": taken("u\tc\t5\t3\tlast"),
    "repeated": taken("u\ta\t5\t1\ttrain"),
    "bom": {"train/behaviors.tsv": "\ufeff" + SHOWN},
    "crlf": {"train/behaviors.tsv": SHOWN + "\r\n"},
    "blank": {"train/behaviors.tsv": SHOWN + "\n\n"},
    "empty_title": {"train/news.tsv": "\n".join([*NEWS, NEWS[0].replace("N1", "N3").replace("A title", " ")])},
    "conflict": {"dev/news.tsv": NEWS[0].replace("A title", "Another title")},
}


def counts(files, folder):
    """{reason: count} over all files of a folder of MIND or of a log, with nothing lost."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    is_mind = "train/news.tsv" in files
    facts = mind.convert(folder, folder, 1.0) if is_mind else interactions.convert(folder, folder, 1.0, min_rating=3.0, min_length=1)
    assert all(f["rows_in"] == f["rows_out"] + sum(f["set_aside"].values()) for f in facts["files"])
    return sum((Counter(f[kind]) for f in facts["files"] for kind in ("set_aside", "repaired", "noted")), Counter())


@pytest.mark.parametrize("sound", [MIND, LOG], ids=["mind", "log"])
def test_sound_files_have_no_reasons(sound, tmp_path):
    """Where nothing is odd nothing is counted."""
    assert not counts(sound, tmp_path)


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_a_file_that_gives_it(reason, tmp_path):
    """One oddity in sound files: its reason once, and no other."""
    changed = FIXTURES[reason]
    assert counts((LOG if changed.keys() <= LOG.keys() else MIND) | changed, tmp_path) == {reason: 1}


def encoded(image, form="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


PICTURES = {  # reason: (bytes, are they a card?)
    "format": (encoded(Image.new("RGB", (8, 8)), "BMP"), False),
    "size": (encoded(Image.new("1", (8000, 8000))), False),
    "broken": (encoded(Image.fromarray(np.arange(3 * 64 * 64, dtype=np.uint8).reshape(64, 64, 3)), "JPEG")[:700], False),
    "card": (encoded(Image.new("RGB", (8, 8))), True),
    "blank": (encoded(Image.new("RGB", im_mind.SIZE, "white")), True),
}


@pytest.mark.parametrize("reason", images.REASONS)
def test_every_reason_of_a_picture_has_a_file_that_gives_it(reason, tmp_path):
    """A picture that cannot be used says why."""
    data, is_card = PICTURES[reason]
    (tmp_path / "N1.jpg").write_bytes(data)
    assert images.decode(tmp_path / "N1.jpg", 16, im_mind.cover if is_card else None) == reason
