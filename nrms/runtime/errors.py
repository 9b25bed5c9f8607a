"""What does an error of the machine mean to whoever ran into it? No room, no right to write, no memory: a sentence that says what to do.

An error comes as the name of its class and its text, for from the kernel of a notebook nothing else comes back.
"""

import errno
import re
import shutil
from pathlib import Path

from nrms import NrmsError, home

FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory|unable to allocate|bad_alloc|ALLOC_FAILED", re.IGNORECASE)
LESS = (
    "Training takes less with a smaller batch_size, with encode_at_once (the same gradients, made in parts), or with tuning top or frozen: "
    "`-p encode_at_once 64`, `-p batch_size 16`. Other programs that hold memory may be in the way."
)


def errno_of(kind: str, text: str) -> int | None:
    """The errno of an error, or None. numpy and safetensors say it in their own words."""
    if match := re.search(r"\[Errno (\d+)\]|os error (\d+)", text):
        return int(match[1] or match[2])
    return errno.ENOSPC if kind == "OSError" and re.search(r"\d+ requested and \d+ written", text) else None


def path_in(text: str) -> Path:
    """The file or folder that an error names, as far as it exists; home() where it names none."""
    match = re.search(r"'(/[^']*)'", text)
    path = Path(match[1]) if match else home()
    while not path.exists():
        path = path.parent
    return path


def meaning(kind: str, text: str) -> str | None:
    """A few sentences about an error of class `kind` that says `text`; None where it is not the machine's."""
    if kind == "NrmsError":
        return None
    code = errno_of(kind, text)
    if code in FULL:
        path = path_in(text)
        free = shutil.disk_usage(path).free / 2**20
        return f"The disk with {path} is full ({free:,.0f} MB left): free some of it, or let NRMS_HOME name a folder on another disk."
    if code in FORBIDDEN:
        return f"{path_in(text)} may not be written or read ({text}): give yourself the right to, or let NRMS_HOME name a folder of your own."
    if code == errno.EFBIG:
        return f"A file in {path_in(text)} grew larger than files may become here: raise the limit (`ulimit -f unlimited`) or use another disk."
    if kind == "DeadKernelError":
        return f"The process of the notebook was killed, most often because memory ran out. {LESS}"
    if code == errno.ENOMEM or kind.endswith(("MemoryError", "OutOfMemoryError")) or NO_MEMORY.search(text):
        return f"There was not enough memory. {LESS}"
    return None


def sentence(error: BaseException) -> str | None:
    """What an error says to whoever ran into it; None where it is neither ours nor the machine's."""
    return str(error) if isinstance(error, NrmsError) else meaning(type(error).__name__, str(error))
