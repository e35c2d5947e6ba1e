import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gan.data.jitter import rescale
from gan.data.randomness import Purpose, draw_weights
from gan.evaluation.evaluate import fixed_masks, inference_mode_of
from gan.evaluation.tiling import blending_weights, covering_origins, reflected_to
from gan.evaluation.translate import Tiling, num_strips, translate, translated_strips
from gan.networks.generator import Generator
from tests.support.pictures import smooth_picture
from tests.support.seam_measure import seam_ratio

TILE = 64
Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def generator() -> Generator:
    """Untrained, but with running statistics and contrasts as after training: nothing of it is near a constant."""
    generator = Generator(2, TILE)
    draw_weights(generator, 0, 0)
    with torch.no_grad():
        generator.last.weight.mul_(15)
        pictures = np.stack([smooth_picture(TILE, TILE, seed).transpose(2, 0, 1) for seed in range(32)])
        for module in generator.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # of all pictures alike
        generator(rescale(torch.from_numpy(pictures)))
    return generator.eval()


def fake_of(generator: Generator, tile: Picture) -> Picture:
    """One tile through the generator, (S, S, 3) in [-1, 1]."""
    with torch.no_grad():
        return generator(rescale(torch.tensor(tile).permute(2, 0, 1)[None]))[0].permute(1, 2, 0).numpy()


def laid_out_at_once(generator: Generator, image: Picture, overlap: int) -> Picture:
    """All tiles of a picture on one canvas, as the strips must come out."""
    height, width = image.shape[:2]
    tops, lefts = (covering_origins(length, TILE, overlap) for length in (height, width))
    canvas = np.zeros((height, width, 3))
    for top, down in zip(tops, blending_weights(tops, TILE, overlap), strict=True):
        for left, across in zip(lefts, blending_weights(lefts, TILE, overlap), strict=True):
            place = np.s_[top : top + TILE, left : left + TILE]
            canvas[place] += fake_of(generator, image[place]) * np.outer(down, across)[..., None]
    return (canvas + 1) * 127.5


@pytest.mark.parametrize("overlap", [0, 16, 32])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 65), (65, 64), (112, 200), (301, 64), (64, 640)])
def test_strips_make_the_picture_that_all_tiles_make_at_once(
    generator: Generator, height: int, width: int, overlap: int
) -> None:
    image = smooth_picture(height, width)
    translated = translate(generator, image, Tiling(overlap=overlap))
    expected = laid_out_at_once(generator, image, overlap)
    assert expected.std() > 20, "a picture of some contrast"
    assert translated.dtype == np.uint8
    np.testing.assert_allclose(translated, expected, atol=0.51)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1), (2, 63), (63, 64), (40, 200)])
@pytest.mark.parametrize("mode", ["eval", "study"])
def test_a_picture_smaller_than_a_tile_keeps_its_size(generator: Generator, height: int, width: int, mode: str) -> None:
    image = smooth_picture(height, width)
    translated = translate(generator, image, Tiling(mode))
    assert translated.shape == image.shape
    mirrored, top, left = reflected_to(image, TILE)
    of_mirrored = translate(generator, mirrored, Tiling(mode))
    np.testing.assert_array_equal(translated, of_mirrored[top : top + height, left : left + width])


def test_the_default_is_eval_mode_with_a_quarter_of_a_tile_shared(generator: Generator) -> None:
    image = smooth_picture(100, 150)
    np.testing.assert_array_equal(translate(generator, image), translate(generator, image, Tiling("eval", 16)))
    assert not np.array_equal(translate(generator, image), translate(generator, image, Tiling("eval", 17)))


@pytest.mark.parametrize("mode", ["eval", "study"])
def test_a_picture_gives_the_same_bytes_each_time_and_leaves_the_generator_as_it_was(
    generator: Generator, mode: str
) -> None:
    def state() -> str:
        return hashlib.sha256(
            b"".join(value.numpy().tobytes() for value in generator.state_dict().values())
        ).hexdigest()

    before, image = state(), smooth_picture(130, 200)
    torch.manual_seed(0)
    first = translate(generator, image, Tiling(mode))
    torch.manual_seed(1)
    np.testing.assert_array_equal(translate(generator, image, Tiling(mode)), first)
    assert state() == before
    assert not generator.training


def test_study_mode_has_each_tiles_own_statistics_and_dropout_by_its_place(generator: Generator) -> None:
    tile = smooth_picture(TILE, TILE)
    side_by_side = translate(generator, np.concatenate([tile, tile], axis=1), Tiling("study", 0))
    left, right = side_by_side[:, :TILE], side_by_side[:, TILE:]
    assert not np.array_equal(left, right), "another place, other masks"
    for position, translated in ((0, left), (TILE, right)):
        masks = fixed_masks(generator, [position], Purpose.TRANSLATION)
        with torch.no_grad(), inference_mode_of(generator, "study"):
            fake = generator(rescale(torch.tensor(tile).permute(2, 0, 1)[None]), masks)[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(translated, (fake + 1) * 127.5, atol=0.51)


class Levelled(Generator):
    """Takes from each tile its mean, so that neighbours differ in brightness as nowhere inside."""

    def forward(self, source: torch.Tensor, dropout_masks: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        return (source - source.mean(dim=(1, 2, 3), keepdim=True)) / 2


def test_tiles_of_different_brightness_show_no_seam_unless_they_are_cut_hard() -> None:
    ramp = np.add.outer(np.arange(460), np.arange(600)) / 1060 * 255
    image, generator = np.repeat(ramp.astype(np.uint8)[..., None], 3, axis=2), Levelled(1, TILE)
    hard, blended = (
        seam_ratio(translate(generator, image, Tiling(overlap=overlap)), TILE, overlap) for overlap in (0, TILE // 4)
    )
    assert hard > 10
    assert blended < 1.1


def test_a_strip_is_there_as_soon_as_its_row_of_tiles_is(generator: Generator) -> None:
    image = smooth_picture(300, 700)
    per_row = len(covering_origins(700, TILE, 16))
    num_tiles = []
    hook = generator.register_forward_hook(lambda _, inputs, output: num_tiles.append(len(output)))
    try:
        strips = []
        for number, strip in enumerate(translated_strips(generator, image), start=1):
            assert sum(num_tiles) == number * per_row
            assert strip.shape[0] <= TILE
            strips.append(strip)
    finally:
        hook.remove()
    assert len(strips) == num_strips(300, TILE) == len(covering_origins(300, TILE, 16))
    np.testing.assert_array_equal(np.concatenate(strips), translate(generator, image))


@pytest.mark.parametrize(
    ("image", "tiling", "message"),
    [
        (np.zeros((80, 80), np.uint8), Tiling(), r"image is uint8 \(80, 80\)"),
        (np.zeros((80, 80, 4), np.uint8), Tiling(), r"image is uint8 \(80, 80, 4\)"),
        (np.zeros((80, 80, 3), np.float32), Tiling(), "image is float32"),
        (np.zeros((0, 80, 3), np.uint8), Tiling(), r"image is uint8 \(0, 80, 3\)"),
        (np.zeros((80, 80, 3), np.uint8), Tiling(overlap=33), "overlap is 33: it must lie from 0 to 32"),
        (np.zeros((80, 80, 3), np.uint8), Tiling(overlap=-1), "overlap is -1"),
        (np.zeros((80, 80, 3), np.uint8), Tiling("train"), "mode is 'train': it must be one of study, eval"),
    ],
)
def test_what_can_not_be_translated_is_refused_before_anything_is_computed(
    generator: Generator, image: Picture, tiling: Tiling, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        translated_strips(generator, image, tiling)
