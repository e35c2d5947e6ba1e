"""The end of a command that was asked to stop and has lost its Ray, which nothing else would bring about for minutes.

A supervisor may send SIGTERM to every process there is of a command, Ray's included. Whoever waits for Ray
then waits in vain.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator

from runner.console import Console
from runner.errors import Exit
from runner.process.stop_request import INTERRUPT, StopRequest
from runner.sweep.backends import Backend

INTERVAL_S = 0.5
GRACE_S = 5.0


@contextlib.contextmanager
def ray_watchdog(backend: Backend, stop: StopRequest, console: Console) -> Iterator[None]:
    """Ends this process where its Ray is gone for a while and it is still there, once it was asked to stop."""
    over = threading.Event()
    thread = threading.Thread(target=watch, args=(backend, stop, console, over), name="losing", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def watch(backend: Backend, stop: StopRequest, console: Console, over: threading.Event) -> None:
    """Looks until the block is over; everything that is known then is on the disk already."""
    lost_at = None
    while not over.wait(INTERVAL_S):
        if not (stop.reason and backend.is_lost()):
            lost_at = None
            continue
        lost_at = lost_at or time.monotonic()
        if time.monotonic() - lost_at < GRACE_S:
            continue
        console.end()
        console.print(f"stopped ({stop.reason}), and Ray with it; the same command goes on from the last checkpoint")
        stop.before_exit()
        console.rich.file.flush()
        os._exit(Exit.INTERRUPTED if stop.reason == INTERRUPT else Exit.STOPPED)
