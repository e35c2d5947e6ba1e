"""The differences between several things on several metrics, with intervals that hold for all of them at once."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95  # of the intervals of all differences together


class Difference(NamedTuple):
    """A difference of two means, with the ends of its interval."""

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """True where the interval leaves out 0."""
        return self.low > 0 or self.high < 0


class Differences(NamedTuple):
    """All differences of n things on m metrics.

    Attributes:
        values: (m, n, n), at [k, i, j] the mean of i minus that of j on metric k.
        margins: (m, n, n), what the interval has on each side of the difference; infinite where nothing is known.
    """

    values: NDArray[np.float64]
    margins: NDArray[np.float64]

    def of(self, metric: int, one: int, other: int) -> Difference:
        """The difference of two things on one metric, each given by its index."""
        value, margin = float(self.values[metric, one, other]), float(self.margins[metric, one, other])
        return Difference(value, value - margin, value + margin)

    @property
    def num_compared(self) -> int:
        """How many differences the intervals hold for at once: all pairs on all metrics."""
        num_metrics, num_things, _ = self.values.shape
        return num_metrics * num_things * (num_things - 1) // 2
