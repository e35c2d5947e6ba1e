"""How far the means over the pictures at hand may be from those over all such pictures."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_DRAWS = 2000
CONFIDENCE = 0.95
SEED = 0


class Interval(NamedTuple):
    """Where the mean lies with 95 % confidence; NaN where that can't be told."""

    low: float
    high: float


def mean_intervals(values: NDArray[np.float64], clusters: Sequence[str]) -> list[Interval]:
    """Percentile bootstrap of each column's mean, the same for the same values.

    Tiles of one picture are alike, so that many of them tell less than as many pictures do: whole clusters are drawn,
    with replacement, and all their rows with them (Davison and Hinkley, Bootstrap Methods, 1997, section 3.8).
    Infinite values make the means of draws that hold them infinite; an end of the interval is always the mean of
    some draw, and never lies between two.

    Args:
        values: (n, m), a row a patch and a column a metric.
        clusters: what each of the n rows belongs to, a picture's name for example.

    Returns:
        One interval a column; of NaN where there are fewer than two clusters, or the values have a NaN.
    """
    names, places = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 2:
        return [Interval(np.nan, np.nan)] * values.shape[1]
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, places, values)
    counts = np.bincount(places)
    random = np.random.default_rng(SEED)
    means = np.empty((NUM_DRAWS, values.shape[1]))
    for draw in means:
        drawn = random.integers(0, len(names), len(names))
        draw[:] = sums[drawn].sum(axis=0) / counts[drawn].sum()
    tail = (1 - CONFIDENCE) / 2
    low = np.quantile(means, tail, axis=0, method="inverted_cdf")
    high = np.quantile(means, 1 - tail, axis=0, method="inverted_cdf")
    known = ~np.isnan(values).any(axis=0)
    return [Interval(*ends) for ends in np.where(known, (low, high), np.nan).T.tolist()]
