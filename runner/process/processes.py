"""The processes that a start of the command has started: marked, so that what outlives it can be ended."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

MAX_WAIT_S = 10.0
PAUSE_S = 0.01
MARK = "PIX2PIX_RUNNER_START"


@contextlib.contextmanager
def marked(token: str) -> Iterator[None]:
    """Processes that begin inside the block, and all that they begin, carry the mark of this start."""
    os.environ[MARK] = token
    try:
        yield
    finally:
        del os.environ[MARK]


def end_marked(token: str) -> int:
    """Kills what carries the mark of a start, this process aside, and waits for its end; how many there were.

    One of them may be starting another while it is looked for: it is looked again until there is none.
    A worker that outlives a killed command can't write any more, but it holds its GPU's memory; Ray's
    agents stay for more than a minute.
    """
    ended: set[int] = set()
    deadline = time.monotonic() + MAX_WAIT_S
    while time.monotonic() < deadline:
        found = kill_marked(f"{MARK}={token}".encode())
        ended |= found
        if not found and not any(map(is_alive, ended)):
            break
        time.sleep(PAUSE_S)
    return len(ended)


def is_alive(pid: int) -> bool:
    """False where there is no such process, or only its exit code is left of it.

    A killed process has its memory, and with it its environment, taken away before it is gone.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def is_running(name: str, token: str) -> bool:
    """True where a process of this name carries the mark of a start; a zombie does not count."""
    mark = f"{MARK}={token}".encode()
    for command in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            environment = command.parent / "environ"
            if command.read_text().strip() == name and mark in environment.read_bytes().split(b"\0"):
                return True
    return False


def kill_marked(mark: bytes) -> set[int]:
    """One look at all processes; a zombie has no environment any more."""
    ended = set()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(environment.parent.name)
            if pid != os.getpid() and mark in environment.read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)
                ended.add(pid)
    return ended


def children(name: str) -> list[int]:
    """The processes of this name that this one has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            before, _, after = stat.read_text().rpartition(")")
            if before.partition("(")[2] == name and int(after.split()[1]) == os.getpid():
                found.append(int(stat.parent.name))
    return found
