"""Asking a run to stop: handlers only set a flag, everything else happens in the loops that look at it."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

from runner.errors import Exit

INTERRUPT = "Ctrl-C"
TERMINATED = "SIGTERM"


@dataclass
class StopFlag:
    """What signal handlers and the time limit set; the reason is the one that came first."""

    reason: str = ""

    def set(self, reason: str) -> None:
        """Asks all trials to stop."""
        self.reason = self.reason or reason


@contextlib.contextmanager
def stop_signals(stop: StopFlag) -> Iterator[Callable[[], None]]:
    """SIGTERM and Ctrl-C set the flag; a second Ctrl-C ends the process at once.

    Yields:
        What puts the handlers in place again, for after a library has put its own there, as Ray does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # only the main thread can handle signals; then stopping is the caller's
        return

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if stop.reason == INTERRUPT:
            os.write(2, b"\nended at once; the same command goes on from the last checkpoint\n")
            os._exit(Exit.INTERRUPTED)
        stop.set(INTERRUPT)

    def on_terminate(number: int, frame: FrameType | None) -> None:
        stop.set(TERMINATED)

    handlers = {signal.SIGINT: on_interrupt, signal.SIGTERM: on_terminate}

    def install() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    previous = {number: signal.getsignal(number) for number in handlers}
    install()
    try:
        yield install
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
