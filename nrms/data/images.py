"""Which pictures are there, and can they be decoded safely? For now: a few, to be looked at."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP")
PIXELS = 30_000_000  # a larger picture is not decoded


def read_folder(folder: Path, ids: Sequence[str], most: int) -> dict[str, Image.Image]:
    """The first `most` pictures named <id>.png, .jpg or .webp in `folder`, by id; none where there is no folder."""
    found: dict[str, Image.Image] = {}
    for name in ids:
        for path in (folder / f"{name}{suffix}" for suffix in (".png", ".jpg", ".webp")):
            if path.is_file() and len(found) < most:
                with Image.open(path, formats=FORMATS) as image:
                    if image.width * image.height <= PIXELS:
                        found[str(name)] = image.convert("RGB")
    return found
