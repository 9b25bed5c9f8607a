"""Files from the internet, made to do harm: each is a sentence, a count, or plain text; none runs, escapes, or eats the machine."""

import io
import json
import os
import pickle
import random
import resource
import shutil
import stat
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from nrms import ROOT, NrmsError
from nrms.__main__ import main
from nrms.config import load_dataset, params_files, resolve
from nrms.config.parameters import Dataset
from nrms.data import images, summary
from nrms.data.examples import typical
from nrms.data.images import decode
from nrms.data.prepare import prepare
from nrms.data.sources import im_mind, mind, rows, zips
from nrms.data.tables import Items
from nrms.models.items.hub import load_pretrained, load_tower
from nrms.models.load import check_fits
from nrms.models.warm_start import begin
from nrms.report import figures
from nrms.report.pages import index_page
from nrms.runtime import Run, notebook_output, run_folder
from nrms.runtime.checkpoints import load_checkpoint

NEWS = "N1\tsports\ttennis\tA serve\tText\thttp://x\t[]\t[]\n"
ROWS = "1\tU1\t11/9/2019 1:44:52 AM\tN1\tN1-1\n"
LENIENT = Dataset(source="mind", max_bad=1.0)
SCRIPT = "<script>alert(1)</script>"


def everything(folder):
    """Every path under a folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


# zips and folders ----------------------------------------------------------------------------------------------------


def pack(path, members, method=zipfile.ZIP_DEFLATED):
    """A zip of (name or ZipInfo, text) in which train and dev are sound, with these members in their place or beside them."""
    sound = {f"{part}/{name}": text for part in ("train", "dev") for name, text in (("news.tsv", NEWS), ("behaviors.tsv", ROWS))}
    names = [getattr(name, "filename", name) for name, _ in members]
    with zipfile.ZipFile(path, "w", method) as file:
        for name, text in [*((n, t) for n, t in sound.items() if n not in names), *members]:
            file.writestr(name, text)
    return path


def link(name, target):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info, target


@pytest.mark.parametrize(
    "member, says",
    [
        (("../train/news.tsv", NEWS), "has a path that leads out of the zip"),
        (("/train/news.tsv", NEWS), "has a path that leads out of the zip"),
        (link("train/news.tsv", "/etc/passwd"), "is a link, not a file"),
    ],
    ids=["..", "absolute", "link"],
)
def test_members_that_lead_elsewhere_are_refused(member, says, home, tmp_path):
    """A news.tsv with a path out of the zip, or that is a link, is named and not read."""
    with pytest.raises(NrmsError, match=says):
        prepare("mind-small", LENIENT, pack(tmp_path / "x.zip", [member]))


def test_other_members_are_left_alone(home, tmp_path):
    """Nobody asks for evil.sh: it is neither unpacked nor in the way, and nothing is written but the data set."""
    members = [("../../evil.sh", "x"), ("/tmp/evil.sh", "x"), link("evil", "/etc"), ("train\\news.tsv", "x"), ("inner.zip", "x")]
    source = pack(tmp_path / "x.zip", members)
    before = everything(tmp_path.parent)
    prepare("mind-small", LENIENT, source)
    new = set(everything(tmp_path.parent)) - set(before)
    inside = f"{tmp_path.name}/data"
    assert new == {inside} | {f"{inside}/{p}" for p in everything(home / "data")} and not Path("/tmp/evil.sh").exists()


def test_a_zip_inside_a_zip_is_not_opened(home, tmp_path):
    """What is wanted must stand in the zip itself."""
    pack(tmp_path / "train.zip", [])
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as file:
        file.write(tmp_path / "train.zip", "train.zip")
    with pytest.raises(NrmsError, match="holds no train part"):
        prepare("mind-small", LENIENT, tmp_path / "outer.zip")


@pytest.mark.parametrize(
    "method, says", [(zipfile.ZIP_DEFLATED, "would unpack from"), (zipfile.ZIP_BZIP2, "another method"), (zipfile.ZIP_LZMA, "another")]
)
def test_bombs_do_not_go_off(method, says, home, tmp_path):
    """A file that would unpack to 80 MB from next to nothing is refused unread; so is a method that unpacks without measure."""
    source = pack(tmp_path / "x.zip", [("train/behaviors.tsv", bytes(80 << 20))], method)
    tracemalloc.start()
    with pytest.raises(NrmsError, match=says):
        prepare("mind-small", LENIENT, source)
    assert tracemalloc.get_traced_memory()[1] < 5 << 20
    tracemalloc.stop()


def change(path, name, **fields):
    """Overwrites fields of a zip's table of contents: flags, crc, packed, size."""
    at = {"flags": (8, "<H"), "crc": (16, "<I"), "packed": (20, "<I"), "size": (24, "<I")}
    data = bytearray(path.read_bytes())
    begin = data.find(b"PK\x01\x02")
    while data[begin + 46 : begin + 46 + len(name)] != name.encode():
        begin = data.find(b"PK\x01\x02", begin + 1)
    for field, value in fields.items():
        struct.pack_into(at[field][1], data, begin + at[field][0], value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "lie, says",
    [
        ({"flags": 1}, "is encrypted: it is not read"),
        ({"crc": 7}, "is damaged"),
        ({"size": 5}, "is damaged"),
        ({"size": 3 << 30, "packed": 2 << 30}, "would unpack from"),
        ({"packed": 9}, "is damaged"),
    ],
    ids=["encrypted", "crc", "says less", "says more", "packed"],
)
def test_headers_that_lie_are_found_out(lie, says, home, tmp_path):
    """More never comes out than the table of contents says, what it says is held against the zip's own size, and a wrong sum is damage."""
    source = pack(tmp_path / "x.zip", [])
    change(source, "train/behaviors.tsv", **lie)
    with pytest.raises(NrmsError, match=says):
        prepare("mind-small", LENIENT, source)
    assert not list(home.glob("data/[!.]*"))


def test_any_damage_to_a_zip_is_a_sentence_or_harmless(tmp_path):
    """Bytes changed at random: tables or a sentence, never another library's traceback."""
    source, rng, ends = pack(tmp_path / "x.zip", []), random.Random(0), {True: 0, False: 0}
    whole = source.read_bytes()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 3))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        source.write_bytes(data[: rng.randrange(len(data))] if rng.random() < 0.1 else data)
        (folder := tmp_path / "out").mkdir(exist_ok=True)
        try:
            mind.convert(source, folder, 1.0)
            ends[True] += 1
        except NrmsError:
            ends[False] += 1
    assert min(ends.values()) > 20


def test_a_line_without_end_is_not_a_table(tmp_path, monkeypatch):
    """A file that is one line is left after MAX_LINE_BYTES bytes, not gathered in memory."""
    monkeypatch.setattr(rows, "BLOCK", 10)
    monkeypatch.setattr(rows, "MAX_LINE_BYTES", 100)
    stream = io.BytesIO(bytes(10_000))
    with pytest.raises(NrmsError, match="a line of more than 100 bytes"):
        list(rows.read_blocks(rows.Member("x", lambda: stream)))
    assert stream.closed
    assert [len(lines) for lines, _ in rows.read_blocks(rows.Member("x", lambda: io.BytesIO(b"a\n" * 9)))] == [5, 4]


def test_links_to_files_are_followed_and_links_to_folders_are_not(home, tmp_path):
    """A folder of links, as the cache of a hub is one, is as good as the files; a link to a folder, be it to itself, is not entered."""
    source, blobs = tmp_path / "in", tmp_path / "blobs"
    blobs.mkdir()
    for part in ("train", "dev"):
        (source / part).mkdir(parents=True)
        for name, text in (("news.tsv", NEWS), ("behaviors.tsv", ROWS)):
            (blobs / f"{part}-{name}").write_text(text)
            (source / part / name).symlink_to(blobs / f"{part}-{name}")
    (source / "again").symlink_to(source)
    (source / "elsewhere").symlink_to("/")
    assert sorted(m.name for m in mind.list_members(source)) == [f"{p}/{n}" for p in ("dev", "train") for n in ("behaviors.tsv", "news.tsv")]
    assert set(prepare("mind-small", LENIENT, source)["parts"]) == {"train", "dev"}


def test_what_is_no_file_is_not_waited_for(tmp_path):
    """A pipe, a folder or a dangling link called news.tsv is none; reading a pipe would never end."""
    os.mkfifo(tmp_path / "news.tsv")
    (tmp_path / "a" / "news.tsv").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "news.tsv").symlink_to(tmp_path / "nowhere")
    assert mind.list_members(tmp_path) == []


def test_names_in_zips_are_bounded(tmp_path):
    """The largest files of MIND pass; nothing five times as large, or denser than text, does."""
    info = zipfile.ZipInfo("news.tsv")
    for size, packed, fine in (
        (1_373_844_151, 400_000_000, True),
        (zips.MAX_BYTES + 1, zips.MAX_BYTES, False),
        (100 << 20, 1 << 20, False),
    ):
        info.file_size, info.compress_size = size, packed
        assert (zips.fault_of(info, 9 << 30) is None) == fine


# tables --------------------------------------------------------------------------------------------------------------


def test_long_cells_are_read_and_broken_lines_set_aside(home, tmp_path):
    """Between commas: a cell of 200 kB in quotes is a cell; a carriage return within a line sets its row aside, and is counted."""
    (tmp_path / "in").mkdir()
    sound = "".join(f"u{u},i{i},{i}\n" for u in range(3) for i in range(5))
    (tmp_path / "in" / "interactions.csv").write_bytes(f'user,item,timestamp\n{sound}u9,"{"x" * 200_000}",1\nu9,x\ry,"1"\n'.encode())
    (found,) = prepare("movies", load_dataset("movies", max_bad=1.0), tmp_path / "in")["files"]
    assert found["set_aside"] == {"columns": 1} and found["rows_out"] == 16


@pytest.mark.parametrize("data", [b"N1,\xff\n", b"N1," + b"x" * 200_000 + b"\n", b'N1,"a\0b\n'], ids=["latin-1", "long cell", "nul"])
def test_tables_of_ids_that_are_none(data, tmp_path):
    """--ids with bytes that are no table matches nothing or is refused, in a sentence."""
    (tmp_path / "t.csv").write_bytes(data)
    columns = (np.array(["", x], object) for x in ("N2", "c", "s", "t", "a", "u"))
    with pytest.raises(NrmsError):
        im_mind.names_of_images(Items(*columns), tmp_path / "t.csv")


class Evil:
    """Pickled, it writes a file when somebody unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "was here")


@pytest.mark.parametrize("kind", ["objects", "pickle", "npz", "header", "shape", "empty"])
def test_vectors_are_numbers_or_refused(kind, home, tmp_path):
    """text.npy with pickled objects, a pickle, a zip of arrays, a broken header, a shape larger than the file, nothing at all."""
    (source := tmp_path / "in").mkdir()
    (source / "interactions.tsv").write_text("user\titem\ttimestamp\n" + "".join(f"u\ti{i}\t{i}\n" for i in range(5)))
    (source / "items.tsv").write_text("item\ttitle\n" + "".join(f"i{i}\tt\n" for i in range(5)))
    path, evil = source / "text.npy", Evil(tmp_path / "evil")
    if kind == "objects":
        np.save(path, np.array([evil] * 5, object), allow_pickle=True)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(evil))
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, a=np.zeros((5, 2)))
    elif kind == "header":
        np.save(path, np.zeros((5, 2)))
        path.write_bytes(path.read_bytes().replace(b"(5, 2)", b"(5, 2 "))
    elif kind == "shape":
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (5, 10**9)})
    else:
        path.write_bytes(b"")
    with pytest.raises(NrmsError, match=r"text\.npy"):
        prepare("movies", load_dataset("movies"), source)
    assert not (tmp_path / "evil").exists()


# pictures ------------------------------------------------------------------------------------------------------------


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *more, pixels=b""):
    """A PNG that claims to be so large, with more chunks."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(pixels or bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(more) + body + chunk(b"IEND", b"")


def saved(image, kind, **options):
    image.save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
BAD = {
    "bomb": (png(50_000, 50_000), "size"),
    "nothing": (png(0, 10), "format"),
    "text bomb": (png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80 << 20))), pixels=bytes(8 * 25)), "broken"),
    "too few pixels": (png(500, 500), "broken"),
    "cut": (saved(NOISE, "JPEG")[:1500], "broken"),
    "cut webp": (saved(NOISE, "WEBP")[:500], "broken"),
    "bmp": (saved(NOISE, "BMP"), "format"),
    "tiff": (saved(NOISE, "TIFF"), "format"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "format"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/x) (w) file\n", "format"),
    "empty": (b"", "format"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_a_reason(name, tmp_path):
    """Whatever its name says, a picture that is too large, cut off or of another format is a reason, and memory is not spent on it."""
    data, reason = BAD[name]
    (tmp_path / "N1.jpg").write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert decode(tmp_path / "N1.jpg", 16) == reason
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KB


def oriented():
    """Left half red, right half blue, said to be turned by a quarter: red belongs to the top."""
    image = Image.new("RGB", (40, 40), "red")
    image.paste("blue", (20, 0, 40, 40))
    (exif := Image.Exif())[0x0112] = 6
    return saved(image, "JPEG", exif=exif, quality=95)


ODD = {
    "png called jpg": (saved(Image.new("RGB", (9, 9), "red"), "PNG"), [255, 0, 0]),
    "cmyk": (saved(Image.new("CMYK", (40, 40), (0, 255, 255, 0)), "JPEG"), [255, 0, 0]),
    "16 bit grey": (saved(Image.fromarray(np.full((40, 40), 0x4D4D, np.uint16)), "PNG"), [0x4D] * 3),
    "palette": (saved(Image.new("RGB", (40, 40), (0, 255, 0)).convert("P"), "PNG"), [0, 255, 0]),
    "transparent": (saved(Image.new("RGBA", (40, 40), (0, 0, 0, 0)), "PNG"), [255, 255, 255]),
    "one bit": (saved(Image.new("1", (40, 40), 1), "PNG"), [255, 255, 255]),
    "animated": (
        saved(Image.new("RGB", (40, 40), "red"), "WEBP", save_all=True, append_images=[Image.new("RGB", (40, 40), "blue")], lossless=True),
        [255, 0, 0],
    ),
    "turned": (oriented(), [255, 0, 0]),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_look_as_in_a_browser(name, tmp_path):
    """CMYK, 16 bits, a palette, transparency on white, the first frame, upright by EXIF: the colour at the top is what one sees."""
    data, colour = ODD[name]
    (tmp_path / "N1.jpg").write_bytes(data)
    pixels = decode(tmp_path / "N1.jpg", 16)
    assert pixels.shape == (16, 16, 3) and np.abs(pixels[2, 2:14].astype(int) - colour).max() < 8


def test_any_damage_to_a_picture_is_a_reason(tmp_path):
    """Bytes changed at random, those of EXIF among them: pixels or a reason, never an error, and no remark on the terminal."""
    (exif := Image.Exif())[0x0112] = 6
    exif[0x010E] = "words"
    seeds = [saved(NOISE, kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP")] + [saved(NOISE, "JPEG", exif=exif, progressive=True)]
    rng, ends = random.Random(1), {True: 0, False: 0}
    for _ in range(1500):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 3))):
            data[rng.randrange(min(len(data), rng.choice((60, 200, len(data)))))] = rng.choice((0, 255, rng.randrange(256)))
        (tmp_path / "N1.jpg").write_bytes(data)
        found = decode(tmp_path / "N1.jpg", 16)
        assert not isinstance(found, str) or found in images.REASONS
        ends[isinstance(found, str)] += 1
    assert min(ends.values()) > 100


def test_folders_of_pictures_may_hold_anything(tmp_path):
    """Folders, pipes, dangling links and names that are no ids are no pictures; a link to one is."""
    (folder := tmp_path / "in").mkdir()
    (folder / "N1.jpg").mkdir()
    os.mkfifo(folder / "N2.png")
    (folder / "N3.png").symlink_to(tmp_path / "nowhere")
    NOISE.save(tmp_path / "real.png")
    (folder / "N4.png").symlink_to(tmp_path / "real.png")
    (folder / "..jpg").write_bytes(b"x")
    facts = images.write_store(folder, ["", "N1", "N2", "N3", "N4", "../real"], 16, tmp_path / "s.npy")
    assert facts["found"] == 1 and facts["missing"] == 4 and images.read_store(tmp_path / "s.npy").present.tolist() == [False] * 4 + [True, False]


def test_pictures_are_found_or_counted(tmp_path):
    """In folders, with any suffix of a format that is read, in any case; what is passed over, and a name that is there twice, is counted."""
    for name in ("N1.JPG", "deep/er/N2.jpeg", "a/N3.gif", "b/N3.png", "N4.jfif", "N9.Png", "N5.bmp", "N6.tif", "list", ".N7.jpg"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {".gif": "GIF", ".png": "PNG", ".bmp": "BMP", ".tif": "TIFF"}.get(path.suffix.lower(), "JPEG")
        Image.new("RGB", (8, 8), "red" if name.startswith("b/") else "blue").save(path, kind)
    facts = images.write_store(tmp_path / "in", ["", *(f"N{i}" for i in range(1, 8))], 16, tmp_path / "s.npy")
    assert facts == {"found": 4, "missing": 3, "bad": {}, "unknown": 1, "twice": 1, "others": {".bmp": 1, ".tif": 1, "": 1}}
    assert images.read_store(tmp_path / "s.npy").values[3, 8, 8].argmax() == 2, "of two the first"


# parameters ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def params(tmp_path, monkeypatch):
    """A copy of params/ that a test may spoil."""
    shutil.copytree(ROOT / "params", tmp_path / "params")
    monkeypatch.setattr(params_files, "ROOT", tmp_path)
    monkeypatch.setattr(params_files, "PARAMS", tmp_path / "params")
    return tmp_path / "params"


def laughs(levels):
    """YAML whose last name stands for 9 ** levels words."""
    lines = ["x0: &x0 [lol]"] + [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join([*lines, f"epochs: *x{levels - 1}"])


@pytest.mark.parametrize(
    "text, says",
    [
        ("epochs: !!python/object/apply:os.mkdir ['evil']", "could not determine a constructor"),
        ("epochs: !!python/name:os.system", "could not determine a constructor"),
        (laughs(9), "aliases"),
        ("terms: &a {l2: *a}", "aliases"),
        ("epochs: 1\nepochs: 2", "twice"),
        ("question: " + "[" * 3000 + "]" * 3000, "is not YAML"),
        (b"question: \xe9", "is not YAML"),
        ("question: a\0b", "is not YAML"),
        ("question: 2020-13-45", "is not YAML"),
        ("epochs: 0x_", "is not YAML"),
        ("epochs: " + "9" * 5000, "is not YAML"),
        ("lr: .inf", "finite"),
        ("- a", "must hold `name: value` lines"),
        ("1: 2", "Keys should be strings"),
        ("terms: [" + "x, " * 5000 + "]", "...], a value of type list"),
        ("#" + "x" * (1 << 20), "no file of parameters"),
    ],
)
def test_params_files_are_plain(text, says, params):
    """Tags of Python, aliases that stand for gigabytes, endless nesting, bytes that are no text: one short sentence, and nothing ran."""
    (params / "bad.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(NrmsError) as error:
        resolve("bad")
    assert says in str(error.value) and len(str(error.value)) < 600 and not Path("evil").exists()


def test_a_params_file_does_not_lead_out_of_params(params, tmp_path):
    """A link to a file elsewhere is refused without a word of what stands there; one inside params is a second name."""
    (tmp_path / "secret.yaml").write_text("question: secret")
    (params / "out.yaml").symlink_to(tmp_path / "secret.yaml")
    with pytest.raises(NrmsError, match="leads out of params") as error:
        resolve("out")
    assert "question" not in str(error.value)
    (params / "again.yaml").symlink_to(params / "exp4.yaml")
    assert resolve("again").text == "bert"
    (params / "data" / "out.yaml").symlink_to(tmp_path / "secret.yaml")
    with pytest.raises(NrmsError, match="leads out of params"):
        load_dataset("out")


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../x",
        "a/b",
        "a\\b",
        "/etc/passwd",
        "a\n",
        "a\0",
        "\x1b[31m",
        "newsr\u043eom",
        "\uff14",
        "\u00b2",
        "x\u200b",
        "x\u202e",
        "A",
        "-x",
        "a" * 41,
    ],
)
def test_names_are_names_and_nothing_else(name):
    """No separator, no dot, no control character, no letter that only looks like one; the sentence shows what cannot be seen."""
    for given in ({"exp": name}, {"dataset": name}, {"name": name}):
        with pytest.raises(NrmsError, match="is not a name") as error:
            resolve(**given)
        assert str(error.value).isascii() and str(error.value).isprintable()


# weights -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_a_pickle_is_no_checkpoint(kind, tmp_path, model, config):
    """evaluate --checkpoint and start: refuse it without unpickling, whatever its name."""
    path, evil = tmp_path / "best.safetensors", Evil(tmp_path / "evil")
    if kind == "torch":
        torch.save({"a": evil}, path)
    else:
        path.write_bytes(pickle.dumps(evil))
    with pytest.raises(NrmsError, match="not a checkpoint"):
        main(["evaluate", "4", "--checkpoint", str(path), "--dataset", "newsroom-tiny"])
    with pytest.raises(NrmsError, match="not a checkpoint"):
        begin(model, config.model_copy(update={"start": str(path)}))
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("state", ["{", "[]", "NaN", '{"config": []}', "[" * 100_000], ids=["half", "list", "number", "config", "deep"])
def test_headers_that_are_no_state(state, tmp_path):
    """Safetensors of somebody else, with a header that is no record of ours."""
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors", {"state": state})
    with pytest.raises(NrmsError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize("state", [{}, {"config": {}}, {"config": {"data": 3}}])
def test_a_state_without_its_parts_fits_nothing(state, config, tiny):
    """What a checkpoint does not say is no match."""
    with pytest.raises(NrmsError, match="holds no finished model"):
        check_fits(Path("x"), state, config, tiny)


@pytest.fixture
def folder(tmp_path):
    """A sound folder of a small BERT."""
    model = BertModel(BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
    model.save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a")))
    return tmp_path / "bert"


def encoder(folder):
    return load_tower(str(folder), "bert", "text", projected=False)


def edit(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def only_a_pickle(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"a": Evil(folder / "evil")}, folder / "pytorch_model.bin")


def sound_weights_in_a_pickle(folder):
    torch.save(encoder(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def code_of_its_own(folder):
    edit(folder, model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoModel": "evil.M"})


SPOIL = {
    "only a pickle": only_a_pickle,
    "sound weights in a pickle": sound_weights_in_a_pickle,
    "code of its own": code_of_its_own,
    "half a config": lambda folder: (folder / "config.json").write_text("{"),
    "half the weights": lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:200]),
    "other shapes": lambda folder: edit(folder, hidden_size=16),
    "wrong types": lambda folder: edit(folder, hidden_size="x"),
}


@pytest.mark.parametrize("how", SPOIL)
def test_spoilt_models_are_refused(how, folder):
    """Safetensors only, complete, and no code: anything else is one sentence, and nothing of it runs."""
    assert encoder(folder).config.hidden_size == 8
    (folder / "evil.py").write_text(f"open({str(folder / 'evil')!r}, 'w')")
    SPOIL[how](folder)
    with pytest.raises(NrmsError, match="cannot be read: it must be as save_pretrained writes it"):
        encoder(folder)
    assert not (folder / "evil").exists()


def test_code_beside_a_model_of_a_known_kind_is_not_run(folder):
    """auto_map is passed over where the kind of model is one of transformers' own; a tokenizer's too."""
    (folder / "evil.py").write_text(f"open({str(folder / 'evil')!r}, 'w')")
    edit(folder, auto_map={"AutoConfig": "evil.C", "AutoModel": "evil.M"})
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "auto_map": {"AutoTokenizer": ["evil.T", "evil.T"]}})
    )
    assert isinstance(encoder(folder), BertModel)
    load_pretrained(AutoTokenizer, str(folder), "bert")
    assert not (folder / "evil").exists()


def test_a_model_of_the_hub_is_asked_for_safe_weights(monkeypatch):
    """What is downloaded is asked for in safetensors, and without leave to run code."""
    asked = {}

    def from_pretrained(path, **options):
        asked.update(options)
        raise OSError("no network")

    monkeypatch.setattr(AutoModel, "from_pretrained", from_pretrained)
    with pytest.raises(NrmsError, match="must be there as safetensors"):
        load_pretrained(AutoModel, "somebody/model", "bert")
    assert asked["use_safetensors"] is True and asked["trust_remote_code"] is False


# pages ---------------------------------------------------------------------------------------------------------------


def test_titles_are_text_in_every_table(tiny, split):
    """HTML in titles, categories, ids and names of files is shown, not obeyed."""
    news = tiny.items
    evil = Items(*(np.array([SCRIPT] * len(news), object) for _ in range(6)))
    manifest = {"files": [{"file": f"{SCRIPT}/news.tsv", "rows_in": 1, "rows_out": 1, "set_aside": {}, "repaired": {}, "noted": {SCRIPT: 1}}]}
    manifest["example"] = {"lines": [{"file": SCRIPT, "line": 1, "text": SCRIPT}]}
    row = typical(split.train)
    tables = [summary.history(evil, split.train, row), summary.slate(evil, split.train, row), summary.data_report(manifest)]
    tables += [summary.raw(manifest), summary.record(evil, 1)]
    tables.append(notebook_output.readable(pd.DataFrame({SCRIPT: [1.23456]}, index=[SCRIPT])))
    for table in tables:
        text = table.to_html()
        assert SCRIPT not in text and "&lt;script&gt;" in text
    assert "1.235" in text


def test_what_runs_say_is_text_on_the_page(home):
    """Names, status and errors of run folders that came from elsewhere."""
    run = Run(run_folder("<b>data", "<i>exp", 0))
    run.begin(kind="model", family="a")
    run.update(status=f'failed"><u>{SCRIPT}', error=SCRIPT)
    text = index_page.write()[1].read_text()
    assert not any(tag in text for tag in (SCRIPT, "<b>data", "<i>exp", "<u>", 'failed">')) and text.count("&lt;script&gt;") >= 2


def test_dollars_in_titles_are_dollars():
    """Matplotlib would read formulas between them, and stop at a wrong one."""
    title = r"Costs $\frac{1$ or more"
    figure = figures.pictures({title: np.zeros((4, 4, 3), np.uint8), "Plain": np.zeros((4, 4, 3), np.uint8)})
    figure.savefig(io.BytesIO())
    assert figure.axes[0].get_title().replace("\n", " ") == title
