"""Which item has an image, and what are its pixels? A folder of <name>.jpg|png|webp|gif, and folders in it -> one memory-mapped array.

Files come from the internet: formats are limited, the size is checked before anything is decoded, and every image is decoded whole once. A file
that cannot be used is counted by reason and treated as no image.
"""

import contextlib
import hashlib
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nrms import NrmsError
from nrms.runtime.files import atomic, new_table
from nrms.runtime.progress import progress

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")  # of one that moves the first picture
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif")
MAX_PIXELS = 30_000_000  # of an image that is decoded
REASONS = {
    "format": "not a JPEG, PNG, WebP or GIF, whatever its name says",
    "size": f"more than {MAX_PIXELS:,} pixels, or none",
    "broken": "cut off or damaged",
    "card": "no IM-MIND card of 610 x 195 pixels",
    "blank": "a card whose cover is white: it had none",
}


@dataclass(frozen=True)
class Pixels:
    """Images of all items. Row i belongs to item i; rows without an image are zero and absent."""

    values: "np.ndarray | Stacked"  # (N + 1, S, S, 3) uint8, memory-mapped
    present: np.ndarray  # (N + 1,) bool


class Stacked:
    """Two tables of images, one behind the other, of which rows are read by number; neither is copied."""

    def __init__(self, first: np.ndarray, second: np.ndarray):
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        behind = rows >= len(self.first)
        pixels = np.empty((len(rows), *self.first.shape[1:]), self.first.dtype)
        pixels[~behind], pixels[behind] = self.first[rows[~behind]], self.second[rows[behind] - len(self.first)]
        return pixels


Cut = Callable[["Image.Image"], "Image.Image | str"]  # takes the part that matters out of an image, or says why there is none


def decode(path: Path, size: int, cut: Cut | None = None) -> np.ndarray | str:
    """An image as (size, size, 3) uint8, upright, stretched to a square; or the reason (a key of REASONS) why it cannot be used."""
    from PIL import Image, ImageOps, UnidentifiedImageError  # here, for machines that only train have no Pillow

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd EXIF data, and about sizes: our own limit is lower
            with Image.open(path, formats=FORMATS) as image:
                if not 0 < image.width * image.height <= MAX_PIXELS:
                    return "size"
                image.load()
                upright = image
                with contextlib.suppress(Exception):  # torn EXIF, for which Pillow raises whatever comes, does not spoil an image
                    upright = ImageOps.exif_transpose(image)
                if upright.mode.startswith("I"):  # 16 bits of grey, which `convert` would clip to white
                    upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
                if cut is not None:
                    upright = cut(upright)
                    if isinstance(upright, str):
                        return upright
                if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                    upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
                return np.asarray(upright.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    except UnidentifiedImageError:
        return "format"
    except Image.DecompressionBombError:
        return "size"
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, struct.error, TypeError, LookupError, ArithmeticError):
        return "broken"  # decoders raise whatever damaged data make them trip over


def write_store(source: Path, ids: Sequence[str], size: int, target: Path, *, names: Mapping[str, str] | None = None, cut: Cut | None = None) -> dict:
    """Decodes the image of every item (row 0, padding, has none) from the folder `source` into target (a .npy of (N + 1, size, size, 3) uint8).

    names: what the images of items are called; by default by the item ids.
    Returns {found, missing, bad: {reason: count}, unknown, twice, others: {suffix: count}}; found counts usable images, others files that are passed
    over, by their suffix. Raises NrmsError if there is no such folder.
    """
    names = {name: name for name in ids} if names is None else names
    if not source.is_dir():
        raise NrmsError(f"There is no folder {source} with pictures; `--images` takes a folder of <news id>.jpg, .png or .webp files.")
    paths = sorted(path for path in source.rglob("*") if path.is_file() and not path.name.startswith("."))
    pictures = [path for path in paths if path.suffix.lower() in SUFFIXES]
    others = Counter(path.suffix.lower() for path in paths if path.suffix.lower() not in SUFFIXES)
    files = {path.stem: path for path in reversed(pictures)}  # the first of a name
    present, bad = np.zeros(len(ids), bool), Counter()
    with atomic(target) as part:
        store = new_table(part, np.uint8, (len(ids), size, size, 3))
        for i, name in enumerate(progress(ids, "decoding pictures")):
            if i and names.get(name) in files:
                pixels = decode(files[names[name]], size, cut)
                if isinstance(pixels, str):
                    bad[pixels] += 1
                else:
                    store[i], present[i] = pixels, True
        store.flush()
        del store
    with atomic(target.with_suffix(".present.npy")) as part, part.open("wb") as file:
        np.save(file, present)
    usable = int(present.sum())
    missing, unknown = len(ids) - 1 - usable - bad.total(), len(files.keys() - names.values())
    return {
        "found": usable, "missing": missing, "bad": dict(bad), "unknown": unknown, "twice": len(pictures) - len(files), "others": dict(others)
    }  # fmt: skip


def read_store(path: Path) -> Pixels | None:
    """What `write_store` wrote, memory-mapped; None where there is none."""
    if not path.exists():
        return None
    return Pixels(np.load(path, mmap_mode="r"), np.load(path.with_suffix(".present.npy")))


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read once in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()
