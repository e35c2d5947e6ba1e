"""What a person sees while trials run: a live table on a terminal, plain lines otherwise."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import rich.console
from rich.live import Live

from gan.evaluation.metrics import EPOCH_METRICS
from runner.fitting_table import FittingTable
from runner.number_format import clock, significant_or_dash
from runner.records.seeds import RepeatedCell, Spread
from runner.trial.progress import TrialProgress

_PLAIN_INTERVAL_S = 30.0  # between two lines of a trial, where no epoch ends
_PLAIN_WIDTH = 1000  # a file has no edge: no table is cut, and other lines are not wrapped

_LOSS_TITLES = {"total_gen_loss": "gen", "total_disc_loss": "disc", "l1_loss": "L1"}
_PROGRESS_METRICS = tuple(metric for metric in EPOCH_METRICS if metric.key in ("ssim", "psnr"))
_TEXTS = ("trial", "status")
# What a narrow screen does without, the least important first. Metrics are dropped after these, the last one first.
_PROGRESS_LEAST_IMPORTANT = ("step", "restarts", "disc", "gen", "step/s", "L1")
_RESULTS_LEAST_IMPORTANT = ("restarts", "images/s", "seconds", "steps", "epochs")
_RESULT_TITLES = {
    "trial": "trial",
    "status": "status",
    "epochs": "epochs",
    "steps": "steps",
    **{metric.key: metric.title for metric in EPOCH_METRICS},
    "seconds": "seconds",
    "images_per_second": "images/s",
    "restarts": "restarts",
}


class Console:
    """Prints lines and shows the trials; the live table is there between `begin` and `end`."""

    def __init__(self, console: rich.console.Console | None = None) -> None:
        # Without soft wrap rich breaks long lines, which splits paths in a log; its highlighting colours all numbers.
        self.rich = console or rich.console.Console(highlight=False, soft_wrap=True)
        if not self.rich.is_terminal:
            self.rich.width = _PLAIN_WIDTH
        self._live: Live | None = None
        self._shown: dict[str, tuple[int, float]] = {}

    def print(self, line: str) -> None:
        """One line, above the live table where there is one."""
        self.rich.print(line, markup=False)

    def begin(self) -> None:
        """Begins the live table on a terminal."""
        if self.rich.is_terminal:
            # Transient, because the table of results takes its place at the end.
            self._live = Live(console=self.rich, refresh_per_second=2, transient=True)
            self._live.start()

    def end(self) -> None:
        """Ends the live table."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, trials: Sequence[TrialProgress]) -> None:
        """Updates the table. Without a terminal, prints a line for each epoch's end, and every 30 s in between."""
        if self._live is not None:
            self._live.update(progress_table(trials))
            return

        for trial in trials:
            epoch, last = self._shown.setdefault(trial.name, (0, time.monotonic()))
            if not trial.row or trial.status not in ("running", "finished"):
                continue
            # Only the row that ends an epoch has means.
            ended = trial.epoch if any(key.startswith("epoch_mean/") for key in trial.row) else trial.epoch - 1
            is_due = time.monotonic() - last > _PLAIN_INTERVAL_S and trial.status == "running"
            if ended > epoch or is_due:
                self._shown[trial.name] = (max(ended, epoch), time.monotonic())
                self.print(_plain_line(trial))

    def results(self, rows: Sequence[Mapping[str, Any]], cells: Sequence[RepeatedCell]) -> None:
        """The table of all trials, and one of the means over seeds where there are several."""
        self.rich.print(_results_table(rows))
        if cells:
            counts = sorted({cell.num_seeds for cell in cells})
            over = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
            self.print(f"over {over} seeds: mean ± standard deviation (min to max)")
            self.rich.print(_seeds_table(cells))


def progress_table(trials: Sequence[TrialProgress]) -> FittingTable:
    """Status, epoch, speed, losses, metrics, time left and restarts of each trial."""
    metrics = [metric.title for metric in _PROGRESS_METRICS]
    columns = ("trial", "status", "epoch", "step", "step/s", *_LOSS_TITLES.values(), *metrics, "ETA", "restarts")
    table = FittingTable(columns, left=_TEXTS, drop=(*_PROGRESS_LEAST_IMPORTANT, *reversed(metrics)))

    for trial in trials:
        table.add_row(
            trial.name,
            trial.status,
            f"{trial.epoch}/{trial.epochs}",
            f"{trial.step}/{trial.total_steps}",
            f"{1 / trial.step_s:.2f}" if trial.step_s else "",
            *(significant_or_dash(trial.row.get(name)) for name in _LOSS_TITLES),
            *(significant_or_dash(trial.metrics.get(metric.key)) for metric in _PROGRESS_METRICS),
            clock(trial.eta_s) if trial.status == "running" else "",
            str(trial.restarts),
        )
    return table


def _plain_line(trial: TrialProgress) -> str:
    """The same as one line."""
    losses = [f"{title} {significant_or_dash(trial.row.get(name))}" for name, title in _LOSS_TITLES.items()]

    parts = [
        f"{trial.name}  epoch {trial.epoch}/{trial.epochs}  step {trial.row['step']}/{trial.total_steps}",
        " ".join(losses),
    ]
    metrics = {metric.title: trial.metrics.get(metric.key) for metric in _PROGRESS_METRICS}
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


def _seeds_table(cells: Sequence[RepeatedCell]) -> FittingTable:
    """Each cell of the sweep over its seeds."""
    metrics = [metric for metric in EPOCH_METRICS if any(metric.key in cell.metrics for cell in cells)]
    titles = [metric.title for metric in metrics]
    table = FittingTable(["trial", "seeds", *titles], left=_TEXTS, drop=list(reversed(titles)))

    for cell in cells:
        all_count = cell.num_counted == cell.num_seeds
        seeds = str(cell.num_seeds) if all_count else f"{cell.num_counted} of {cell.num_seeds}"
        found = [cell.metrics.get(metric.key) for metric in metrics]
        table.add_row(cell.name, seeds, *("-" if spread is None else _spread_text(spread) for spread in found))
    return table


def _results_table(rows: Sequence[Mapping[str, Any]]) -> FittingTable:
    """The most important columns of results.csv."""
    metrics = [metric.title for metric in EPOCH_METRICS]
    drop = (*_RESULTS_LEAST_IMPORTANT, *reversed(metrics))
    table = FittingTable(list(_RESULT_TITLES.values()), left=_TEXTS, drop=drop)
    for row in rows:
        table.add_row(*(significant_or_dash(row[column]) for column in _RESULT_TITLES))
    return table


def _spread_text(spread: Spread) -> str:
    """Mean and standard deviation, with the extremes below where there are two values or more."""
    return f"{spread.text}\n({spread.ends})" if spread.ends else spread.text
