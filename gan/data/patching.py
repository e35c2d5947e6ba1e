"""Cutting one half of a picture into square patches."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def tile_origins(height: int, width: int, patch_size: int) -> list[tuple[int, int]]:
    """The (row, column) of each whole tile of a half, row by row.

    For 600x600 pixels and a patch size of 256: (0, 0), (0, 256), (256, 0) and (256, 256). The rest at the right and at
    the bottom is not used.
    """
    return [
        (row * patch_size, column * patch_size)
        for row in range(height // patch_size)
        for column in range(width // patch_size)
    ]


def patch_origins(height: int, width: int, patching: str, patch_size: int) -> list[tuple[int, int]]:
    """The (row, column) of each patch of a half. `resize` makes one patch, of the whole half."""
    return tile_origins(height, width, patch_size) if patching == "tiles" else [(0, 0)]


def cut_patches(half: NDArray[np.uint8], patching: str, patch_size: int) -> NDArray[np.uint8]:
    """The patches of one half, in the order of `patch_origins`.

    Args:
        half: (H, W, 3), at least one patch high and wide.
        patching: `tiles` cuts the half. `resize` shrinks it to one patch (bicubic, antialiased).

    Returns:
        (n, 3, patch_size, patch_size) uint8.
    """
    if patching == "resize":
        pieces = [np.asarray(Image.fromarray(half).resize((patch_size, patch_size), Image.Resampling.BICUBIC))]
    else:
        height, width, _ = half.shape
        origins = tile_origins(height, width, patch_size)
        pieces = [half[row : row + patch_size, column : column + patch_size] for row, column in origins]

    patches = np.empty((len(pieces), 3, patch_size, patch_size), np.uint8)
    for patch, piece in zip(patches, pieces, strict=True):
        patch[...] = piece.transpose(2, 0, 1)
    return patches
