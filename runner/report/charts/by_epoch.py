"""The validation metrics by epoch: a chart for each, with the best epoch of each trial marked."""

from collections.abc import Sequence

import numpy as np

from gan.evaluation.metrics import METRICS, Metric
from runner.records.metrics_log import log_column, sample_column
from runner.report.charts.axes import axis_around
from runner.report.charts.lines import Chart, Series, draw_chart, read_points
from runner.report.figures import axis_title
from runner.report.trials import PageTrial


def draw_by_epoch(trials: Sequence[PageTrial]) -> list[Chart]:
    """A chart for each metric that a log has by epoch; none where nothing has been evaluated yet.

    A metric that the best weights are chosen by has a chart of its own for that: it is measured on one half of the
    pictures.
    """
    charts = []
    for metric in METRICS:
        charts += [_draw(metric, trials, log_column("val", "study", metric.key), chooses=False)]
        charts += [_draw(metric, trials, sample_column(metric.key), chooses=True)]
    return [chart for chart in charts if chart is not None]


def _draw(metric: Metric, trials: Sequence[PageTrial], column: str, *, chooses: bool) -> Chart | None:
    """The chart of one column of the logs; None where no log has it.

    Args:
        chooses: whether it is the column that best weights are chosen by.
    """
    series = {}
    for index, trial in enumerate(trials):
        points = read_points(trial.log, column)
        if len(points):
            best = _best_point(metric, trial, points, chooses=chooses)
            series[index] = Series(points, float(trial.log[-1]["step"]), best=best)
    if not series:
        return None
    name = f"{metric.title}, chooses best weights" if chooses else metric.title
    axis = axis_around(np.concatenate([values.points[:, 1] for values in series.values()]).tolist())
    return draw_chart(name, f"{metric.about}; {metric.better}", axis_title(metric), series, axis)


def _best_point(metric: Metric, trial: PageTrial, points: np.ndarray, *, chooses: bool) -> int:
    """The index of the point at the epoch of the best weights where they are known; otherwise of the best value."""
    if chooses and _selects(trial) == metric.key and (epoch := trial.row.get("best_epoch")) is not None:
        steps = [row["step"] for row in trial.log if row["epoch"] == epoch]
        at_epoch = np.flatnonzero(np.isin(points[:, 0], steps))
        if len(at_epoch):
            return int(at_epoch[-1])
    # Of equal ones the first, as with the weights.
    return int(np.argmax([metric.goodness(value) for value in points[:, 1]]))


def _selects(trial: PageTrial) -> str | None:
    """The metric that the best weights of a trial are chosen by."""
    key: str | None = trial.record.get("config", {}).get("evaluation", {}).get("select")
    return key
