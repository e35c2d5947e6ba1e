import numpy as np
import pytest

from gan.evaluation.tiling import blending_weights, covering_origins, reflected_to

TILE = 64
OVERLAPS = (0, 1, 16, 31, 32)


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_tiles_reach_from_border_to_border_and_share_at_least_the_overlap(overlap: int) -> None:
    for length in range(TILE, 6 * TILE):
        origins = covering_origins(length, TILE, overlap)
        assert (origins[0], origins[-1]) == (0, length - TILE)
        steps = np.diff(origins)
        assert (steps > 0).all() and (steps <= TILE - overlap).all()
        assert len(origins) == 1 or (len(origins) - 2) * (TILE - overlap) + TILE < length, "one tile less is too few"


def test_tiles_are_evenly_spread() -> None:
    assert covering_origins(256, 64, 0) == [0, 64, 128, 192]
    for length in range(TILE + 1, 6 * TILE):
        steps = np.diff(covering_origins(length, TILE, 16))
        assert steps.max() - steps.min() <= 1


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("length", [64, 65, 100, 128, 129, 300])
def test_what_the_tiles_count_adds_up_to_one_at_every_pixel(length: int, overlap: int) -> None:
    origins = covering_origins(length, TILE, overlap)
    weights = blending_weights(origins, TILE, overlap)
    assert weights.shape == (len(origins), TILE) and weights.dtype == np.float32
    total = np.zeros(length)
    for origin, weight in zip(origins, weights, strict=True):
        assert (weight > 0).all()
        total[origin : origin + TILE] += weight
    np.testing.assert_allclose(total, 1.0, atol=1e-6)


@pytest.mark.parametrize("length", [80, 100, 112, 300])
@pytest.mark.parametrize("overlap", [16, 32])
def test_a_tile_fades_in_and_out_without_a_step(length: int, overlap: int) -> None:
    origins = covering_origins(length, TILE, overlap)
    for number, weight in enumerate(blending_weights(origins, TILE, overlap)):
        whole = np.concatenate([[0.0] if number else [], weight, [0.0] if number < len(origins) - 1 else []])
        assert np.abs(np.diff(whole)).max() < np.pi / 2 / overlap


def test_without_overlap_tiles_are_laid_side_by_side() -> None:
    assert (blending_weights([0, 64, 128], TILE, 0) == 1).all()


def test_a_picture_that_is_large_enough_is_taken_as_it_is() -> None:
    image = np.zeros((64, 100, 3), np.uint8)
    same, top, left = reflected_to(image, TILE)
    assert same is image and (top, left) == (0, 0)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 200), (2, 63), (5, 64), (63, 300)])
def test_a_small_picture_lies_in_the_middle_of_its_own_mirror_images(height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    mirrored, top, left = reflected_to(image, TILE)
    assert mirrored.shape == (max(height, TILE), max(width, TILE), 3)
    np.testing.assert_array_equal(mirrored[top : top + height, left : left + width], image)
    if 2 < height < TILE - 1:
        np.testing.assert_array_equal(mirrored[top - 1, left : left + width], image[1])
        np.testing.assert_array_equal(mirrored[top + height, left : left + width], image[-2])
