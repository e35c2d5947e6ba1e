"""Settings compared over the same seeds: t-intervals of the seeds' differences, for all pairs of settings at once."""

import functools
import math

import numpy as np
from numpy.typing import NDArray

from gan.evaluation.bootstrap import SEED
from runner.comparison.differences import LEVEL, Differences

_NUM_DRAWS = 100_000  # for the quantile of a range: good to 1 %


def compare_settings(values: NDArray[np.float64]) -> Differences:
    """Intervals for the differences between n settings, which hold for all pairs and metrics at once.

    An interval is the wider one of two, each at a level whose remainder is divided by the number of metrics. The first
    takes the spread over seeds from all settings together, as what is left when the means of setting and seed are taken
    off, and Tukey's studentised range for all pairs (Montgomery, Design and Analysis of Experiments, section 4.1). It
    supposes one spread for all settings. The second one takes care of settings with a larger spread: the t-interval of
    the differences between two settings' trials of the same seed. Corrected for all pairs it would be of no use with
    few seeds; divided by a third of the number of settings, the level held in all simulations, whatever the spreads
    (docs/comparing.md).

    Args:
        values: (m, n, s): of each metric and setting the value with each of s seeds; all finite, two seeds at least.

    Returns:
        The differences, and the margins of their intervals.
    """
    num_metrics, num_settings, num_seeds = values.shape
    if num_seeds < 2:
        raise ValueError(f"{num_seeds} seeds: 2 are needed at least")

    by_seed = values[:, :, None] - values[:, None]
    level = 1 - (1 - LEVEL) / num_metrics
    tail = (1 - level) / max(num_settings / 3, 1) / 2
    t = t_quantile(1 - tail, num_seeds - 1)
    own = t * by_seed.std(axis=3, ddof=1) / math.sqrt(num_seeds)

    means = values.mean(axis=2, keepdims=True)
    residuals = values - means - values.mean(axis=1, keepdims=True) + values.mean(axis=(1, 2), keepdims=True)
    freedom = (num_settings - 1) * (num_seeds - 1)
    spreads = np.sqrt((residuals**2).sum(axis=(1, 2)) / freedom)
    q = range_quantile(level, num_settings, freedom)
    pooled = q * spreads / math.sqrt(num_seeds)

    return Differences((means - means.transpose(0, 2, 1)), np.maximum(own, pooled[:, None, None]))


@functools.cache
def t_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution, for probabilities from 0.5 up to 1 and whole degrees of freedom."""
    low, high = 0.0, 1.0
    while _t_probability(high, freedom) < probability:
        high *= 2
    # Halved until the ends meet in double precision.
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _t_probability(middle, freedom) < probability else (low, middle)
    return high


def _t_probability(t: float, freedom: int) -> float:
    """The probability of a value below t >= 0 (Abramowitz and Stegun, Handbook, 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan2(t, math.sqrt(freedom))
    cosine = math.cos(angle)
    is_odd = freedom % 2 == 1

    # Each term of the sum comes from the one before.
    term, total = (cosine if is_odd else 1.0), 0.0
    for index in range(freedom // 2):
        total += term
        term *= cosine**2 * ((2 * index + 2) / (2 * index + 3) if is_odd else (2 * index + 1) / (2 * index + 2))
    within = 2 / math.pi * (angle + math.sin(angle) * total) if is_odd else math.sin(angle) * total
    return (1 + within) / 2


@functools.cache
def range_quantile(probability: float, num_means: int, freedom: int) -> float:
    """The quantile of the studentised range, from seeded draws of what it is defined by.

    Args:
        num_means: normal values of which the range is taken.
        freedom: of the estimate of their standard deviation, by which the range is divided.
    """
    random = np.random.default_rng(SEED)
    means = random.standard_normal((_NUM_DRAWS, num_means))
    spreads = np.sqrt(random.chisquare(freedom, _NUM_DRAWS) / freedom)
    return float(np.quantile(np.ptp(means, axis=1) / spreads, probability))
