"""What the person sees while trials run: a live table on a terminal, plain lines otherwise."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import rich.console
from rich.live import Live
from rich.table import Table

from runner.records.seeds import RepeatedCell, Spread

PLAIN_INTERVAL_S = 30.0
PLAIN_WIDTH = 160
STUDY_METRICS = ("ssim", "psnr", "l1", "hp_l1")
TITLES = {
    "trial": "trial",
    "status": "status",
    "epochs": "epochs",
    "steps": "steps",
    "ssim": "SSIM",
    "psnr": "PSNR",
    "l1": "L1",
    "hp_l1": "HP-L1",
    "seconds": "seconds",
    "images_per_second": "images/s",
    "restarts": "restarts",
}


class TrialView(NamedTuple):
    """A trial as the screen shows it. `row` is the log's last one; `metrics` the last evaluation's."""

    name: str
    status: str
    epochs: int
    step: int
    total_steps: int
    step_s: float
    restarts: int
    row: Mapping[str, Any]
    metrics: Mapping[str, Any]

    @property
    def epoch(self) -> int:
        """The epoch of the last row."""
        return int(self.row.get("epoch", 0))

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the present speed, None where that is not known."""
        return (self.total_steps - self.step) * self.step_s if self.step_s else None


class Console:
    """Says lines and shows the trials; `live` decides for the table."""

    def __init__(self, console: rich.console.Console | None = None) -> None:
        self.rich = console or rich.console.Console(highlight=False, soft_wrap=True)
        if not self.rich.is_terminal:
            self.rich.width = PLAIN_WIDTH
        self._live: Live | None = None
        self._shown: dict[str, tuple[int, float]] = {}

    def print(self, line: str) -> None:
        """One line, above the live table where there is one."""
        self.rich.print(line, markup=False)

    def begin(self) -> None:
        """Begins the live table on a terminal."""
        if self.rich.is_terminal:
            self._live = Live(console=self.rich, refresh_per_second=2, transient=True)
            self._live.start()

    def end(self) -> None:
        """Ends the live table."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, views: Sequence[TrialView]) -> None:
        """Updates the table; without a terminal says each epoch's end, and every 30 s where a trial is."""
        if self._live is not None:
            self._live.update(progress_table(views))
            return
        for view in views:
            epoch, last = self._shown.setdefault(view.name, (0, time.monotonic()))
            if not view.row or view.status not in ("running", "finished"):
                continue
            ended = view.epoch if any(key.startswith("epoch_mean/") for key in view.row) else view.epoch - 1
            if ended > epoch or (time.monotonic() - last > PLAIN_INTERVAL_S and view.status == "running"):
                self._shown[view.name] = (max(ended, epoch), time.monotonic())
                self.print(plain_line(view))

    def results(self, rows: Sequence[Mapping[str, Any]], cells: Sequence[RepeatedCell]) -> None:
        """The table of all trials, and one of what they come to over their seeds where there are several."""
        self.rich.print(results_table(rows))
        if cells:
            counts = sorted({cell.num_seeds for cell in cells})
            over = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
            self.print(f"over {over} seeds: mean ± standard deviation (min to max)")
            self.rich.print(seeds_table(cells))


def progress_table(views: Sequence[TrialView]) -> Table:
    """PlannedTrial, epoch, speed, losses, time left, restarts."""
    table = Table(box=None, pad_edge=False)
    for column in (
        "trial",
        "status",
        "epoch",
        "step",
        "step/s",
        "gen",
        "disc",
        "L1",
        "SSIM",
        "PSNR",
        "ETA",
        "restarts",
    ):
        table.add_column(column, justify="left" if column in ("trial", "status") else "right")
    for view in views:
        row = view.row
        table.add_row(
            view.name,
            view.status,
            f"{view.epoch}/{view.epochs}",
            f"{view.step}/{view.total_steps}",
            f"{1 / view.step_s:.2f}" if view.step_s else "",
            *(number(row.get(name)) for name in ("total_gen_loss", "total_disc_loss", "l1_loss")),
            *(number(view.metrics.get(name)) for name in ("ssim", "psnr")),
            duration(view.eta_s) if view.status == "running" else "",
            str(view.restarts),
        )
    return table


def plain_line(view: TrialView) -> str:
    """The same as one line."""
    row = view.row
    parts = [
        f"{view.name}  epoch {view.epoch}/{view.epochs}  step {view.row['step']}/{view.total_steps}",
        f"gen {number(row.get('total_gen_loss'))} disc {number(row.get('total_disc_loss'))}"
        f" L1 {number(row.get('l1_loss'))}",
    ]
    if view.metrics.get("ssim") is not None:
        parts.append(f"SSIM {number(view.metrics['ssim'])} PSNR {number(view.metrics['psnr'])}")
    if view.step_s:
        parts.append(f"{1 / view.step_s:.2f} step/s")
    if view.status == "running" and view.eta_s:
        parts.append(f"ETA {duration(view.eta_s)}")
    if view.restarts:
        parts.append(f"restarts {view.restarts}")
    return "  ".join(parts)


def results_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The results in short; results.csv has all columns."""
    table = Table(box=None, pad_edge=False)
    for column, title in TITLES.items():
        table.add_column(title, justify="left" if column in ("trial", "status") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(number(row[column]) for column in TITLES))
    return table


def seeds_table(cells: Sequence[RepeatedCell]) -> Table:
    """Each cell of the sweep over its seeds."""
    table = Table(box=None, pad_edge=False)
    metrics = [column for column in STUDY_METRICS if any(column in cell.metrics for cell in cells)]
    for column in ("trial", "seeds", *metrics):
        justify: rich.console.JustifyMethod = "left" if column == "trial" else "right"
        table.add_column(TITLES.get(column, column), justify=justify, no_wrap=True)
    for cell in cells:
        all_count = cell.num_counted == cell.num_seeds
        found = [cell.metrics.get(column) for column in metrics]
        shown = ["-" if spread is None else spread_text(spread) for spread in found]
        table.add_row(
            cell.name, str(cell.num_seeds) if all_count else f"{cell.num_counted} of {cell.num_seeds}", *shown
        )
    return table


def spread_text(spread: Spread) -> str:
    """Mean and standard deviation, with the extremes below where there are two values or more."""
    return f"{spread.text}\n({spread.ends})" if spread.ends else spread.text


def number(value: Any) -> str:
    """Four significant digits; texts and whole numbers as they are."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float | None) -> str:
    """1:02:03, or 2:03 under an hour."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
