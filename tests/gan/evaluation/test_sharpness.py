"""What the metrics say of blur: the ones that see it, and beside them those that hardly do."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from gan.data.jitter import rescale
from gan.data.pictures import read_pair
from gan.evaluation.metrics import METRICS, Metric
from gan.evaluation.sharpness import double, halve, laplacian_pyramid, radial_power, spectrum, swd
from runner.data.synthesis import draw_pair

SIGMAS = (0.5, 1.0, 2.0, 4.0)
SHARPNESS = {"swd": swd, "spectrum": spectrum}


def satellite(content: bytes) -> Tensor:
    pixels = read_pair([content], 256).satellite[:256, :256]
    return rescale(torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None])


@pytest.fixture(params=["real", "drawn"])
def picture(request: pytest.FixtureRequest) -> Tensor:
    """A satellite picture: (1, 3, 256, 256)."""
    if request.param == "drawn":
        return satellite(draw_pair(0, "val", 0))
    maps: Path = request.getfixturevalue("maps")
    return satellite(min((maps / "val").iterdir()).read_bytes())


@pytest.mark.parametrize("name", SHARPNESS)
def test_more_blur_is_further_away(picture: Tensor, name: str) -> None:
    metric = SHARPNESS[name]
    values = [float(metric(gaussian_blur(picture, 2 * int(4 * sigma) + 3, sigma), picture)) for sigma in SIGMAS]
    assert values[0] > 0
    assert all(later > 1.3 * earlier for earlier, later in itertools.pairwise(values)), values


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.key)
def test_a_metric_favours_a_blurred_picture_over_a_sharp_one_a_few_pixels_off_where_its_entry_says_so(
    picture: Tensor, metric: Metric
) -> None:
    shifted = picture.roll((3, 5), (2, 3))
    blurred = gaussian_blur(shifted, 19, 4.0)
    of_blurred, of_shifted = (metric.goodness(float(metric.load()(other, picture))) for other in (blurred, shifted))
    assert (of_blurred > of_shifted) == metric.favours_blur


@pytest.mark.parametrize("name", SHARPNESS)
def test_sharpness_is_much_worse_for_a_blurred_picture_than_for_one_a_few_pixels_off(
    picture: Tensor, name: str
) -> None:
    shifted = picture.roll((3, 5), (2, 3))
    blurred = gaussian_blur(shifted, 19, 4.0)
    assert SHARPNESS[name](blurred, picture) > 1.3 * SHARPNESS[name](shifted, picture)


@pytest.mark.parametrize("name", SHARPNESS)
def test_equal_pictures_are_at_distance_zero_and_the_order_of_two_does_not_matter(picture: Tensor, name: str) -> None:
    metric, other = SHARPNESS[name], picture.flip(2) * 0.7
    assert float(metric(picture, picture)) == 0.0
    assert float(metric(other, picture)) == float(metric(other, picture)) > 0
    assert float(metric(other, picture)) == pytest.approx(float(metric(picture, other)), rel=1e-5)


@pytest.mark.parametrize("name", SHARPNESS)
def test_a_batch_has_the_values_of_its_pictures(name: str) -> None:
    generated, target = torch.rand(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    alone = [float(SHARPNESS[name](generated[[i]], target[[i]])) for i in range(3)]
    torch.testing.assert_close(SHARPNESS[name](generated, target), torch.tensor(alone))


@pytest.mark.parametrize("name", SHARPNESS)
def test_constant_pictures_have_finite_values(picture: Tensor, name: str) -> None:
    metric, grey, white = SHARPNESS[name], torch.zeros_like(picture), torch.ones_like(picture)
    assert float(metric(grey, white)) == pytest.approx(0.0, abs=1e-4)
    for pair in ((grey, picture), (picture, white)):
        assert 0.3 < float(metric(*pair)) < 100


def test_the_pyramid_ends_at_16_pixels_and_adds_up_to_the_picture(picture: Tensor) -> None:
    levels = laplacian_pyramid(picture)
    assert [level.shape[-1] for level in levels] == [256, 128, 64, 32, 16]
    whole = levels[-1]
    for level in levels[-2::-1]:
        whole = level + double(whole)
    torch.testing.assert_close(whole, picture, atol=1e-5, rtol=0)
    flat = torch.full((1, 3, 64, 64), 0.3)
    torch.testing.assert_close(double(halve(flat)), flat)  # no level sees brightness alone, not even at the edges


def test_a_wave_is_found_in_the_band_of_its_frequency_and_half_its_height_is_6_db_less() -> None:
    wave = torch.cos(2 * torch.pi * 20 * torch.arange(256) / 256).expand(1, 3, 256, 256)
    bands = radial_power(wave)
    assert int(bands[0].argmax()) + 1 == 20
    noise = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 0.5
    assert float(radial_power(noise).mean()) == pytest.approx(0.25 * (0.299**2 + 0.587**2 + 0.114**2), rel=0.03)
    assert float(spectrum(noise / 2, noise)) == pytest.approx(6.02, abs=0.02)


def test_swd_does_not_mind_how_bright_or_strong_in_contrast_a_picture_is(picture: Tensor) -> None:
    assert float(swd(picture * 0.5 + 0.2, picture)) < 1e-5
