"""Random jitter: enlarge, crop back, perhaps mirror, the same for a pair's source and target."""

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from gan.gpu.availability import has_kernels

_ENLARGED_OF_256 = 286


def enlarged_size(patch_size: int) -> int:
    """Side in pixels that a patch is enlarged to before the crop: 286 for 256, in proportion otherwise."""
    return (2 * patch_size * _ENLARGED_OF_256 + 256) // 512


def jitter_margin(patch_size: int) -> int:
    """The largest top or left of the crop."""
    return enlarged_size(patch_size) - patch_size


def jitter_pair(source: Tensor, target: Tensor, tops: Tensor, lefts: Tensor, flips: Tensor) -> tuple[Tensor, Tensor]:
    """Bilinear enlargement without antialiasing, crop and mirroring, as one resampling of the whole batch.

    Source and target are sampled at the same places, so that a pair stays aligned.

    Args:
        source, target: (N, 3, S, S), uint8 or float in 0 to 255.
        tops, lefts: (N,) crop origins in the enlarged picture, 0 to `jitter_margin(S)`.
        flips: (N,) bool, or 0 and 1, mirror left to right.

    Returns:
        source and target, (N, 3, S, S) float32 in [-1, 1], on the inputs' device.
    """
    size = source.shape[-1]
    rows = _sampled_positions(tops, size)
    columns = _sampled_positions(lefts, size)
    columns = torch.where(flips[:, None].bool(), columns.flip(1), columns)
    # grid_sample takes (N, H, W, 2) with x before y.
    grid = torch.stack([columns[:, None, :].expand(-1, size, -1), rows[:, :, None].expand(-1, -1, size)], dim=-1)
    pair = rescale(torch.cat([source, target], dim=1))
    jittered = grid_sample(pair, grid, mode="bilinear", padding_mode="border", align_corners=False)
    # Rounding may leave a value a hair outside the range of what it is an average of.
    first, second = torch.split(jittered.clamp(-1.0, 1.0), 3, dim=1)
    return first, second


def jitter_batch(source: Tensor, target: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """`jitter_pair` of some of the patches; on a GPU by one kernel, which gives them channels last.

    Args:
        source, target: (m, 3, S, S) uint8.
        places: (4, N) int64 on their device: which patches, and their tops, lefts and flips.

    Returns:
        source and target, (N, 3, S, S) float32 in [-1, 1].
    """
    if has_kernels(source.device):
        from gan.gpu.jitter import jitter  # needs Triton

        return jitter(source, target, places, enlarged_size(source.shape[-1]))
    indices, *draws = places.unbind()
    return jitter_pair(source[indices], target[indices], *draws)


def _sampled_positions(starts: Tensor, size: int) -> Tensor:
    """(N, size) positions along one axis, in grid_sample's [-1, 1], that a crop from `starts` reads."""
    enlarged = enlarged_size(size)
    pixels = torch.arange(size, device=starts.device)[None, :] + starts[:, None]
    return (2.0 * pixels.float() + 1.0) / enlarged - 1.0


def rescale(pixels: Tensor) -> Tensor:
    """0 to 255 as float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1.0
