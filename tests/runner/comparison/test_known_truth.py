"""Comparisons where the truth is known: chance is rarely taken for a difference, and differences are found."""

import numpy as np
import pytest
from numpy.typing import NDArray

from runner.comparison.differences import Differences
from runner.comparison.models import MIN_PICTURES, compare_models
from runner.comparison.settings import compare_settings, range_quantile, t_quantile

NUM_SWEEPS = 100
# Of 100 sweeps 5 may be wrong at a level of 5 %; more than 12 are so in 1 of 700 cases if the level holds.
MOST_WRONG = 12


def claims_a_lead(found: Differences) -> bool:
    """Whether the best on any metric is called clearly better than any other."""
    num_metrics, num_cells, _ = found.values.shape
    leaders = found.values.sum(axis=2).argmax(axis=1)
    pairs = [(k, i, j) for k, i in zip(range(num_metrics), leaders, strict=True) for j in range(num_cells) if j != i]
    return any(found.of(*pair).low > 0 for pair in pairs)


def equal_models(random: np.random.Generator, num_pictures: int, num_models: int = 5) -> NDArray[np.float64]:
    """(6, models, patches) of models that are equally good, two patches a picture; the metrics go along in part."""
    pictures = 3 * random.standard_normal((6, 1, num_pictures))
    shared = random.standard_normal((1, num_models, num_pictures))
    of_models = 0.6 * shared + 0.8 * random.standard_normal((6, num_models, num_pictures))
    of_patches = 0.3 * random.standard_normal((6, num_models, 2 * num_pictures))
    return np.repeat(pictures + of_models, 2, axis=2) + of_patches


def names(num_pictures: int) -> list[str]:
    """Of two patches a picture."""
    return [f"{index // 2}.jpg" for index in range(2 * num_pictures)]


@pytest.mark.parametrize("num_pictures", [MIN_PICTURES, 12, 40])
def test_equal_models_are_rarely_told_apart_even_though_the_best_is_chosen_by_the_same_pictures(
    num_pictures: int,
) -> None:
    random = np.random.default_rng(num_pictures)
    wrong = [
        claims_a_lead(compare_models(equal_models(random, num_pictures), names(num_pictures)))
        for _ in range(NUM_SWEEPS)
    ]
    assert sum(wrong) <= MOST_WRONG


def test_a_better_model_is_found_and_by_how_much() -> None:
    random = np.random.default_rng(0)
    hits, found = 0, 0
    for _ in range(40):
        values = equal_models(random, 40)
        values[:, 0] += 1.5  # the standard deviation of a picture's difference is 1.4
        differences = compare_models(values, names(40))
        found += all(differences.of(0, 0, other).is_clear for other in range(1, 5))
        hits += differences.of(0, 0, 1).low < 1.5 < differences.of(0, 0, 1).high
    assert found >= 36
    assert hits >= 38


def test_models_of_the_same_values_do_not_differ_and_a_constant_difference_is_clear() -> None:
    values = np.random.default_rng(0).standard_normal((1, 3, 20))
    values[0, 1] = values[0, 0]
    values[0, 2] = values[0, 0] + 0.5
    differences = compare_models(values, names(10))
    assert not differences.of(0, 0, 1).is_clear
    assert differences.of(0, 2, 0).is_clear
    assert differences.of(0, 2, 0).value == pytest.approx(0.5)
    assert differences.of(0, 0, 2) == pytest.approx([-end for end in (0.5, *differences.of(0, 2, 0)[:0:-1])])


def test_models_that_differ_on_few_pictures_are_not_told_apart_and_do_not_hide_the_others() -> None:
    values = np.random.default_rng(0).standard_normal((2, 4, 20))
    values[0, 1] = values[0, 0]
    values[0, 1, 3] += 1.0  # one picture
    values[1, :2] = 0.5  # two that collapsed to one colour
    values[:, 2] += 10.0
    values[1, 3] = values[1, 2] - 0.5
    with np.errstate(all="raise"):
        differences = compare_models(values, names(10))
    assert not differences.of(0, 0, 1).is_clear
    assert not differences.of(1, 0, 1).is_clear
    assert all(differences.of(metric, 2, other).is_clear for metric in (0, 1) for other in (0, 1))
    assert differences.of(1, 2, 3).is_clear


def test_many_patches_of_few_pictures_are_worth_no_more_than_the_pictures() -> None:
    random = np.random.default_rng(0)
    of_pictures = random.standard_normal((1, 2, 10))
    margins = [
        compare_models(np.repeat(of_pictures, n, axis=2), [f"{i // n}" for i in range(10 * n)]).margins[0, 0, 1]
        for n in (1, 8)
    ]
    assert margins[0] == pytest.approx(margins[1])


def test_a_mean_over_patches_stays_that_where_pictures_have_different_numbers_of_them() -> None:
    values = np.random.default_rng(0).standard_normal((2, 3, 30))
    pictures = [f"{min(index // 2, 9)}" for index in range(30)]
    found = compare_models(values, pictures).values
    means = values.mean(axis=2)
    assert np.allclose(found, means[:, :, None] - means[:, None])


@pytest.mark.parametrize(("num_settings", "num_seeds"), [(2, 2), (2, 3), (9, 2), (9, 3), (24, 5)])
def test_equal_settings_are_rarely_told_apart(num_settings: int, num_seeds: int) -> None:
    random = np.random.default_rng(num_settings)
    wrong = 0
    for _ in range(NUM_SWEEPS):
        seeds = random.standard_normal((6, 1, num_seeds))
        wrong += claims_a_lead(compare_settings(seeds + random.standard_normal((6, num_settings, num_seeds))))
    assert wrong <= MOST_WRONG


@pytest.mark.parametrize("spread", [3, 10])
@pytest.mark.parametrize("num_seeds", [3, 5])
def test_a_setting_that_is_more_uncertain_than_the_others_is_rarely_crowned(num_seeds: int, spread: float) -> None:
    random = np.random.default_rng(num_seeds)
    spreads = np.array([spread, *[1.0] * 8])[:, None]
    wrong = [
        claims_a_lead(compare_settings(spreads * random.standard_normal((6, 9, num_seeds)))) for _ in range(NUM_SWEEPS)
    ]
    assert sum(wrong) <= MOST_WRONG


@pytest.mark.parametrize(("num_seeds", "distance"), [(3, 40), (5, 9)])
def test_a_setting_that_is_better_by_many_spreads_is_found(num_seeds: int, distance: float) -> None:
    random = np.random.default_rng(num_seeds)
    found = 0
    for _ in range(50):
        values = random.standard_normal((6, 9, num_seeds))
        values[:, 0] += distance
        differences = compare_settings(values)
        found += all(differences.of(0, 0, other).is_clear for other in range(1, 9))
    assert found >= 40


def test_what_all_settings_share_with_a_seed_does_not_count() -> None:
    values = np.random.default_rng(0).standard_normal((1, 4, 3))
    shifted = values + np.array([0.0, 50.0, -20.0])
    assert np.allclose(compare_settings(values).margins, compare_settings(shifted).margins)


def test_two_settings_have_the_t_interval_of_their_seeds_differences() -> None:
    values = np.array([[[1.0, 2.0, 4.0], [0.5, 1.8, 3.0]]])
    differences = values[0, 0] - values[0, 1]
    margin = t_quantile(0.975, 2) * differences.std(ddof=1) / np.sqrt(3)
    assert compare_settings(values).margins[0, 0, 1] == pytest.approx(margin, rel=0.03)


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.3027), (0.995, 5, 4.0321), (0.975, 30, 2.0423), (0.99999, 3, 47.928)],
)
def test_quantiles_of_t_are_those_of_the_tables(probability: float, freedom: int, quantile: float) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(quantile, rel=1e-4)


@pytest.mark.parametrize(
    ("probability", "num_means", "freedom", "quantile"),
    [(0.95, 2, 8, 3.261), (0.95, 9, 8, 5.767), (0.99, 3, 10, 5.27), (0.95, 9, 16, 5.031)],
)
def test_quantiles_of_the_range_are_those_of_the_tables(
    probability: float, num_means: int, freedom: int, quantile: float
) -> None:
    assert range_quantile(probability, num_means, freedom) == pytest.approx(quantile, rel=0.01)


def test_too_few_pictures_or_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="5 pictures: 6 are needed"):
        compare_models(np.zeros((1, 2, 10)), names(5))
    with pytest.raises(ValueError, match="1 seeds: 2 are needed"):
        compare_settings(np.zeros((1, 2, 1)))
