"""How is a file written so that it is whole or not there? Atomic files and folders, tables, JSON."""

import contextlib
import errno
import glob
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil


def process_started(pid: int) -> float | None:
    """When this process began, in seconds since 1970; None if there is none. Tells a process from a later one with the same number."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def beside(path: Path, kind: str) -> Path:
    """Where what is to stand at `path` is made (`part`), or what stood there is kept for a moment (`old`); hidden, and named after this process."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{kind}")


LEFT_OVER = re.compile(rf"\.(?P<name>.+)\.{re.escape(socket.gethostname())}\.(?P<pid>\d+)\.(?P<kind>part|old)")


def left_over(path: Path) -> re.Match[str] | None:
    """What the name of `path` says (name, pid, kind), where a process of this machine that is gone left it unfinished."""
    match = LEFT_OVER.fullmatch(path.name)
    return match if match and process_started(int(match["pid"])) is None else None


def sweep(path: Path) -> None:
    """Clears away what processes of this machine that were killed left beside `path`; a folder killed between its two renames is put back."""
    for file in path.parent.glob(f".{glob.escape(path.name)}.*"):
        match = left_over(file)
        if not match or match["name"] != path.name:
            continue
        if match["kind"] == "old" and not path.exists():
            file.rename(path)
        elif file.is_dir():
            shutil.rmtree(file, ignore_errors=True)
        else:
            file.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Hands what was written there to the disk: a rename that survives a power cut must not stand for bytes that do not."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():  # some file systems cannot do so with folders
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; when the block ends well it is flushed to disk and renamed to `path`, else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = beside(path, "part")
    sweep(path)
    try:
        yield part
        flush(part)
        os.replace(part, path)
        flush(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside `path`; when the block ends well it takes the place of `path`, else it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part, old = beside(path, "part"), beside(path, "old")
    sweep(path)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        for file in part.rglob("*"):
            flush(file)
        if path.exists():
            path.rename(old)
        part.rename(path)
        flush(path.parent)
    finally:
        if old.exists() and not path.exists():  # the second rename failed
            old.rename(path)
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def new_table(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """A .npy file of zeros, memory-mapped, whose room on the disk is taken now: a full disk is an OSError here, and not the end of the process
    (SIGBUS) where a value is set."""
    table = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return table


def write_text(path: Path, text: str) -> None:
    with atomic(path) as part:
        part.write_text(text)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())
