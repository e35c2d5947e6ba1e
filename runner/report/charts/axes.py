"""The axes of the charts: where a value lies, and marks at round values."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from runner.number_format import tick

WIDTH, HEIGHT = 1000, 100  # of a chart in the SVG's own units; the page stretches them

_MARGIN = 0.06  # of an axis, beyond its outermost values


class Tick(NamedTuple):
    """A mark on an axis: its position from 0 to 1, and its label."""

    position: float
    label: str


class Axis(NamedTuple):
    """From `low` to `high`, logarithmic where `log` is true."""

    low: float
    high: float
    log: bool

    def position(self, value: float) -> float:
        """From 0 at the low end to 1 at the high one; outside of the axis less than 0 or more than 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def height(self, value: float) -> float:
        """A value's y in the SVG, which grows downwards."""
        return HEIGHT * (1 - self.position(value))

    @property
    def ticks(self) -> list[Tick]:
        """Marks at round values."""
        return log_ticks(self.low, self.high) if self.log else linear_ticks(self.low, self.high)


def axis_around(values: Sequence[float], *, log: bool = False) -> Axis:
    """An axis with all values on it, and a margin at both ends."""
    low, high = min(values), max(values)
    if log:
        factor = (high / low) ** _MARGIN
        return Axis(low / factor, high * factor, True)
    # Equal values need a margin, too: an axis of length 0 has no positions.
    margin = _MARGIN * (high - low) or 0.5
    return Axis(low - margin, high + margin, False)


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
