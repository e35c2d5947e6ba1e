"""The processes that a start of the command has started: marked, so that what outlives it can be ended."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

MAX_ROUNDS = 20
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
    """Kills what carries the mark of a start, this process aside; how many there were.

    One of them may be starting another while it is looked for: it is looked again until there is none.
    A worker that outlives a killed command can't write any more, but it holds its GPU's memory; Ray's
    agents stay for more than a minute.
    """
    ended = 0
    for _ in range(MAX_ROUNDS):
        found = kill_marked(f"{MARK}={token}".encode())
        ended += found
        if not found:
            break
    return ended


def kill_marked(mark: bytes) -> int:
    """One look at all processes; a zombie has no environment any more."""
    ended = 0
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError, ValueError):
            if int(environment.parent.name) != os.getpid() and mark in environment.read_bytes().split(b"\0"):
                os.kill(int(environment.parent.name), signal.SIGKILL)
                ended += 1
    return ended
