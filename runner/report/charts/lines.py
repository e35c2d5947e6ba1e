"""Charts of values over the training: one line for each trial, as an SVG path of a few hundred points.

The points of a trial have equal distances in epochs, in steps and in images, so the three axes differ by one factor
for each trial. A path is drawn once, from 0 to the trial's end, and a style sheet stretches it for the chosen axis.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from runner.number_format import significant
from runner.report.charts.axes import HEIGHT, WIDTH, Axis, Tick

MAX_POINTS = 300

_LARGEST = 1e100
_MAX_MEANS = 100


class Series(NamedTuple):
    """A trial's values of one chart.

    Attributes:
        points: (n, 2), n at least 1: steps and values.
        end: the step of the last row of its log.
        means: (m, 2): the same for the means of epochs; m is 0 where none are drawn.
        best: the index of the point that is marked; None for none.
    """

    points: np.ndarray
    end: float
    means: np.ndarray = np.empty((0, 2))
    best: int | None = None


class Mark(NamedTuple):
    """A point of a line that stands out, in the units of the SVG, and what it says."""

    x: float
    y: float
    about: str


class Line(NamedTuple):
    """A trial's line in one chart.

    Attributes:
        trial: the index of the trial among the page's trials.
        raw: an SVG path over WIDTH x HEIGHT units, of the logged values.
        means: the same for the means of the epochs; empty where too few epochs have ended.
        last: the last value of the means, or of the raw line where there are no means.
        best: its best point; None where none is marked.
    """

    trial: int
    raw: str
    means: str
    last: str
    best: Mark | None = None


class Chart(NamedTuple):
    """One loss or metric; the vertical axis goes from `low` to `high`, and is logarithmic where `log` is true."""

    name: str
    about: str
    y_title: str
    low: float
    high: float
    log: bool
    ticks: Sequence[Tick]
    lines: Sequence[Line]


def draw_chart(name: str, about: str, y_title: str, series: Mapping[int, Series], axis: Axis) -> Chart:
    """A chart of the trials that have values, under their indices among the page's trials."""
    lines = [_draw_line(index, values, axis) for index, values in series.items()]
    return Chart(name, about, y_title, *axis, axis.ticks, lines)


def read_points(log: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """(n, 2): step and value of the rows that have one; a log has no values that are not finite."""
    rows = [row for row in log if row.get(name) is not None]
    points = np.array([[row["step"] for row in rows], [row[name] for row in rows]], dtype=float).T
    # A training that diverges comes to the end of what numbers can hold, where no axis can be reckoned.
    return np.clip(points, -_LARGEST, _LARGEST)


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


def _draw_line(index: int, series: Series, axis: Axis) -> Line:
    """A trial's line, with its means and its best point where it has them."""
    raw, means = (
        _path(kept[:, 0] / series.end, _scale(kept[:, 1], axis)) if len(kept) else ""
        for kept in (downsample(series.points), _average(series.means))
    )
    last = (series.means if len(series.means) else series.points)[-1, 1]
    best = None
    if series.best is not None:
        step, value = series.points[series.best]
        best = Mark(WIDTH * step / series.end, axis.height(value), significant(float(value)))
    return Line(index, raw, means, significant(float(last)), best)


def _average(points: np.ndarray) -> np.ndarray:
    """(n, 2) with at most _MAX_MEANS rows, each the mean of a run of rows, at the step of the run's last one."""
    if len(points) <= _MAX_MEANS:
        return points
    runs = np.array_split(points, _MAX_MEANS)
    return np.array([(run[-1, 0], run[:, 1].mean()) for run in runs])


def _scale(values: np.ndarray, axis: Axis) -> np.ndarray:
    """Heights from 0 at the bottom to 1 at the top; values outside of the axis are set to its ends."""
    low, high = axis.low, axis.high
    if axis.log:
        values, low, high = np.log(np.maximum(values, low)), np.log(low), np.log(high)
    return np.clip((values - low) / (high - low), 0.0, 1.0)


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """The points, with coordinates from 0 to 1, as an SVG path whose y grows downwards."""
    across, down = (x * WIDTH).round(1), ((1 - y) * HEIGHT).round(1)
    points = " ".join(f"{a:g},{b:g}" for a, b in zip(across, down, strict=True))
    # A single point is drawn as a line of one unit: without a length nothing is seen.
    return f"M{points}" if len(x) > 1 else f"M{points}h1"
