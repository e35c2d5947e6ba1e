"""Fidelity against sharpness: a metric that favours blur against one that sees it, and the trials between the two."""

from collections.abc import Sequence
from typing import NamedTuple

from gan.evaluation.metrics import Metric
from runner.report.charts.axes import WIDTH, Axis, Tick, axis_around
from runner.report.charts.curves import NUM_COLOURS
from runner.report.charts.scatters import MANY_POINTS, MAX_POINTS, Point, ends_of
from runner.report.figures import Figure, figure, present
from runner.report.trials import PageTrial, shown, swept, values_of

_MAX_NAMED = 12  # of the front


class Rated(NamedTuple):
    """A trial, or a setting over its seeds, with both values."""

    trial: PageTrial
    fidelity: Figure
    sharpness: Figure


class Fidelity(NamedTuple):
    """The chart. Both metrics are distances, so that the lower left is the best corner.

    Attributes:
        fidelity: the metric across, which favours blur.
        sharpness: the metric up, which sees it.
        legend: the meaning of each colour; empty where all points have the same one.
        points: as many as are shown; those of the front are marked.
        path: the front as an SVG path of steps: what lies above it is beaten by a trial on it.
        front: the trials that no other one beats, the best fidelity first; at most as many as the page names.
        more: how many more there are.
        left_out: points that are not shown.
    """

    fidelity: Metric
    sharpness: Metric
    legend: Sequence[str]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    points: Sequence[Point]
    path: str
    front: Sequence[Rated]
    more: int
    left_out: int


def draw_fidelity(trials: Sequence[PageTrial], metrics: Sequence[Metric]) -> Fidelity | None:
    """The chart of the trials that ended well; None where fewer than two have both values.

    Args:
        trials: or settings over their seeds.
    """
    # The others were measured on a sample of the patches.
    ended = [trial for trial in trials if trial.is_ranked and trial.is_done]
    distances = [metric for metric in present(ended, metrics) if not metric.higher_is_better]
    fidelity = next((metric for metric in distances if metric.favours_blur), None)
    sharpness = next((metric for metric in distances if not metric.favours_blur), None)
    if fidelity is None or sharpness is None:
        return None
    rated = [
        Rated(trial, near, sharp)
        for trial in ended
        if (near := figure(trial.row, fidelity.key)) and (sharp := figure(trial.row, sharpness.key))
    ]
    if len(rated) < 2:
        return None

    x_axis = axis_around([end for one in rated for end in ends_of(one.fidelity)])
    y_axis = axis_around([end for one in rated for end in ends_of(one.sharpness)])
    front = pareto_front(rated)
    places = {id(one.trial): place for place, one in enumerate(front)}

    # Of very many points an even choice shows as much, with the whole front.
    every = -(-len(rated) // MAX_POINTS)
    kept = [one for index, one in enumerate(rated) if index % every == 0 or id(one.trial) in places]
    legend, colours = _colours([one.trial for one in kept])
    points = []
    for one, colour in zip(kept, colours, strict=True):
        point = _point(one, x_axis, y_axis, colour, f"{fidelity.title} {{}}, {sharpness.title} {{}}")
        place = places.get(id(one.trial))
        tag = str(place + 1) if place is not None and place < _MAX_NAMED else ""
        point = point._replace(best=place is not None, tag=tag)
        points.append(point if len(kept) <= MANY_POINTS else point._replace(bar=None, bar_across=None))

    return Fidelity(
        fidelity,
        sharpness,
        legend,
        x_axis.ticks,
        y_axis.ticks,
        points,
        path=_steps(front, x_axis, y_axis),
        front=front[:_MAX_NAMED],
        more=max(len(front) - _MAX_NAMED, 0),
        left_out=len(rated) - len(kept),
    )


def pareto_front(rated: Sequence[Rated]) -> list[Rated]:
    """Those that no other one beats: none is better on one metric and at least as good on the other.

    The best fidelity comes first. Where both values are equal, all of them are on the front.
    """
    front: list[Rated] = []
    for one in sorted(rated, key=_values):
        # All before it are at least as near; of these the last one on the front is the sharpest.
        if not front or _values(one)[1] < _values(front[-1])[1] or _values(one) == _values(front[-1]):
            front.append(one)
    return front


def _values(one: Rated) -> tuple[float, float]:
    return one.fidelity.value, one.sharpness.value


def _point(one: Rated, x_axis: Axis, y_axis: Axis, colour: int, about: str) -> Point:
    """A trial's point with both intervals, where they are known.

    Args:
        about: with places for the two values.
    """
    left, right = (WIDTH * x_axis.position(end) for end in ends_of(one.fidelity))
    low, high = map(y_axis.height, ends_of(one.sharpness))
    return Point(
        x=WIDTH * x_axis.position(one.fidelity.value),
        y=y_axis.height(one.sharpness.value),
        bar=(low, high) if one.sharpness.has_interval else None,
        colour=colour,
        best=False,
        about=f"{one.trial.shown}: {about.format(_text(one.fidelity), _text(one.sharpness))}",
        bar_across=(left, right) if one.fidelity.has_interval else None,
    )


def _colours(trials: Sequence[PageTrial]) -> tuple[list[str], list[int]]:
    """The legend, and each trial's colour: one for each value of the first swept parameter, if there are enough."""
    names = swept(trials)
    values = [shown(value) for value in values_of(trials, names[0])] if names else []
    if not 1 < len(values) <= NUM_COLOURS:
        return [], [0] * len(trials)
    return [f"{names[0]} {value}" for value in values], [values.index(shown(t.params.get(names[0]))) for t in trials]


def _text(value: Figure) -> str:
    return f"{value.text} ({value.interval})" if value.interval else value.text


def _steps(front: Sequence[Rated], x_axis: Axis, y_axis: Axis) -> str:
    """From the upper edge of the chart through all points of the front, in steps, to its right edge."""
    path, height = "", 0.0
    for one in front:
        x, y = WIDTH * x_axis.position(one.fidelity.value), y_axis.height(one.sharpness.value)
        path += f"L{x:.1f},{height:.2f}V{y:.2f}" if path else f"M{x:.1f},0V{y:.2f}"
        height = y
    return f"{path}H{WIDTH}"
