"""Ends a command that was asked to stop and waits for a Ray that is gone, or does not let it join: for minutes.

A supervisor may send SIGTERM to all processes of a command, Ray's included. A cluster's head may answer and hang.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator

from runner.console import Console
from runner.process.stop_request import StopRequest
from runner.sweep.backends import Backend

INTERVAL_S = 0.5
_GRACE_S = 5.0


@contextlib.contextmanager
def ray_watchdog(backend: Backend, stop: StopRequest, console: Console) -> Iterator[None]:
    """Ends this process where it was asked to stop, has been without Ray for a while, and the block is not over."""
    over = threading.Event()
    thread = threading.Thread(
        target=_watch, args=(backend, stop, console, over), name="ray_watchdog", daemon=True
    )  # fmt: skip
    thread.start()
    try:
        yield
    finally:
        over.set()


def _watch(backend: Backend, stop: StopRequest, console: Console, over: threading.Event) -> None:
    lost_at = None
    while not over.wait(INTERVAL_S):
        if loss := backend.loss():
            stop.set(loss)
        # The loss must last for _GRACE_S: until then the command may still end by itself. Nobody else looks at the
        # deadline while Ray is waited for.
        if not (stop.is_due() and backend.is_lost()):
            lost_at = None
            continue
        lost_at = lost_at or time.monotonic()
        if time.monotonic() - lost_at < _GRACE_S:
            continue

        # All that counts is on the disk already.
        console.end()
        console.print(f"stopped ({stop.reason}), without Ray; the same command goes on from the last checkpoint")
        # os._exit runs no cleanup and flushes nothing: both come before it.
        stop.before_exit()
        console.rich.file.flush()
        os._exit(stop.exit_code)
