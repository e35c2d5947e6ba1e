"""What a person sees while bytes come in: a bar on a terminal, a line every 30 seconds otherwise."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from runner.number_format import byte_size

_INTERVAL_S = 30.0  # between two lines


@contextlib.contextmanager
def shown_progress(what: str, done: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """Shows how far a stage is.

    Args:
        what: the stage, in one word.
        done: bytes that an earlier start of the command has brought.
        total: bytes of the whole; None where that is not known.

    Yields:
        A function that takes the bytes so far, those of earlier starts included.
    """
    if not sys.stdout.isatty():
        yield _Lines(what, done, total)
        return

    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), transient=True) as progress:
        task = progress.add_task(what, completed=done, total=total)
        yield lambda so_far: progress.update(task, completed=so_far)


class _Lines:
    """Prints a line now and then."""

    def __init__(self, what: str, done: int, total: int | None) -> None:
        self._what, self._first, self._total = what, done, total
        self._begun = self._last = time.monotonic()

    def __call__(self, so_far: int) -> None:
        now = time.monotonic()
        if now - self._last < _INTERVAL_S:
            return
        self._last = now
        of = f" of {byte_size(self._total)} ({so_far / self._total:.0%})" if self._total else ""
        speed = byte_size((so_far - self._first) / (now - self._begun))
        print(f"{self._what}: {byte_size(so_far)}{of}, {speed} a second", flush=True)
