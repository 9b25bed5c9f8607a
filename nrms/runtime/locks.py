"""How does one process at a time do a thing? Locks that fall with their process, and say who holds them."""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nrms import NrmsError
from nrms.runtime.progress import say_waiting

LOCK_WAIT_SECONDS = 2  # seconds of waiting for another process before it is said


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """While the block runs nobody else is in a block of the same `path`, which need not exist: the second waits, and says for whom.

    wait=False: raises NrmsError instead. A lock falls with its process, however that ends. Not reentrant. Where nothing may be written nothing is
    made, so nothing is locked.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f".{path.name}.lock").open("a+")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        yield
        return
    with file:
        if not take_lock(file, LOCK_WAIT_SECONDS if wait else 0):
            file.seek(0)
            name = file.read()
            holder = f"process {name}" if name else "another process"
            if not wait:
                raise NrmsError(f"{path} is being worked on by {holder}; wait for it or stop it first.")
            say_waiting(f"nrms: waiting for {holder}, which is busy with {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(OSError):  # on a full disk the lock holds without a name in it
            file.truncate(0)
            file.write(f"{os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield


def take_lock(file: IO[str], seconds: float) -> bool:
    """Whether the lock could be had within `seconds`. Where the disk knows no locks it is had at once."""
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.05)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):
                raise
            return True
