"""Losses, metrics, tiles and rescaling against what the study's own functions gave."""

import numpy as np
import pytest
import torch

from gan.data.jitter import rescale
from gan.data.patching import cut_patches, patch_origins, tile_origins
from gan.evaluation.metrics import EPOCH_METRICS, Metric
from gan.evaluation.similarity import hp_l1
from gan.training.loss_names import LOSSES
from gan.training.losses import LOSS_NAMES, discriminator_loss, generator_loss

Study = dict[str, np.ndarray]


@pytest.mark.parametrize("case", [0, 1])
def test_losses_are_the_studys(study: Study, case: int) -> None:
    def given(name: str) -> torch.Tensor:
        return torch.from_numpy(study[f"loss{case}_{name}"])

    generator = generator_loss(given("fake_logits"), given("generated"), given("target"), 100.0)
    discriminator = discriminator_loss(given("real_logits"), given("fake_logits"))
    np.testing.assert_allclose([*generator, *discriminator], study[f"loss{case}_expected"], rtol=1e-5)


def test_losses_have_the_studys_names() -> None:
    assert LOSS_NAMES == (
        "total_gen_loss",
        "fake_d_real_class_loss",
        "l1_loss",
        "total_disc_loss",
        "real_d_loss",
        "fake_d_loss",
    )


def test_each_loss_has_an_entry_in_the_table_of_meanings() -> None:
    assert tuple(loss.name for loss in LOSSES) == LOSS_NAMES
    assert all(loss.meaning for loss in LOSSES)


@pytest.mark.parametrize("metric", EPOCH_METRICS, ids=lambda metric: metric.key)
def test_metrics_are_the_studys(study: Study, metric: Metric) -> None:
    generated, target = (torch.from_numpy(study[f"metric_{part}"]) for part in ("generated", "target"))
    expected = np.nan_to_num(study[f"metric_{metric.key}"], nan=0.0)
    np.testing.assert_allclose(metric.load()(generated, target), expected, rtol=2e-5, atol=1e-6)


def test_a_constant_picture_has_an_hp_l1_of_zero_not_nan() -> None:
    assert float(hp_l1(torch.zeros(1, 3, 16, 16), torch.rand(1, 3, 16, 16))) == 0.0


def test_tiles_are_the_studys(study: Study) -> None:
    assert sorted(tile_origins(600, 600, 256)) == sorted(map(tuple, study["patch_origins"].tolist()))
    assert tile_origins(600, 600, 256) == [(0, 0), (0, 256), (256, 0), (256, 256)]


@pytest.mark.parametrize(
    ("height", "width", "size", "count"), [(600, 600, 64, 81), (300, 700, 256, 2), (64, 64, 64, 1)]
)
def test_any_size_gives_the_whole_tiles_that_fit(height: int, width: int, size: int, count: int) -> None:
    assert len(tile_origins(height, width, size)) == count


def test_cut_tiles_hold_the_pixels_at_their_origins() -> None:
    half = np.random.default_rng(0).integers(0, 256, (130, 200, 3), dtype=np.uint8)
    tiles = cut_patches(half, "tiles", 64)
    for tile, (row, column) in zip(tiles, patch_origins(130, 200, "tiles", 64), strict=True):
        np.testing.assert_array_equal(tile.transpose(1, 2, 0), half[row : row + 64, column : column + 64])


def test_resizing_gives_one_patch_of_the_whole_half() -> None:
    half = np.full((600, 600, 3), 40, np.uint8)
    half[:, 300:] = 200
    (patch,) = cut_patches(half, "resize", 256)
    assert patch.shape == (3, 256, 256)
    assert set(patch[:, :, :120].flatten()) == {40}
    assert set(patch[:, :, 136:].flatten()) == {200}


def test_pixels_are_rescaled_as_the_study_does(study: Study) -> None:
    np.testing.assert_allclose(rescale(torch.from_numpy(study["rescale_in"])), study["rescale_out"], atol=1e-6)
