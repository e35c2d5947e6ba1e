"""A metric's values as the page writes them, and which metrics and trials it shows."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gan.evaluation.bootstrap import CONFIDENCE, NUM_DRAWS
from gan.evaluation.metrics import METRICS, Metric
from runner.number_format import finite, significant, to_width
from runner.records.results import best_by_turns, result_column
from runner.report.trials import PageTrial

# With the columns of results.json as their keys.
STUDY_METRICS = tuple(metric._replace(key=result_column("study", metric.key)) for metric in METRICS)
EVAL_METRICS = tuple(metric._replace(key=result_column("eval", metric.key)) for metric in METRICS)

# Trials with pictures, curves and settings: as many as a person can compare, and tell apart by colour and dash.
MAX_IN_FULL = 24


class Figure(NamedTuple):
    """A metric's value with its 95 % interval, where one was taken."""

    value: float
    low: float | None
    high: float | None

    @property
    def has_interval(self) -> bool:
        """True where both ends are known."""
        return self.low is not None and self.high is not None

    @property
    def text(self) -> str:
        """The value in four significant digits."""
        return significant(self.value)

    @property
    def interval(self) -> str:
        """The interval in as many decimals as show two digits of its width; empty where there is none."""
        if self.low is None or self.high is None:
            return ""
        # Two patches may have the same value, so that all draws of the bootstrap are equal.
        width = self.high - self.low
        if width <= 0:
            return f"{significant(self.low)}–{significant(self.high)}"
        return f"{to_width(self.low, width)}–{to_width(self.high, width)}"


def figure(row: Mapping[str, Any], key: str) -> Figure | None:
    """A metric of a row of results; None where it is absent or not finite."""
    value = finite(row.get(key))
    if value is None:
        return None
    return Figure(value, finite(row.get(f"{key}_low")), finite(row.get(f"{key}_high")))


def axis_title(metric: Metric) -> str:
    """The title of an axis that has a metric's values."""
    return f"{metric.title}, {f'in {metric.unit}' if metric.unit else 'no unit'}"


def describe_interval(*, over_seeds: bool) -> str:
    """What the interval of a figure is, as the rest of a sentence.

    Args:
        over_seeds: whether the figures are means over seeds.
    """
    if over_seeds:
        return "goes from the lowest to the highest value of its seeds"
    return (
        f"is the {100 * CONFIDENCE:.0f} % interval of the mean over the validation pictures, by a bootstrap of whole "
        f"pictures with {NUM_DRAWS} draws"
    )


def present(trials: Sequence[PageTrial], metrics: Sequence[Metric]) -> list[Metric]:
    """The metrics that at least one trial has a value of."""
    return [metric for metric in metrics if any(figure(trial.row, metric.key) for trial in trials)]


def choose(trials: Sequence[PageTrial]) -> list[PageTrial]:
    """The trials that the page shows in full: all, or of many the best ones by turns and those that run.

    Half of the places are for the running ones, those that are furthest first.
    """
    if len(trials) <= MAX_IN_FULL:
        return list(trials)
    running = [trial for trial in trials if trial.status == "running"]
    running.sort(key=lambda trial: -int(trial.row.get("steps") or 0))
    num_best = MAX_IN_FULL - min(len(running), MAX_IN_FULL // 2)
    best = [trials[index] for index in best_by_turns([trial.row for trial in trials], num_best)]

    # What runs, and then all, fills places that stay free.
    chosen = {id(trial): trial for trial in [*best, *running, *trials]}
    return list(chosen.values())[:MAX_IN_FULL]
