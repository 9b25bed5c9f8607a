"""How does a command end on a terminal? Text that a terminal can print, and errors as sentences with a status."""

import os
import signal
import sys
from collections.abc import Callable

from nrms import STOPPED, Stopped
from nrms.runtime import errors


def printable(text: str) -> str:
    """The text for a terminal: lines as they are, spaces of every kind as plain ones, and � for what would not print but be obeyed, as escapes are.

    Joiners (U+200C, U+200D) stay: words of some scripts need them.
    """
    return "".join(c if c.isprintable() or c in "\n\u200c\u200d" else " " if c.isspace() else "\ufffd" for c in text)


def command(main: Callable[[], int | None]) -> None:
    """Runs `main` and ends the process with its status; an error of ours, or of the machine, is one sentence, not a traceback.

    To be told to end (SIGTERM), or that the terminal has gone (SIGHUP), is the same as Ctrl-C.
    """
    for name in ("SIGTERM", "SIGHUP"):
        if signal.getsignal(getattr(signal, name)) == signal.SIG_DFL:  # under nohup it is ignored, and stays so
            signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        sys.exit(main())
    except (Stopped, KeyboardInterrupt) as error:
        print(f"nrms: {error}" if isinstance(error, Stopped) else "nrms: stopped; the same command goes on where it was.", file=sys.stderr)
        sys.exit(STOPPED)
    except BrokenPipeError:  # whoever read what we print has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        text = errors.sentence(error)
        if text is None:
            raise
        sys.exit(printable(f"nrms: {text}"))
