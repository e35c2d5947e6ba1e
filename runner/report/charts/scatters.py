"""Each metric against each parameter that was drawn from a range."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from runner.config.search_space import Range, is_number
from runner.report.charts.curves import HEIGHT, NUM_COLOURS, WIDTH, Tick, linear_ticks, log_ticks
from runner.report.charts.heatmaps import shown
from runner.report.figures import Figure, Metric, figure, present
from runner.report.records import TrialRecord, swept

MARGIN = 0.06  # of an axis, beyond its outermost point


class Axis(NamedTuple):
    """From `low` to `high`, evenly by the logarithm where `log` is true."""

    low: float
    high: float
    log: bool

    def place(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[Tick]:
        """Its round values."""
        return log_ticks(self.low, self.high) if self.log else linear_ticks(self.low, self.high)


class Point(NamedTuple):
    """A trial in the units of the SVG, whose y grows downwards.

    Attributes:
        bar: y at the ends of its interval; None where there is none.
        colour: of the trials that are alike in all that was not drawn.
        about: the trial and its values, for who points at it.
    """

    x: float
    y: float
    bar: tuple[float, float] | None
    colour: int
    best: bool
    about: str


class Scatter(NamedTuple):
    """One metric against one parameter."""

    metric: Metric
    parameter: str
    log: bool
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    points: Sequence[Point]


class Scatters(NamedTuple):
    """All of them; the legend says what each colour stands for, and is empty where one is enough."""

    legend: Sequence[str]
    charts: Sequence[Scatter]


def draw_scatters(
    trials: Sequence[TrialRecord], metrics: Sequence[Metric], drawn: Mapping[str, Range]
) -> Scatters | None:
    """The charts of the trials that have a drawn parameter; None where there is no such trial with a figure.

    Args:
        drawn: what the parameters were drawn from, by name.
    """
    able = [trial for trial in trials if is_drawn(trial, drawn) and not trial.ended_badly]
    groups = [group_name(trial, [name for name in swept(able) if name not in drawn]) for trial in able]
    names = list(dict.fromkeys(groups))
    legend = names if 1 < len(names) <= NUM_COLOURS else []
    colours = [legend.index(group) if legend else 0 for group in groups]
    charts = [
        draw_scatter([(t, c) for t, c in zip(able, colours, strict=True) if has_number(t, name)], metric, drawn[name])
        for name in drawn
        for metric in present([trial for trial in able if has_number(trial, name)], metrics)
    ]
    return Scatters(legend, charts) if charts else None


def is_drawn(trial: TrialRecord, drawn: Mapping[str, Range]) -> bool:
    """True where a parameter of the trial is among those that were drawn."""
    return any(has_number(trial, name) for name in drawn)


def has_number(trial: TrialRecord, name: str) -> bool:
    """True where the trial has a number for a parameter; another experiment may list none (null) for it."""
    return is_number(trial.params.get(name))


def group_name(trial: TrialRecord, names: Sequence[str]) -> str:
    """The trial's values of these parameters."""
    return ", ".join(f"{name} {shown(trial.params.get(name))}" for name in names)


def draw_scatter(trials: Sequence[tuple[TrialRecord, int]], metric: Metric, drawn: Range) -> Scatter:
    """One chart of trials, each with its colour, of which one at least has the metric."""
    found = [(t, colour, value) for t, colour in trials if (value := figure(t.row, metric.key))]
    values = [float(trial.params[drawn.field]) for trial, _, _ in found]
    log = drawn.log and min(values) > 0  # a grid beside it may have 0
    across = widened([drawn.low, drawn.high, *values], log)
    up = widened([end for _, _, value in found for end in ends(value)], False)
    best = max(metric.goodness(value.value) for _, _, value in found)
    points = [
        Point(
            x=WIDTH * across.place(at),
            y=height(up, value.value),
            bar=(height(up, ends(value)[0]), height(up, ends(value)[1])) if value.has_interval else None,
            colour=colour,
            best=metric.goodness(value.value) == best,
            about=f"{trial.shown}: {metric.title} {value.text} {value.interval}".rstrip(),
        )
        for (trial, colour, value), at in zip(found, values, strict=True)
    ]
    return Scatter(metric, drawn.field, log, across.ticks, up.ticks, points)


def ends(value: Figure) -> tuple[float, float]:
    """The lowest and the highest that a figure's mark reaches."""
    known = [end for end in (value.value, value.low, value.high) if end is not None]
    return min(known), max(known)


def widened(values: Sequence[float], log: bool) -> Axis:
    """An axis on which all values have room."""
    low, high = min(values), max(values)
    if log:
        factor = (high / low) ** MARGIN
        return Axis(low / factor, high * factor, True)
    margin = MARGIN * (high - low) or 0.5
    return Axis(low - margin, high + margin, False)


def height(axis: Axis, value: float) -> float:
    """A value's y in the SVG."""
    return HEIGHT * (1 - axis.place(value))
