"""Confidence intervals of means over pictures."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_DRAWS = 2000
CONFIDENCE = 0.95
SEED = 0


class Interval(NamedTuple):
    """The 95 % confidence interval of a mean; NaN where it is unknown."""

    low: float
    high: float


def mean_intervals(values: NDArray[np.float64], clusters: Sequence[str]) -> list[Interval]:
    """Percentile bootstrap of each column's mean, the same for the same values.

    Tiles of one picture are alike, so many of them are worth less than as many pictures. Whole clusters are drawn, with
    replacement, each with all its rows (Davison and Hinkley, Bootstrap Methods, 1997, section 3.8). An infinite value
    makes the means of the draws with it infinite.

    Args:
        values: (n, m), a row a patch and a column a metric.
        clusters: of each of the n rows the name of its cluster, such as a picture's name.

    Returns:
        One interval for each column; of NaN where there are fewer than two clusters, or the column has a NaN.
    """
    names, cluster_of_row = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 2:
        return [Interval(np.nan, np.nan)] * values.shape[1]

    # The mean of a draw needs only the sum and the size of each cluster.
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, cluster_of_row, values)
    counts = np.bincount(cluster_of_row)

    random = np.random.default_rng(SEED)
    means = np.empty((NUM_DRAWS, values.shape[1]))
    for draw in means:
        drawn = random.integers(0, len(names), len(names))
        draw[:] = sums[drawn].sum(axis=0) / counts[drawn].sum()

    # Each end is the mean of some draw: interpolation towards an infinite mean would give NaN.
    tail = (1 - CONFIDENCE) / 2
    low = np.quantile(means, tail, axis=0, method="inverted_cdf")
    high = np.quantile(means, 1 - tail, axis=0, method="inverted_cdf")
    known = ~np.isnan(values).any(axis=0)
    return [Interval(*ends) for ends in np.where(known, (low, high), np.nan).T.tolist()]
