"""The loss curves: a chart for each loss. And how the line of each trial looks, in all charts over the training."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gan.training.loss_names import LOSSES, Loss
from runner.report.charts.axes import Axis, Tick, linear_ticks
from runner.report.charts.lines import Chart, Series, draw_chart, read_points
from runner.report.trials import PageTrial, swept, values_of

UNITS = ("epochs", "steps", "images")
NUM_COLOURS, NUM_DASHES = 7, 4  # as many as report.css has

_MIN_MEANS = 3  # fewer make no line
_MEAN = "epoch_mean/"
_MIN_LOG_RATIO = 20.0  # of the highest to the lowest value, for a logarithmic axis

# The columns of metrics.jsonl that the curves are drawn from.
COLUMNS = ("step", "epoch", *(loss.name for loss in LOSSES), *(f"{_MEAN}{loss.name}" for loss in LOSSES))


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
    charts = [chart for loss in LOSSES if (chart := _draw_loss(loss, trials))]
    return Curves(charts, styles, {unit: linear_ticks(0.0, end) for unit, end in ends.items()}, ends)


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


def _draw_loss(loss: Loss, trials: Sequence[PageTrial]) -> Chart | None:
    """The chart of one loss; None where no log has it."""
    series = {}
    for index, trial in enumerate(trials):
        points = read_points(trial.log, loss.name)
        if not len(points):
            continue
        # Single batches are noisy: the means of epochs are drawn, too, where there are enough of them.
        means = read_points(trial.log, f"{_MEAN}{loss.name}")
        means = means if len(means) >= _MIN_MEANS else means[:0]
        series[index] = Series(points, float(trial.log[-1]["step"]), means)
    if not series:
        return None
    # All trials share one axis, so that their lines can be compared.
    axis = _limits(np.concatenate([values.points[:, 1] for values in series.values()]))
    return draw_chart(loss.name, loss.meaning, "loss, no unit", series, axis)


def _limits(values: np.ndarray) -> Axis:
    """From the lowest to the highest value shown, logarithmic where they are far apart."""
    # Half a percent of the values may lie outside at each end: one spike would flatten all lines.
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    if low > 0 and high / low > _MIN_LOG_RATIO:
        # At most five powers of ten: a few values near zero would flatten all other lines.
        return Axis(max(low, high * 1e-5), high, True)

    # An axis that begins not far above zero begins at zero.
    low = min(low, 0.0) if low < 0.4 * high else low
    # Where all values are equal, the axis gets a length of 1: its positions are divided by its length.
    return Axis(low, high, False) if high > low else Axis(low - 0.5, low + 0.5, False)
