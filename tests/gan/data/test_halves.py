from pathlib import Path

import numpy as np
import pytest

from gan.data.halves import Middle, flat_share, looks_like_pair, middle_of
from gan.data.pictures import decode_picture
from tests.support.pictures import colourful


def test_real_pairs_have_a_seam_and_each_of_their_halves_goes_on(maps: Path) -> None:
    for path in sorted(maps.glob("*/*.jpg"))[::10]:
        picture = decode_picture(path.read_bytes())
        assert looks_like_pair(picture), path
        for half in (picture[:, :600], picture[:, 600:]):
            assert middle_of(half) is Middle.CONTINUED, path
            for rows in (half[:300], half[300:]):
                assert not looks_like_pair(rows), path


def test_each_real_map_is_flatter_than_its_satellite_picture(maps: Path) -> None:
    for path in sorted(maps.glob("*/*.jpg"))[::10]:
        picture = decode_picture(path.read_bytes())
        assert flat_share(picture[:, 600:]) > flat_share(picture[:, :600]) + 0.1, path


@pytest.mark.parametrize("size", [(140, 70), (140, 69), (32, 16), (2, 1)])
def test_a_picture_without_a_break_in_its_middle_does_not_look_like_a_pair(size: tuple[int, int]) -> None:
    assert not looks_like_pair(np.asarray(colourful(*size)))
    assert not looks_like_pair(np.full((size[1], size[0], 3), 7, np.uint8))


def test_noise_and_one_colour_are_neither_a_pair_nor_a_single_picture() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (70, 140, 3)).astype(np.uint8)
    for picture in (noise, np.full_like(noise, 255), noise[:, :1], noise[:1]):
        assert middle_of(picture) is Middle.UNKNOWN
    assert flat_share(noise[:, :1]) == 0
    assert flat_share(np.full_like(noise, 255)) == 1
