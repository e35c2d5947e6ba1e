"""Metrics as the page speaks of them: their names, which way is better, how a value is written."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from runner.report.records import TrialRecord


class Metric(NamedTuple):
    """A metric of results.json.

    Attributes:
        key: the column's name, `eval_` included.
        about: what it measures, in half a sentence.
    """

    key: str
    title: str
    higher_is_better: bool
    about: str

    @property
    def better(self) -> str:
        """Which way is better, in words."""
        return "higher is better" if self.higher_is_better else "lower is better"

    def goodness(self, value: float) -> float:
        """A number that is larger for a better value."""
        return value if self.higher_is_better else -value


STUDY_METRICS = (
    Metric("ssim", "SSIM", True, "structural similarity to the target"),
    Metric("psnr", "PSNR", True, "peak signal to noise, in dB; kind to blur"),
    Metric("l1", "L1", False, "mean absolute difference of pixels; kind to blur"),
    Metric("hp_l1", "HP-L1", False, "L1 of edges"),
    Metric("swd", "SWD", False, "sliced Wasserstein distance of patches on several scales; sees blur"),
    Metric("spectrum", "Spectrum", False, "distance of the power spectra; sees blur"),
)
EVAL_METRICS = tuple(metric._replace(key=f"eval_{metric.key}") for metric in STUDY_METRICS)


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
        return digits(self.value)

    @property
    def interval(self) -> str:
        """The interval as text, as fine as its width is worth; empty where there is none."""
        if self.low is None or self.high is None:
            return ""
        width = self.high - self.low
        if width <= 0:
            return f"{digits(self.low)}–{digits(self.high)}"
        decimals = max(1 - math.floor(math.log10(width)), 0)
        return f"{self.low:.{decimals}f}–{self.high:.{decimals}f}"


def figure(row: Mapping[str, Any], key: str) -> Figure | None:
    """A metric of a row of results; None where it is absent or not finite."""
    value = finite(row.get(key))
    if value is None:
        return None
    return Figure(value, finite(row.get(f"{key}_low")), finite(row.get(f"{key}_high")))


def present(trials: Sequence[TrialRecord], metrics: Sequence[Metric]) -> list[Metric]:
    """The metrics that some trial has a value of."""
    return [metric for metric in metrics if any(figure(trial.row, metric.key) for trial in trials)]


def finite(value: Any) -> float | None:
    """The value as a float, None where it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def digits(value: float) -> str:
    """Four significant digits, without an exponent for everyday sizes."""
    if 1e3 <= abs(value) < 1e7:
        return f"{value:.0f}"
    return f"{value:#.4g}".rstrip(".") if value else "0"


def duration(seconds: Any) -> str:
    """2 h 05 min, 3 min 07 s or 12.3 s; a dash where it is not known."""
    known = finite(seconds)
    if known is None:
        return "–"
    if known < 60:
        return f"{known:.1f} s"
    minutes, rest = divmod(round(known), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
