import numpy as np
import pytest

from gan.evaluation.bootstrap import mean_intervals

RANDOM = np.random.default_rng(1)


def names(num_clusters: int, num_each: int) -> list[str]:
    return [f"{cluster}.jpg" for cluster in range(num_clusters) for _ in range(num_each)]


def test_intervals_hold_the_true_mean_about_as_often_as_they_say() -> None:
    held = 0
    for _ in range(40):
        values = np.repeat(RANDOM.normal(3.0, 1.0, 30), 4)[:, None]
        (interval,) = mean_intervals(values, names(30, 4))
        held += interval.low < 3.0 < interval.high
    assert 33 <= held <= 40


def test_tiles_of_one_picture_tell_no_more_than_one_of_them() -> None:
    pictures = RANDOM.normal(size=25)
    (alone,) = mean_intervals(pictures[:, None], names(25, 1))
    (tiled,) = mean_intervals(np.repeat(pictures, 9)[:, None], names(25, 9))
    assert tiled == pytest.approx(alone)
    (as_if_independent,) = mean_intervals(np.repeat(pictures, 9)[:, None], names(225, 1))
    assert as_if_independent.high - as_if_independent.low < 0.5 * (tiled.high - tiled.low)


def test_the_same_values_have_the_same_interval_around_their_mean() -> None:
    values = RANDOM.normal(size=(24, 2))
    first, again = (mean_intervals(values, names(8, 3)) for _ in range(2))
    assert first == again
    for interval, mean in zip(first, values.mean(axis=0), strict=True):
        assert interval.low < mean < interval.high


def test_infinite_and_missing_values_spoil_no_other_column() -> None:
    values = RANDOM.normal(size=(20, 3))
    values[4, 0], values[4, 1] = np.inf, np.nan
    infinite, missing, sound = mean_intervals(values, names(20, 1))
    assert np.isfinite(infinite.low) and infinite.high == np.inf  # some draws are without the one infinite picture
    assert np.isnan(missing).all()
    assert np.isfinite(sound).all()


def test_one_picture_has_no_interval() -> None:
    assert np.isnan(mean_intervals(np.ones((4, 1)), ["a"] * 4)).all()
