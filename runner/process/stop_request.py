"""Asking a run to stop. Signal handlers only note the reason; the loops that look at it do all the rest."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

from runner.errors import Exit

_INTERRUPT = "Ctrl-C"
_TIME_LIMIT = "time limit"

MIN_ALLOWANCE_S = 8.0
_MAX_ALLOWANCE_S = 60.0
_ALLOWANCE_SHARE = 0.05  # of the time limit


class Stopped(Exception):
    """The run was asked to stop before its trials began. The StopRequest has the reason."""


@dataclass
class StopRequest:
    """Whether the run was asked to stop, and why. The first reason is kept.

    Attributes:
        reason: one of the constants above; "" while nobody has asked.
        deadline: the time.monotonic() at which the command must have ended; None for no limit.
        allowance_s: how long before the deadline to stop, so that a step, a save and Ray's shutdown fit in.
        before_exit: called before the process ends at once, so that no child process is left.
    """

    reason: str = ""
    deadline: float | None = None
    allowance_s: float = 0.0
    before_exit: Callable[[], object] = lambda: None

    @classmethod
    def with_time_limit(cls, started: float, limit_s: float | None) -> "StopRequest":
        """A request that becomes due by itself.

        Args:
            started: the time.monotonic() at which the command began.
            limit_s: seconds that the command may take; None for no limit.
        """
        if limit_s is None:
            return cls()
        allowance_s = min(max(MIN_ALLOWANCE_S, _ALLOWANCE_SHARE * limit_s), _MAX_ALLOWANCE_S)
        return cls(deadline=started + limit_s, allowance_s=allowance_s)

    @property
    def exit_code(self) -> Exit:
        """What a command ends with that was asked to stop."""
        return Exit.INTERRUPTED if self.reason == _INTERRUPT else Exit.STOPPED

    def set(self, reason: str) -> None:
        """Asks all trials to stop."""
        self.reason = self.reason or reason

    def is_due(self, more_s: float = 0.0) -> bool:
        """True once the run must stop: somebody asked, or the deadline is near.

        Args:
            more_s: seconds to add to the allowance.
        """
        if self.deadline is not None and time.monotonic() > self.deadline - self.allowance_s - more_s:
            self.set(_TIME_LIMIT)
        return bool(self.reason)


def ending_signals() -> list[signal.Signals]:
    """SIGTERM, and SIGHUP, which comes when a terminal is closed; not where it is ignored, as below `nohup`."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM] if is_ignored else [signal.SIGTERM, signal.SIGHUP]


@contextlib.contextmanager
def stop_signals(stop: StopRequest) -> Iterator[Callable[[], None]]:
    """Inside the block, SIGTERM, SIGHUP and Ctrl-C set the request. A second Ctrl-C ends the process at once.

    Yields:
        A function that installs the handlers again, for use after a library (Ray) has installed its handlers.
    """
    # Python lets only the main thread handle signals. A caller in another thread must stop the run itself.
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if stop.reason == _INTERRUPT:
            stop.before_exit()
            # print() is not safe here: the signal may have interrupted another print.
            os.write(2, b"\nended at once; the same command goes on from the last checkpoint\n")
            os._exit(Exit.INTERRUPTED)
        stop.set(_INTERRUPT)

    def on_terminate(number: int, frame: FrameType | None) -> None:
        stop.set(signal.Signals(number).name)

    handlers = {signal.SIGINT: on_interrupt, **dict.fromkeys(ending_signals(), on_terminate)}

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
