"""What a person sees: lines, a live view of the trials on a terminal, tables of results, bars for long work."""

import contextlib
import textwrap
import time
from collections.abc import Sequence

import rich.console
from rich.live import Live

from runner.number_format import clock, significant_or_dash
from runner.records.results import TrialResult, best_by_turns
from runner.records.seeds import RepeatedCell
from runner.screen.live_view import LiveView
from runner.screen.progress_bar import ProgressBar, progress_bar
from runner.screen.sweep_progress import describe_counts, describe_sweep
from runner.screen.trial_tables import LOSS_TITLES, PROGRESS_METRICS, results_table, seeds_table
from runner.storage.run_folder import OVER_SEEDS, RESULTS_CSV
from runner.trial.progress import TrialProgress

_PLAIN_INTERVAL_S = 30.0  # between two lines of a trial, where no epoch ends
_SWEEP_INTERVAL_S = 300.0  # between two lines of the sweep, where no trial ends
_MAX_ROWS = 40  # of a table of results
_PLAIN_WIDTH = 1000  # a file has no edge: no table is cut, and other lines are not wrapped


class Console:
    """Prints lines and shows the trials; the live view is there between `begin` and `end`."""

    def __init__(self, console: rich.console.Console | None = None) -> None:
        # Without soft wrap rich breaks long lines, which splits paths in a log; its highlighting colours all numbers.
        self.rich = console or rich.console.Console(highlight=False, soft_wrap=True)
        if not self.rich.is_terminal:
            self.rich.width = _PLAIN_WIDTH
        self._said: set[str] = set()
        self._live: Live | None = None
        self._shown: dict[str, tuple[int, float]] = {}
        self._sweep_shown = ("", time.monotonic())

    def print_once(self, line: str, *, key: str) -> None:
        """As `print`, but of all lines with the same key only the first."""
        if key not in self._said:
            self._said.add(key)
            self.print(line)

    def print(self, line: str, *, wrap: bool = True) -> None:
        """A line, above the live view where there is one. On a terminal it is broken between words.

        Args:
            wrap: False for what a person may copy, such as a command.
        """
        if wrap and self.rich.is_terminal:
            line = "\n".join(_wrapped(part, self.rich.width) for part in line.split("\n"))
        self.rich.print(line, markup=False)

    def progress(self, description: str, total: int) -> contextlib.AbstractContextManager[ProgressBar]:
        """Shows how far the work in the block is, unless it is quick.

        Args:
            total: how much `advance` of the bar will report in all.
        """
        return progress_bar(self.rich, self.print, description, total)

    def begin(self) -> None:
        """Begins the live view on a terminal."""
        if self.rich.is_terminal:
            # Transient, because the table of results takes its place at the end.
            self._live = Live(console=self.rich, refresh_per_second=2, transient=True, vertical_overflow="crop")
            self._live.start()

    def end(self) -> None:
        """Ends the live view."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, trials: Sequence[TrialProgress], at_once: int = 1, above: Sequence[str] = ()) -> None:
        """Updates the live view. Without a terminal, prints a line for each epoch's end, and every 30 s in between.

        Args:
            at_once: how many trials run at a time.
            above: lines for the top of the live view.
        """
        if self._live is not None:
            self._live.update(LiveView(trials, at_once, above))
            return

        for trial in trials:
            epoch, last = self._shown.setdefault(trial.name, (0, time.monotonic()))
            # Of a trial that had finished before this start nobody has counted the steps.
            if not trial.row or not trial.total_steps or trial.status not in ("running", "finished"):
                continue
            # Only the row that ends an epoch has means.
            ended = trial.epoch if any(key.startswith("epoch_mean/") for key in trial.row) else trial.epoch - 1
            is_due = time.monotonic() - last > _PLAIN_INTERVAL_S and trial.status == "running"
            if ended > epoch or is_due:
                self._shown[trial.name] = (max(ended, epoch), time.monotonic())
                self.print(_plain_line(trial))
        if len(trials) > 1:
            self._show_sweep(trials, at_once)

    def _show_sweep(self, trials: Sequence[TrialProgress], at_once: int) -> None:
        """A line of the whole sweep, whenever a trial begins or ends, and every five minutes."""
        counts, last = self._sweep_shown
        spent_s = time.monotonic() - last
        # Short trials begin and end many times a minute.
        has_changed = describe_counts(trials) != counts and (spent_s > _PLAIN_INTERVAL_S or not counts)
        if has_changed or spent_s > _SWEEP_INTERVAL_S:
            self._sweep_shown = (describe_counts(trials), time.monotonic())
            self.print(describe_sweep(trials, at_once))

    def results(self, results: Sequence[TrialResult], cells: Sequence[RepeatedCell]) -> None:
        """The table of all trials, or of the best of many, and one of the means over seeds where there are several."""
        best = best_by_turns([result.row for result in results], _MAX_ROWS) if len(results) > _MAX_ROWS else []
        if best:
            self.print(
                f"{len(best)} of {len(results)} trials, the best on each metric by turns ({RESULTS_CSV} has all)"
            )
        self.rich.print(results_table([results[index] for index in best] or results))
        if cells:
            rows = [{key: found.mean for key, found in cell.metrics.items()} for cell in cells]
            best = best_by_turns(rows, _MAX_ROWS) if len(cells) > _MAX_ROWS else []
            counts = sorted({cell.num_seeds for cell in cells})
            over = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
            self.print(f"over {over} seeds: mean ± standard deviation (min to max)")
            if best:
                self.print(
                    f"{len(best)} of {len(cells)} settings, the best on each metric by turns ({OVER_SEEDS} has all)"
                )
            self.rich.print(seeds_table([cells[index] for index in best] or cells))


def _wrapped(line: str, width: int) -> str:
    """The line broken between words, its rest indented; words that are longer than the screen stay whole."""
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(
        line, width, subsequent_indent=f"{indent}  ", break_long_words=False, break_on_hyphens=False
    )  # fmt: skip


def _plain_line(trial: TrialProgress) -> str:
    """The trial as one line."""
    losses = [f"{title} {significant_or_dash(trial.row.get(name))}" for name, title in LOSS_TITLES.items()]

    parts = [
        f"{trial.name}  epoch {trial.epoch}/{trial.epochs}  step {trial.row['step']}/{trial.total_steps}",
        " ".join(losses),
    ]
    metrics = {metric.title: trial.metrics.get(metric.key) for metric in PROGRESS_METRICS}
    if any(value is not None for value in metrics.values()):
        parts.append(" ".join(f"{title} {significant_or_dash(value)}" for title, value in metrics.items()))

    # Speed and time left are known once a worker has reported, restarts are rare.
    if trial.step_s:
        parts.append(f"{1 / trial.step_s:.2f} step/s")
    if trial.status == "running" and trial.eta_s:
        parts.append(f"ETA {clock(trial.eta_s)}")
    if trial.restarts:
        parts.append(f"restarts {trial.restarts}")
    return "  ".join(parts)
