import itertools

import pytest

from gan.footprint import training_footprint
from gan.sizes import discriminator_size, generator_size, state_size
from gan.state import ModelSettings


@pytest.mark.parametrize(
    ("channels", "patch_size", "receptive_field"),
    [*itertools.product([1, 8], [64, 256], [1, 16, 70]), (8, 1024, 286)],
)
def test_sizes_by_arithmetic_are_those_of_the_networks(channels: int, patch_size: int, receptive_field: int) -> None:
    size = state_size(channels, patch_size, receptive_field)
    built = training_footprint(ModelSettings(channels, receptive_field, patch_size), 1)
    assert (size.weights, size.checkpoint) == (built.weights, built.checkpoint)


def test_the_networks_have_the_published_numbers_of_parameters() -> None:
    assert generator_size(64, 256).num_parameters == 54_413_955
    fields = [discriminator_size(64, field).num_parameters for field in (1, 16, 70, 286)]
    assert fields == [9_024, 139_585, 2_768_705, 11_159_361]
