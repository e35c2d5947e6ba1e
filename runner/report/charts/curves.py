"""The loss curves as SVG: one chart a loss, one line a trial, a few hundred points a line.

A trial's points are at a fixed number of images, and so of epochs and of steps, apart: three axes differ by one
factor a trial. A path is drawn once, from 0 to the trial's end, and a style sheet stretches it for the axis.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gan.training.losses import LOSS_NAMES
from runner.report.figures import digits
from runner.report.records import TrialRecord, swept, values_of

WIDTH, HEIGHT = 1000, 100  # of the SVG's own units; the page stretches them
MAX_POINTS = 300
MAX_MEANS = 100
MEAN = "epoch_mean/"
MIN_MEANS = 3
COLUMNS = ("step", "epoch", *LOSS_NAMES, *(f"{MEAN}{name}" for name in LOSS_NAMES))
LOG_FROM_RATIO = 20.0
UNITS = ("epochs", "steps", "images")
NUM_COLOURS, NUM_DASHES = 7, 4
ABOUT = {
    "total_gen_loss": "generator, in all",
    "fake_d_real_class_loss": "generator: how well it fools the discriminator",
    "l1_loss": "generator: distance to the target",
    "total_disc_loss": "discriminator, in all",
    "real_d_loss": "discriminator, on real pairs",
    "fake_d_loss": "discriminator, on generated pairs",
}


class Line(NamedTuple):
    """A trial's line in one chart.

    Attributes:
        trial: its place among the page's trials.
        raw: an SVG path over WIDTH x HEIGHT units, of what was logged.
        means: the same of the epochs' means; empty where too few epochs have ended.
        last: the last value of the means, or else of the raw line.
    """

    trial: int
    raw: str
    means: str
    last: str


class Tick(NamedTuple):
    """A mark on an axis: where, from 0 to 1, and what it says."""

    place: float
    label: str


class Chart(NamedTuple):
    """One quantity; the vertical axis goes from `low` to `high`, by the logarithm where `log` is true."""

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


def draw_curves(trials: Sequence[TrialRecord]) -> Curves:
    """The charts of the six losses; none where nothing is logged yet."""
    extents = [extent(trial) for trial in trials]
    ends = {unit: max((reach[unit] for reach in extents), default=0.0) for unit in UNITS}
    looks = line_looks(trials)
    styles = [
        Style(*look, {unit: reach[unit] / ends[unit] if ends[unit] else 0.0 for unit in UNITS})
        for look, reach in zip(looks, extents, strict=True)
    ]
    charts = [chart for name in LOSS_NAMES if (chart := draw_chart(name, trials))]
    return Curves(charts, styles, {unit: linear_ticks(0.0, end) for unit, end in ends.items()}, ends)


def extent(trial: TrialRecord) -> dict[str, float]:
    """How far a trial's log reaches, in each unit. A row's epoch counts whole where it ends one."""
    if not trial.log:
        return dict.fromkeys(UNITS, 0.0)
    steps = float(trial.log[-1]["step"])
    ended = [row for row in trial.log if f"{MEAN}{LOSS_NAMES[0]}" in row]
    per_step = ended[-1]["epoch"] / ended[-1]["step"] if ended else 1.0 / steps
    batch_size = trial.record.get("config", {}).get("training", {}).get("batch_size", 1)
    return {"epochs": steps * per_step, "steps": steps, "images": steps * batch_size}


def line_looks(trials: Sequence[TrialRecord]) -> list[tuple[int, int]]:
    """Colour and dash of each trial: where parameters can carry them, a colour a value of the first, a dash for the
    others; else as they come."""
    names = swept(trials)
    if len(names) > 1 and len(colours := values_of(trials, names[0])) <= NUM_COLOURS:
        rest = list(dict.fromkeys(tuple(trial.params.get(n) for n in names[1:]) for trial in trials))
        if len(rest) <= NUM_DASHES:
            return [
                (colours.index(t.params.get(names[0])), rest.index(tuple(t.params.get(n) for n in names[1:])))
                for t in trials
            ]
    return [(index % NUM_COLOURS, index // NUM_COLOURS % NUM_DASHES) for index in range(len(trials))]


def draw_chart(name: str, trials: Sequence[TrialRecord]) -> Chart | None:
    """The chart of one column of the logs; None where no log has it."""
    series = {i: points for i, trial in enumerate(trials) if len(points := read_points(trial.log, name))}
    if not series:
        return None
    low, high, log = limits(np.concatenate([points[:, 1] for points in series.values()]))
    lines = [draw_line(index, trials[index].log, name, points, (low, high, log)) for index, points in series.items()]
    ticks = log_ticks(low, high) if log else linear_ticks(low, high)
    return Chart(name, ABOUT.get(name, ""), low, high, log, ticks, lines)


def draw_line(
    index: int, rows: Sequence[Mapping[str, Any]], name: str, points: np.ndarray, axis: tuple[float, float, bool]
) -> Line:
    """A trial's line; the epochs' means, where there are some, tell more than single batches do."""
    end = float(rows[-1]["step"])
    means = read_points(rows, f"{MEAN}{name}")
    if len(means) < MIN_MEANS:
        means = means[:0]
    drawn = [
        path(kept[:, 0] / end, scale(kept[:, 1], *axis)) if len(kept) else ""
        for kept in (downsample(points), average(means))
    ]
    last = (means if len(means) else points)[-1, 1]
    return Line(index, drawn[0], drawn[1], digits(float(last)))


def read_points(log: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """(n, 2): step and value, where there is one; a log holds none that is not finite."""
    rows = [row for row in log if row.get(name) is not None]
    return np.array([[row["step"] for row in rows], [row[name] for row in rows]], dtype=float).T


def downsample(points: np.ndarray) -> np.ndarray:
    """(n, 2) with at most MAX_POINTS rows: of each run of rows the lowest and the highest, so that no spike is lost."""
    if len(points) <= MAX_POINTS:
        return points
    edges = np.linspace(0, len(points), MAX_POINTS // 2 + 1).astype(int)
    kept: set[int] = set()
    for start, stop in itertools.pairwise(edges):
        values = points[start:stop, 1]
        kept |= {int(start + values.argmin()), int(start + values.argmax())}
    return points[sorted(kept)]


def average(points: np.ndarray) -> np.ndarray:
    """(n, 2) with at most MAX_MEANS rows, each the mean of some that follow one another, at the last one's step."""
    if len(points) <= MAX_MEANS:
        return points
    runs = np.array_split(points, MAX_MEANS)
    return np.array([(run[-1, 0], run[:, 1].mean()) for run in runs])


def limits(values: np.ndarray) -> tuple[float, float, bool]:
    """Lowest and highest value shown, and whether the axis is logarithmic: outliers of half a percent may leave it."""
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    if low > 0 and high / low > LOG_FROM_RATIO:
        return max(low, high * 1e-5), high, True
    low = min(low, 0.0) if low < 0.4 * high else low
    return (low, high, False) if high > low else (low - 0.5, low + 0.5, False)


def scale(values: np.ndarray, low: float, high: float, log: bool) -> np.ndarray:
    """Heights from 0 at the bottom to 1 at the top; what lies beyond is set to the edge."""
    if log:
        values, low, high = np.log(np.maximum(values, low)), math.log(low), math.log(high)
    return np.clip((values - low) / (high - low), 0.0, 1.0)


def path(x: np.ndarray, y: np.ndarray) -> str:
    """The points, each from 0 to 1, as an SVG path whose y grows downwards."""
    across, down = (x * WIDTH).round(1), ((1 - y) * HEIGHT).round(1)
    points = " ".join(f"{a:g},{b:g}" for a, b in zip(across, down, strict=True))
    return f"M{points}" if len(x) > 1 else f"M{points}h1"


def linear_ticks(low: float, high: float) -> list[Tick]:
    """Three to six round values."""
    if high <= low:
        return []
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    values = [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]
    return [Tick((value - low) / (high - low), short(value)) for value in values]


def log_ticks(low: float, high: float) -> list[Tick]:
    """Powers of ten, or 1, 2 and 5 of each where there would be few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if math.log10(high / low) > 2.5 else (1, 2, 5)
    values = [factor * 10.0**power for power in powers for factor in factors]
    width = math.log(high / low)
    return [Tick(math.log(value / low) / width, short(value)) for value in values if low <= value <= high]


def short(value: float) -> str:
    """12k for 12000, 1.5M for 1500000, 0.05 as it is."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
