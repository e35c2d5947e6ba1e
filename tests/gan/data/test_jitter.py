import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from gan.data.jitter import enlarged_size, jitter_margin, jitter_pair, rescale
from gan.data.randomness import plan_epoch


def random_pair(batch_size: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    source, target = torch.randint(0, 256, (2, batch_size, 3, size, size), generator=generator, dtype=torch.uint8)
    return source, target


def one_by_one(picture: torch.Tensor, top: int, left: int, flip: bool) -> torch.Tensor:
    """What jitter means, in plain steps: enlarge, crop, mirror."""
    size = picture.shape[-1]
    enlarged = enlarged_size(size)
    large = interpolate(rescale(picture)[None], (enlarged, enlarged), mode="bilinear", antialias=False)[0]
    crop = large[:, top : top + size, left : left + size]
    return crop.flip(-1) if flip else crop


@pytest.mark.parametrize("size", [64, 256])
def test_the_whole_batch_at_once_equals_enlarging_cropping_and_mirroring_one_by_one(size: int) -> None:
    source, target = random_pair(4, size)
    margin = jitter_margin(size)
    tops, lefts = torch.tensor([0, margin, 3, 1]), torch.tensor([margin, 0, 2, 1])
    flips = torch.tensor([False, True, True, False])
    for original, jittered in zip((source, target), jitter_pair(source, target, tops, lefts, flips), strict=True):
        expected = [
            one_by_one(picture, int(top), int(left), bool(flip))
            for picture, top, left, flip in zip(original, tops, lefts, flips, strict=True)
        ]
        torch.testing.assert_close(jittered, torch.stack(expected), atol=2e-3, rtol=0)


def test_source_and_target_stay_aligned() -> None:
    source, _ = random_pair(8, 64)
    plan = plan_epoch(0, 1, 8, jitter_margin(64))
    draws = (torch.from_numpy(draw) for draw in (plan.tops, plan.lefts, plan.flips))
    jittered_source, jittered_target = jitter_pair(source, source, *draws)
    assert torch.equal(jittered_source, jittered_target)
    assert not torch.equal(jittered_source, rescale(source))


def test_patches_are_enlarged_in_proportion() -> None:
    assert [enlarged_size(size) for size in (64, 128, 256, 512)] == [72, 143, 286, 572]


def test_draws_cover_their_range_evenly() -> None:
    plan = plan_epoch(7, 3, 20_000, 30)
    for draws in (plan.tops, plan.lefts):
        counts = np.bincount(draws, minlength=31)
        assert len(counts) == 31
        assert counts.min() > 500
        assert counts.max() < 800
    assert 0.48 < plan.flips.mean() < 0.52
