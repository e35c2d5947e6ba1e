"""Asking a run to stop: handlers only set a flag, everything else happens in the loops that look at it."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

from runner.errors import Exit

INTERRUPT = "Ctrl-C"
TERMINATED = "SIGTERM"
TIME_LIMIT = "time limit"


@dataclass
class StopFlag:
    """What signal handlers and the time limit set; the reason is the one that came first.

    Attributes:
        deadline: by time.monotonic(), when the command must have ended; None for no limit.
        allowance_s: how long before the deadline to stop, so that a step, a save and Ray's end fit in.
        before_exit: called where there is no time for anything else, to leave no process behind.
    """

    reason: str = ""
    deadline: float | None = None
    allowance_s: float = 0.0
    before_exit: Callable[[], object] = lambda: None

    def set(self, reason: str) -> None:
        """Asks all trials to stop."""
        self.reason = self.reason or reason

    def is_due(self, more_s: float = 0.0) -> bool:
        """True once there is a reason; the time limit becomes one when it is near.

        Args:
            more_s: seconds to add to the allowance.
        """
        if self.deadline is not None and time.monotonic() > self.deadline - self.allowance_s - more_s:
            self.set(TIME_LIMIT)
        return bool(self.reason)


class Stopped(Exception):
    """The run was asked to stop before its trials began; the flag has the reason."""


MIN_ALLOWANCE_S, MAX_ALLOWANCE_S, ALLOWANCE_SHARE = 8.0, 60.0, 0.05


def stop_flag(started: float, limit_s: float | None) -> StopFlag:
    """A flag for a command that began at `started` and may take `limit_s`."""
    if limit_s is None:
        return StopFlag()
    return StopFlag("", started + limit_s, min(max(MIN_ALLOWANCE_S, ALLOWANCE_SHARE * limit_s), MAX_ALLOWANCE_S))


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
            stop.before_exit()
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
