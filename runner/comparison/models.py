"""Trained models compared by the same pictures: the paired bootstrap of whole pictures."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gan.evaluation.bootstrap import NUM_DRAWS, SEED
from runner.comparison.differences import LEVEL, Differences

# With fewer, all differences have the same sign in more than 5 % of cases by chance alone (2 / 2^5).
MIN_PICTURES = 6


def compare_models(values: NDArray[np.float64], pictures: Sequence[str]) -> Differences:
    """Intervals for the differences between n models, which hold for all pairs and metrics at once.

    The same pictures are drawn for all models, with replacement, each with all its patches. A difference is divided by
    its standard error in each draw (bootstrap-t: Davison and Hinkley, Bootstrap Methods, 1997, section 5.2.1), because
    percentiles alone are too narrow for few pictures. The largest of these over all pairs and metrics is noted (the
    single-step max-T of Westfall and Young, Resampling-Based Multiple Testing, 1993): that few draws exceed is what
    the intervals are made of. So whoever is chosen as the best by the same pictures may be compared with all others.

    Args:
        values: (m, n, p): of each metric and model the value of each of p patches; all finite.
        pictures: of each patch the name of its picture; MIN_PICTURES different ones at least.

    Returns:
        The differences, and the margins of their intervals.
    """
    num_metrics, num_models, _ = values.shape
    names, picture_of_patch = np.unique(np.asarray(pictures), return_inverse=True)
    if len(names) < MIN_PICTURES:
        raise ValueError(f"{len(names)} pictures: {MIN_PICTURES} are needed at least")

    # A mean over patches needs only the sum and the number of each picture's patches.
    counts = np.bincount(picture_of_patch).astype(float)
    sums = np.zeros((len(names), num_metrics, num_models))
    np.add.at(sums, picture_of_patch, values.transpose(2, 0, 1))
    first, second = np.triu_indices(num_models, 1)
    pairs = (sums[:, :, first] - sums[:, :, second]).reshape(len(names), -1)

    observed, errors = _ratios(np.ones((1, len(names))), pairs, counts)
    random = np.random.default_rng(SEED)
    draws = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=NUM_DRAWS).astype(float)
    drawn, errors_of_draws = _ratios(draws, pairs, counts)
    # Models that differ on a few pictures only, as two that collapsed to one colour, have draws without any of these.
    is_told = (np.abs(pairs) > 0).sum(axis=0) >= MIN_PICTURES
    largest = _largest(np.abs(drawn - observed)[:, is_told], errors_of_draws[:, is_told])
    margins = np.full(pairs.shape[1], np.inf)
    if math.isfinite(largest):
        margins[is_told] = largest * errors[0, is_told]

    return Differences(
        _square(observed[0], num_metrics, num_models, sign=-1), _square(margins, num_metrics, num_models, sign=1)
    )


def _ratios(
    draws: NDArray[np.float64], pairs: NDArray[np.float64], counts: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean difference of each pair in each draw, and its standard error; (draws, pairs) each.

    Args:
        draws: (draws, pictures): how often each picture was drawn.
        pairs: (pictures, pairs): sums of differences over a picture's patches.
        counts: of the patches of each picture.
    """
    num_pictures = len(counts)
    totals = draws @ counts[:, None]
    means = draws @ pairs / totals

    # The variance of a ratio: a picture counts by how far its sum is from what the mean makes of its patches.
    squares = (
        draws @ pairs**2 - 2 * means * (draws @ (counts[:, None] * pairs)) + means**2 * (draws @ counts[:, None] ** 2)
    )
    variances = np.maximum(squares, 0.0) * num_pictures / (num_pictures - 1)
    return means, np.sqrt(variances) / totals


def _largest(distances: NDArray[np.float64], errors: NDArray[np.float64]) -> float:
    """What the largest distance of a draw, in standard errors, exceeds in few draws only."""
    # A draw of one picture alone has no error: it is as far away as can be, unless all pictures say the same.
    if not distances.size:
        return 0.0
    is_same = distances <= 1e-12 * np.max(distances, initial=1e-300)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(is_same, 0.0, distances / errors)
    return float(np.quantile(ratios.max(axis=1), LEVEL, method="inverted_cdf"))


def _square(pairs: NDArray[np.float64], num_metrics: int, num_models: int, *, sign: int) -> NDArray[np.float64]:
    """(m, n, n) of one value for each metric and pair; `sign` is what exchanging the two does to it."""
    square = np.zeros((num_metrics, num_models, num_models))
    first, second = np.triu_indices(num_models, 1)
    square[:, first, second] = pairs.reshape(num_metrics, -1)
    square[:, second, first] = sign * square[:, first, second]
    return square
