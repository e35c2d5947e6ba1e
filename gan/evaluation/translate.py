"""Translates pictures of any size with a generator that was trained on patches, in blended tiles."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gan.data.jitter import rescale
from gan.data.randomness import Purpose
from gan.evaluation.evaluate import fixed_masks, inference_mode_of, patches_at_once
from gan.evaluation.grids import to_pixels
from gan.evaluation.metrics import MODES
from gan.evaluation.tiling import blending_weights, covering_origins, reflected_to
from gan.networks.generator import Generator


class Tiling(NamedTuple):
    """How the tiles overlap and are computed.

    Attributes:
        mode: `eval` has running statistics and no dropout. `study` has the batch statistics of each tile, and dropout
            masks that depend on the tile's position.
        overlap: the least number of pixels that neighbours share, from 0 to half a patch; None for a quarter of one.
    """

    mode: str = "eval"
    overlap: int | None = None


def translate(generator: Generator, image: NDArray[np.uint8], tiling: Tiling | None = None) -> NDArray[np.uint8]:
    """The fake target of a picture of any size: (H, W, 3) uint8 of (H, W, 3) uint8.

    Computed on the generator's device, in the type of its weights. A picture that is smaller than a patch is mirrored
    at its borders.

    Raises:
        ValueError: the picture has another shape or type, the overlap is out of range, or the mode unknown.
    """
    return np.concatenate(list(translated_strips(generator, image, tiling)))


def translated_strips(
    generator: Generator, image: NDArray[np.uint8], tiling: Tiling | None = None
) -> Iterator[NDArray[np.uint8]]:
    """The same as `translate`, in strips (rows, W, 3) from top to bottom, one for each row of tiles (see `num_strips`).

    Holds one row of tiles in memory, and no whole result. Raises ValueError like `translate`, before the first strip.
    """
    tiling = tiling or Tiling()
    _check_image(image)
    if tiling.mode not in MODES:
        raise ValueError(f"mode is {tiling.mode!r}: it must be one of {', '.join(MODES)}")
    overlap = _resolve_overlap(tiling.overlap, generator.patch_size)
    return _blended_strips(generator, image, tiling.mode, overlap)


def _check_image(image: NDArray[np.uint8]) -> None:
    """Raises ValueError where an array is not an RGB picture."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"image is {image.dtype} {image.shape}: it must be uint8 (H, W, 3)")


def _resolve_overlap(overlap: int | None, patch_size: int) -> int:
    """The overlap in pixels, a quarter of a patch for None; raises ValueError where it is out of range."""
    if overlap is None:
        return patch_size // 4
    if not 0 <= overlap <= patch_size // 2:
        raise ValueError(f"overlap is {overlap}: it must lie from 0 to {patch_size // 2}, half a patch")
    return overlap


def num_strips(height: int, patch_size: int, overlap: int | None = None) -> int:
    """The number of rows of tiles for a picture of this height."""
    return len(covering_origins(max(height, patch_size), patch_size, _resolve_overlap(overlap, patch_size)))


def _blended_strips(
    generator: Generator, image: NDArray[np.uint8], mode: str, overlap: int
) -> Iterator[NDArray[np.uint8]]:
    """Adds each row of tiles to the sum, and yields the part of it that no later row of tiles overlaps."""
    tile = generator.patch_size
    padded, top, left = reflected_to(image, tile)
    height, width = padded.shape[:2]
    tops, lefts = covering_origins(height, tile, overlap), covering_origins(width, tile, overlap)
    row_weights = torch.from_numpy(blending_weights(tops, tile, overlap))
    column_weights = torch.from_numpy(blending_weights(lefts, tile, overlap))

    pending = torch.zeros(3, tile, width)
    for index, row in enumerate(tops):
        fakes = _translated_tiles(generator, padded, row, lefts, mode)
        for column, weights, fake in zip(lefts, column_weights, fakes, strict=True):
            pending[:, :, column : column + tile] += fake * weights * row_weights[index][:, None]

        num_done = tops[index + 1] - row if index + 1 < len(tops) else tile
        rows = to_pixels(pending[:, :num_done]).permute(1, 2, 0).numpy()
        # A picture smaller than a tile was mirrored: the original is cut out of the only row.
        yield np.ascontiguousarray(rows[top : top + image.shape[0], left : left + image.shape[1]])
        pending = torch.cat([pending[:, num_done:], torch.zeros(3, num_done, width)], dim=1)


def _translated_tiles(
    generator: Generator, image: NDArray[np.uint8], row: int, columns: list[int], mode: str
) -> Iterator[Tensor]:
    """The fake target of each tile of a row, from left to right: (3, S, S) float32 in [-1, 1], on the processor."""
    tile, device = generator.patch_size, generator.last.weight.device
    count = patches_at_once(tile)
    for start in range(0, len(columns), count):
        batch = columns[start : start + count]
        tiles = np.stack([image[row : row + tile, column : column + tile].transpose(2, 0, 1) for column in batch])
        source = rescale(torch.from_numpy(tiles).to(device))
        positions = [row * image.shape[1] + column for column in batch]
        masks = fixed_masks(generator, positions, Purpose.TRANSLATION) if mode == "study" else []
        with torch.inference_mode(), inference_mode_of(generator, mode):
            fakes = generator(source, masks).float().cpu()
        yield from fakes
