"""Work whose length is known: a bar on a terminal, a line now and then elsewhere, and nothing where it is quick."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import rich.console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from runner.number_format import clock

_QUICK_S = 1.0  # work that is done by then shows nothing
_LINE_INTERVAL_S = 30.0


class ProgressBar:
    """What the work reports to.

    Attributes:
        done: how much of it is done.
    """

    def __init__(self, description: str, total: int, show: Callable[["ProgressBar"], None]) -> None:
        self.description, self.total, self.done = description, total, 0
        self.began = time.monotonic()
        self._show = show

    def advance(self, amount: int = 1) -> None:
        """Reports that more of the work is done."""
        self.done += amount
        self._show(self)

    @property
    def line(self) -> str:
        """`cutting pictures: 320 of 1096 (29 %), 2:10 left`."""
        spent_s = time.monotonic() - self.began
        left_s = spent_s / self.done * (self.total - self.done) if self.done else None
        share = f"{100 * self.done // max(self.total, 1)} %"
        return f"{self.description}: {self.done} of {self.total} ({share}), {clock(left_s)} left"


@contextlib.contextmanager
def progress_bar(
    console: rich.console.Console, print_line: Callable[[str], None], description: str, total: int
) -> Iterator[ProgressBar]:
    """Shows how far the work in the block is.

    Args:
        description: of the work, such as `cutting pictures`.
        total: how much `advance` will report in all.
    """
    if console.is_terminal:
        with _on_terminal(console, description, total) as bar:
            yield bar
        return

    last = time.monotonic()

    def show(bar: ProgressBar) -> None:
        nonlocal last
        if time.monotonic() - last > _LINE_INTERVAL_S and bar.done < bar.total:
            last = time.monotonic()
            print_line(bar.line)

    yield ProgressBar(description, total, show)


@contextlib.contextmanager
def _on_terminal(console: rich.console.Console, description: str, total: int) -> Iterator[ProgressBar]:
    """A bar that appears after a second, and is gone at the end."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), MofNCompleteColumn())
    progress = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
    task = progress.add_task(f"starting: {escape(description)}", total=total)

    # A thread, because the first piece of the work may be a long one.
    starter = threading.Timer(_QUICK_S, progress.start)
    starter.daemon = True
    starter.start()
    try:
        yield ProgressBar(
            description, total, lambda bar: progress.update(task, completed=bar.done, description=escape(description))
        )
    finally:
        starter.cancel()
        starter.join()
        progress.stop()
