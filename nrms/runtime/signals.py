"""How does a process hear that it is to end? SIGTERM and SIGINT as an event that work looks at between its steps."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Interrupted(BaseException):
    """This process is told to end while it does what may be broken off."""


class StopRequest(threading.Event):
    """Set when this process has been told to end."""

    urgent = False

    @contextlib.contextmanager
    def at_once(self, allowed: bool = True) -> Iterator[None]:
        """What is in the block may be broken off: to be told to end raises Interrupted in it, if `allowed`."""
        try:
            self.urgent = allowed
            if allowed and self.is_set():
                raise Interrupted
            yield
        finally:
            self.urgent = False


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """An event that is set when this process is told to end: by a scheduler (SIGTERM), a person, or whoever executes the notebook (SIGINT).

    A second SIGINT is a KeyboardInterrupt. Heard in a main thread alone; what is ignored (as under nohup) stays so.
    """
    request, handlers = StopRequest(), {}

    def hear(number: int, _: object) -> None:
        if number == signal.SIGINT and request.is_set():
            raise KeyboardInterrupt
        request.set()
        if request.urgent:
            raise Interrupted

    try:
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) != signal.SIG_IGN]
            handlers = {number: signal.signal(number, hear) for number in heard}
        yield request
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
