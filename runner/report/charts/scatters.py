"""Points: each metric against each parameter that was drawn from a range."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gan.evaluation.metrics import Metric
from runner.config.search_space import Range, is_number
from runner.report.charts.axes import WIDTH, Tick, axis_around
from runner.report.charts.curves import NUM_COLOURS
from runner.report.figures import Figure, figure, present
from runner.report.trials import PageTrial, shown, swept

MAX_POINTS = 400  # of a chart
MANY_POINTS = 100  # without intervals: their bars would cover the points


class Point(NamedTuple):
    """A trial in the units of the SVG, whose y grows downwards.

    Attributes:
        bar: y at the ends of its interval; None where there is none.
        colour: of the style sheet's lines.
        about: the trial and its values, for the point's tooltip.
        bar_across: x at the ends of the interval of the value across; None where there is none.
        tag: what stands beside the point; empty for nothing.
    """

    x: float
    y: float
    bar: tuple[float, float] | None
    colour: int
    best: bool
    about: str
    bar_across: tuple[float, float] | None = None
    tag: str = ""


class Scatter(NamedTuple):
    """One metric against one parameter; `left_out` is how many points are not shown."""

    metric: Metric
    parameter: str
    log: bool
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    points: Sequence[Point]
    left_out: int


class Scatters(NamedTuple):
    """All charts, and the meaning of each colour; the legend is empty where all points have the same one."""

    legend: Sequence[str]
    charts: Sequence[Scatter]


def draw_scatters(
    trials: Sequence[PageTrial], metrics: Sequence[Metric], drawn: Mapping[str, Range]
) -> Scatters | None:
    """The charts of the trials that have a drawn parameter; None where there is no such trial with a figure.

    Args:
        drawn: the ranges that parameters were drawn from, by name.
    """
    shown_trials = [trial for trial in trials if is_drawn(trial, drawn) and not trial.ended_badly]

    # Trials that differ in drawn parameters only have one colour, as long as there are enough colours.
    others = [name for name in swept(shown_trials) if name not in drawn]
    groups = [_group_name(trial, others) for trial in shown_trials]
    names = list(dict.fromkeys(groups))
    legend = names if 1 < len(names) <= NUM_COLOURS else []
    colours = [legend.index(group) if legend else 0 for group in groups]

    charts = []
    for name in drawn:
        coloured = [(t, c) for t, c in zip(shown_trials, colours, strict=True) if _has_number(t, name)]
        known = present([trial for trial, _ in coloured], metrics)
        charts += [_draw_scatter(coloured, metric, drawn[name]) for metric in known]
    return Scatters(legend, charts) if charts else None


def is_drawn(trial: PageTrial, drawn: Mapping[str, Range]) -> bool:
    """True where a parameter of the trial is among those that were drawn."""
    return any(_has_number(trial, name) for name in drawn)


def _has_number(trial: PageTrial, name: str) -> bool:
    """True where the trial has a number for a parameter; another experiment may list none (null) for it."""
    return is_number(trial.params.get(name))


def _group_name(trial: PageTrial, names: Sequence[str]) -> str:
    """The trial's values of these parameters."""
    return ", ".join(f"{name} {shown(trial.params.get(name))}" for name in names)


def _draw_scatter(trials: Sequence[tuple[PageTrial, int]], metric: Metric, drawn: Range) -> Scatter:
    """One chart of trials, each with its colour; at least one must have the metric."""
    found = [(t, colour, value) for t, colour in trials if (value := figure(t.row, metric.key))]
    parameters = [float(trial.params[drawn.field]) for trial, _, _ in found]

    # A grid of another experiment on the page may have 0, which has no logarithm.
    log = drawn.log and min(parameters) > 0
    # The axis shows the whole range, not only the part that the trials have values in.
    x_axis = axis_around([drawn.low, drawn.high, *parameters], log=log)
    y_axis = axis_around([end for _, _, value in found for end in ends_of(value)])

    best = max(metric.goodness(value.value) for _, _, value in found)
    # Of very many points an even choice, with the best among them, shows as much.
    every = -(-len(found) // MAX_POINTS)
    kept = [
        (item, parameter)
        for index, (item, parameter) in enumerate(zip(found, parameters, strict=True))
        if index % every == 0 or metric.goodness(item[2].value) == best
    ]
    has_bars = len(kept) <= MANY_POINTS
    points = [
        Point(
            x=WIDTH * x_axis.position(parameter),
            y=y_axis.height(value.value),
            bar=(y_axis.height(ends_of(value)[0]), y_axis.height(ends_of(value)[1]))
            if value.has_interval and has_bars
            else None,
            colour=colour,
            best=metric.goodness(value.value) == best,
            about=f"{trial.shown}: {metric.title} {value.text} {value.interval}".rstrip(),
        )
        for (trial, colour, value), parameter in kept
    ]
    left_out = len(found) - len(points)
    return Scatter(metric, drawn.field, log, x_axis.ticks, y_axis.ticks, points, left_out)


def ends_of(value: Figure) -> tuple[float, float]:
    """The lowest and the highest point of a figure's mark."""
    known = [end for end in (value.value, value.low, value.high) if end is not None]
    return min(known), max(known)
