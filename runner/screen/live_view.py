"""The trials of a sweep on a terminal, never higher than it is."""

import textwrap
from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from runner.screen.sweep_progress import by_interest, describe_rest, describe_sweep
from runner.screen.trial_tables import progress_table
from runner.trial.progress import TrialProgress

_SCREENS = 4


class LiveView:
    """Counts and time left of the sweep, and below as many trials as there is room for, those that run first."""

    def __init__(self, trials: Sequence[TrialProgress], at_once: int, above: Sequence[str] = ()) -> None:
        """A moment of the sweep.

        Args:
            at_once: how many trials run at a time.
            above: lines for the top.
        """
        self._trials, self._at_once, self._above = by_interest(trials), at_once, above

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Called by rich, with the present size of the terminal."""
        width = options.max_width
        above = [*self._above]
        if len(self._trials) > 1:
            above.append(describe_sweep(self._trials, self._at_once))
        lines = [Text(part) for line in above for part in textwrap.wrap(line, width, break_on_hyphens=False)]

        # The last row of the terminal is the cursor's.
        room = console.height - 1
        # Laid out for more trials than are shown, so that columns do not move when another one begins; not for all of a
        # thousand, which would take a quarter of the time.
        head, *rows = progress_table(self._trials[: _SCREENS * console.height]).blocks(console, width)
        num_shown = _num_fitting([len(row) for row in rows], room - len(lines) - len(head))
        lines += head + [line for row in rows[:num_shown] for line in row]
        if rest := self._trials[num_shown:]:
            lines.append(Text(describe_rest(rest)[:width], "dim"))
        yield from lines[:room]


def _num_fitting(heights: Sequence[int], room: int) -> int:
    """How many rows fit one below the other; where not all do, a line stays free for what is said of the others."""
    if sum(heights) <= room:
        return len(heights)
    count = taken = 0
    while count < len(heights) and taken + heights[count] <= room - 1:
        taken += heights[count]
        count += 1
    return count
