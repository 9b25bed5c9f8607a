"""Starts processes of Python that have torch already: a warm parent forks them, for imports take longer than most of what tests start.

The parent has imported what nrms imports, and has forgotten nrms itself: a child finds that in its own folder, or by its PYTHONPATH. It has computed
nothing, so it has no threads, and to fork it is safe; it ends when its socket is gone. What Python reads as it starts (PYTHONHASHSEED, how many
threads) children have from it: where that matters, and where imports are what is tested, a test starts a real process.
"""

import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SOCKET = Path(os.environ["NRMS_TESTS"]) / "warm"
NUMBER = struct.Struct("i")
PRELOADED = ("nrms.train", "nrms.evaluate", "nrms.doctor", "nrms.report.pages.index_page", "pytest")


class Process:
    """`python WORDS`, with as much of subprocess.Popen as tests need. outputs: files for its stdout and stderr, which `communicate` reads."""

    def __init__(self, words: list[str], env: dict[str, str], cwd: Path, outputs=None):
        self.outputs = outputs or [tempfile.TemporaryFile("w+") for _ in range(2)]
        self.connection = connect()
        request = json.dumps([[str(word) for word in words], env, str(cwd)]) + "\n"
        socket.send_fds(self.connection, [request.encode()], [file.fileno() for file in self.outputs])
        self.pid, self.returncode = self.receive(), None

    def receive(self) -> int:
        return NUMBER.unpack(self.connection.recv(NUMBER.size, socket.MSG_WAITALL))[0]

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.connection.settimeout(timeout)
            try:
                self.returncode = self.receive()
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("a warm process", timeout) from None
        return self.returncode

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        for file in self.outputs:
            file.seek(0)
        out, error = (file.read() for file in self.outputs)
        return out, error

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def executable() -> Path:
    """A program that takes words as Python does, and is a warm process while it runs: for those who start processes themselves, as torchrun does."""
    path = SOCKET.with_name("python")
    if not path.exists():
        part = path.with_name(f"python-{os.getpid()}")
        part.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nimport warm\nwarm.stand_in()\n")
        part.chmod(0o755)
        part.rename(path)
    return path


def stand_in() -> None:
    """Hands the words of this process, and what it is told by signals, to a warm one, and ends as that does."""
    process = Process([word for word in sys.argv[1:] if word != "-u"], dict(os.environ), Path.cwd(), [sys.stdout, sys.stderr])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: process.send_signal(number))
    status = process.wait()
    os.kill(os.getpid(), -status) if status < 0 else sys.exit(status)


def connect() -> socket.socket:
    """A connection to the warm parent of this session, which is started by who needs it first."""
    from nrms.runtime.locks import locked

    with locked(SOCKET):
        if not SOCKET.exists():
            with SOCKET.with_name("warm.log").open("w") as log:
                parent = subprocess.Popen([sys.executable, __file__], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            while not SOCKET.exists():
                assert parent.poll() is None, SOCKET.with_name("warm.log").read_text()
                time.sleep(0.05)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(SOCKET))
    return connection


def serve() -> tuple[list[str], dict[str, str], str]:
    """Answers requests as long as there is a socket; returns in each child, with the words, the environment and the folder it is to have."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{SOCKET}.part")
        server.listen()
        server.settimeout(1)
        os.rename(f"{SOCKET}.part", SOCKET)  # now it answers
        while SOCKET.exists():
            with contextlib.suppress(TimeoutError):
                connection, _ = server.accept()
                if not os.fork():
                    return receive(connection)
                connection.close()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
    sys.exit()


def receive(connection: socket.socket) -> tuple[list[str], dict[str, str], str]:
    """In a process between the parent and the child, which says the child's number and how it ended; returns in the child."""
    connection.setblocking(True)
    request, outputs = b"", []
    while not request.endswith(b"\n"):
        part, files, *_ = socket.recv_fds(connection, 1 << 16, 2)
        request, outputs = request + part, outputs + files
    if child := os.fork():
        connection.sendall(NUMBER.pack(child))
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(BrokenPipeError):
            connection.sendall(NUMBER.pack(os.waitstatus_to_exitcode(status)))
        os._exit(0)
    connection.close()
    for number, file in enumerate(outputs, 1):
        os.dup2(file, number)
    return tuple(json.loads(request))


def forget_nrms() -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == "nrms":
            del sys.modules[name]


if __name__ == "__main__":
    for name in PRELOADED:
        importlib.import_module(name)
    forget_nrms()
    words, env, cwd = serve()
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    first = {"-m": cwd, "-c": ""}.get(words[0], str(Path(words[0]).resolve().parent))
    sys.path[:1] = [first, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
