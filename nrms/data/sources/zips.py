"""What may be read of a zip? Zips come from the internet: they are read in place and never unpacked, so nothing can be written outside a folder.

Entries that nobody asks for are left alone, whatever they are called; zips inside zips are not opened. One that is asked for must be a plain file of
honest size, or it is refused in a sentence before memory is spent on it.
"""

import contextlib
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TypeVar

from nrms import NrmsError
from nrms.data.sources.rows import Member

T = TypeVar("T")
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others can make gigabytes of one small piece
MAX_BYTES = 8 << 30  # of one file; the largest of MIND-large has 1.4 GB
MAX_RATIO = 50  # times smaller when packed; files of MIND are 3 to 4 times smaller, made-up ones of the same few words about 20 times
HARMLESS_BYTES = 64 << 20  # may be packed as densely as they like


def fault_of(info: zipfile.ZipInfo, size: int) -> str | None:
    """Why an entry of a zip of `size` bytes is not read; None for a plain file."""
    if PurePosixPath(info.filename).is_absolute() or ".." in PurePosixPath(info.filename).parts:
        return "has a path that leads out of the zip"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link, not a file"
    if info.flag_bits & 1:
        return "is encrypted"
    if info.compress_type not in METHODS:
        return "is packed with another method than deflate"
    packed = max(min(info.compress_size, size), 1)  # a header may say more than there is
    if info.file_size > MAX_BYTES or info.file_size > max(MAX_RATIO * packed, HARMLESS_BYTES):
        return f"would unpack from {packed:,} to {info.file_size:,} bytes, which no file of a data set does"
    return None


class Entry(contextlib.AbstractContextManager):
    """An entry of a zip, open for reading; no more comes out than its header says, and damage is a sentence."""

    def __init__(self, path: Path, info: zipfile.ZipInfo):
        self.where = f"{info.filename} in {path}"
        self.file = self.guarded(lambda: zipfile.ZipFile(path).open(info))

    def guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
            raise NrmsError(f"{self.where} is damaged ({error}); get the zip again.") from None

    def read(self, size: int = -1) -> bytes:
        return self.guarded(lambda: self.file.read(size))

    def __exit__(self, *_) -> None:
        self.file.close()


def entries(path: Path, names: tuple[str, ...], prefix: str = "") -> list[Member]:
    """The files of a zip that are called one of `names`, in whatever folder; their names begin with `prefix`, or that of the zip.

    Raises NrmsError for a broken zip, and for such an entry that is no plain file.
    """
    try:
        with zipfile.ZipFile(path) as file:
            infos = [info for info in file.infolist() if info.filename.rsplit("/", 1)[-1] in names]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        raise NrmsError(f"{path} is not a complete zip file; download it again.") from None
    for info in infos:
        if fault := fault_of(info, path.stat().st_size):
            raise NrmsError(f"{info.filename} in {path} {fault}: it is not read. Is this the zip that its makers made?")
    return [Member(f"{prefix or path.name}/{info.filename}", lambda info=info: Entry(path, info)) for info in infos]
