"""The loss curves as SVG: one chart for each loss, one line for each trial, a few hundred points in a line.

The points of a trial have equal distances in epochs, in steps and in images, so the three axes differ by one factor
for each trial. A path is drawn once, from 0 to the trial's end, and a style sheet stretches it for the chosen axis.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gan.training.loss_names import LOSSES, Loss
from runner.number_format import significant, tick
from runner.report.trials import PageTrial, swept, values_of

WIDTH, HEIGHT = 1000, 100  # in the SVG's own units; the page stretches them
MAX_POINTS = 300
UNITS = ("epochs", "steps", "images")
NUM_COLOURS, NUM_DASHES = 7, 4  # as many as report.css has

_LARGEST = 1e100
_MAX_MEANS = 100
_MIN_MEANS = 3  # fewer make no line
_MEAN = "epoch_mean/"
_MIN_LOG_RATIO = 20.0  # of the highest to the lowest value, for a logarithmic axis

# The columns of metrics.jsonl that the curves are drawn from.
COLUMNS = ("step", "epoch", *(loss.name for loss in LOSSES), *(f"{_MEAN}{loss.name}" for loss in LOSSES))


class Line(NamedTuple):
    """A trial's line in one chart.

    Attributes:
        trial: the index of the trial among the page's trials.
        raw: an SVG path over WIDTH x HEIGHT units, of the logged values.
        means: the same for the means of the epochs; empty where too few epochs have ended.
        last: the last value of the means, or of the raw line where there are no means.
    """

    trial: int
    raw: str
    means: str
    last: str


class Tick(NamedTuple):
    """A mark on an axis: its position from 0 to 1, and its label."""

    position: float
    label: str


class Chart(NamedTuple):
    """One loss; the vertical axis goes from `low` to `high`, and is logarithmic where `log` is true."""

    name: str
    about: str
    low: float
    high: float
    log: bool
    ticks: Sequence[Tick]
    lines: Sequence[Line]


class Style(NamedTuple):
    """How a trial's line looks, and how far it is stretched: its share of the axis in each unit."""

    colour: int
    dash: int
    share: Mapping[str, float]


class Curves(NamedTuple):
    """All charts; styles are in the order of the page's trials, ticks and ends of the horizontal axis by unit."""

    charts: Sequence[Chart]
    styles: Sequence[Style]
    ticks: Mapping[str, Sequence[Tick]]
    ends: Mapping[str, float]


def draw_curves(trials: Sequence[PageTrial]) -> Curves:
    """The charts of the losses; no charts where nothing is logged yet."""
    lengths = [_length(trial) for trial in trials]
    ends = {unit: max((length[unit] for length in lengths), default=0.0) for unit in UNITS}

    styles = [
        Style(colour, dash, {unit: length[unit] / ends[unit] if ends[unit] else 0.0 for unit in UNITS})
        for (colour, dash), length in zip(_line_looks(trials), lengths, strict=True)
    ]
    charts = [chart for loss in LOSSES if (chart := _draw_chart(loss, trials))]
    return Curves(charts, styles, {unit: linear_ticks(0.0, end) for unit, end in ends.items()}, ends)


def downsample(points: np.ndarray) -> np.ndarray:
    """(n, 2) with at most MAX_POINTS rows: the lowest and the highest of each run of rows, so that no spike is lost."""
    if len(points) <= MAX_POINTS:
        return points

    # Each run gives two points, so there are half as many runs as points.
    edges = np.linspace(0, len(points), MAX_POINTS // 2 + 1).astype(int)
    kept: set[int] = set()
    for start, stop in itertools.pairwise(edges):
        values = points[start:stop, 1]
        kept |= {int(start + values.argmin()), int(start + values.argmax())}
    return points[sorted(kept)]


def linear_ticks(low: float, high: float) -> list[Tick]:
    """Three to six round values."""
    if high <= low:
        return []

    # The smallest of 1, 2, 5 and 10 times a power of ten that gives four intervals or fewer.
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)

    # A value that rounding has put just outside of the axis counts as its end.
    first = math.ceil(low / step - 1e-9)
    values = [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]
    return [Tick((value - low) / (high - low), tick(value)) for value in values]


def log_ticks(low: float, high: float) -> list[Tick]:
    """Powers of ten, or 1, 2 and 5 times each of them where these would be few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    # Over 2.5 powers of ten or less, the powers alone would give three marks at most.
    factors = (1,) if math.log10(high / low) > 2.5 else (1, 2, 5)
    values = [factor * 10.0**power for power in powers for factor in factors]
    width = math.log(high / low)
    return [Tick(math.log(value / low) / width, tick(value)) for value in values if low <= value <= high]


def _length(trial: PageTrial) -> dict[str, float]:
    """How long a trial has trained, in each unit."""
    if not trial.log:
        return dict.fromkeys(UNITS, 0.0)
    steps = float(trial.log[-1]["step"])

    # Only rows that end an epoch say how many steps an epoch has; in the first epoch nobody knows yet.
    ended = [row for row in trial.log if f"{_MEAN}{LOSSES[0].name}" in row]
    epochs_per_step = ended[-1]["epoch"] / ended[-1]["step"] if ended else 1.0 / steps
    batch_size = trial.record.get("config", {}).get("training", {}).get("batch_size", 1)
    return {"epochs": steps * epochs_per_step, "steps": steps, "images": steps * batch_size}


def _line_looks(trials: Sequence[PageTrial]) -> list[tuple[int, int]]:
    """Colour and dash of each trial.

    A colour stands for a value of the first swept parameter, and a dash for a combination of the others. Where there
    are too many of either, the trials get colours and dashes in their order.
    """
    names = swept(trials)
    if len(names) > 1:
        colours = [trial.params.get(names[0]) for trial in trials]
        dashes = [tuple(trial.params.get(name) for name in names[1:]) for trial in trials]
        known_colours, known_dashes = values_of(trials, names[0]), list(dict.fromkeys(dashes))
        if len(known_colours) <= NUM_COLOURS and len(known_dashes) <= NUM_DASHES:
            return [(known_colours.index(c), known_dashes.index(d)) for c, d in zip(colours, dashes, strict=True)]
    return [(index % NUM_COLOURS, index // NUM_COLOURS % NUM_DASHES) for index in range(len(trials))]


def _draw_chart(loss: Loss, trials: Sequence[PageTrial]) -> Chart | None:
    """The chart of one loss; None where no log has it."""
    series = {i: points for i, trial in enumerate(trials) if len(points := _read_points(trial.log, loss.name))}
    if not series:
        return None

    # All trials share one axis, so that their lines can be compared.
    low, high, log = _limits(np.concatenate([points[:, 1] for points in series.values()]))
    ticks = log_ticks(low, high) if log else linear_ticks(low, high)
    lines = [
        _draw_line(index, trials[index].log, loss.name, points, (low, high, log)) for index, points in series.items()
    ]
    return Chart(loss.name, loss.meaning, low, high, log, ticks, lines)


def _draw_line(
    index: int, rows: Sequence[Mapping[str, Any]], name: str, points: np.ndarray, axis: tuple[float, float, bool]
) -> Line:
    """A trial's line, with the means of its epochs where there are enough of them: single batches are noisy."""
    end = float(rows[-1]["step"])
    means = _read_points(rows, f"{_MEAN}{name}")
    if len(means) < _MIN_MEANS:
        means = means[:0]

    raw_path, means_path = (
        _path(kept[:, 0] / end, _scale(kept[:, 1], *axis)) if len(kept) else ""
        for kept in (downsample(points), _average(means))
    )
    last = (means if len(means) else points)[-1, 1]
    return Line(index, raw_path, means_path, significant(float(last)))


def _read_points(log: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """(n, 2): step and value of the rows that have one; a log has no values that are not finite."""
    rows = [row for row in log if row.get(name) is not None]
    points = np.array([[row["step"] for row in rows], [row[name] for row in rows]], dtype=float).T
    # A training that diverges comes to the end of what numbers can hold, where no axis can be reckoned.
    return np.clip(points, -_LARGEST, _LARGEST)


def _average(points: np.ndarray) -> np.ndarray:
    """(n, 2) with at most _MAX_MEANS rows, each the mean of a run of rows, at the step of the run's last one."""
    if len(points) <= _MAX_MEANS:
        return points
    runs = np.array_split(points, _MAX_MEANS)
    return np.array([(run[-1, 0], run[:, 1].mean()) for run in runs])


def _limits(values: np.ndarray) -> tuple[float, float, bool]:
    """The lowest and the highest value shown, and whether the axis is logarithmic."""
    # Half a percent of the values may lie outside at each end: one spike would flatten all lines.
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    if low > 0 and high / low > _MIN_LOG_RATIO:
        # At most five powers of ten: a few values near zero would flatten all other lines.
        return max(low, high * 1e-5), high, True

    # An axis that begins not far above zero begins at zero.
    low = min(low, 0.0) if low < 0.4 * high else low
    # Where all values are equal, the axis gets a length of 1: _scale divides by its length.
    return (low, high, False) if high > low else (low - 0.5, low + 0.5, False)


def _scale(values: np.ndarray, low: float, high: float, log: bool) -> np.ndarray:
    """Heights from 0 at the bottom to 1 at the top; values outside of the axis are set to its ends."""
    if log:
        values, low, high = np.log(np.maximum(values, low)), math.log(low), math.log(high)
    return np.clip((values - low) / (high - low), 0.0, 1.0)


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """The points, with coordinates from 0 to 1, as an SVG path whose y grows downwards."""
    across, down = (x * WIDTH).round(1), ((1 - y) * HEIGHT).round(1)
    points = " ".join(f"{a:g},{b:g}" for a, b in zip(across, down, strict=True))
    # A single point is drawn as a line of one unit: without a length nothing is seen.
    return f"M{points}" if len(x) > 1 else f"M{points}h1"
