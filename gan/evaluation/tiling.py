"""Tile geometry: how a picture of any size is covered by overlapping tiles, and how much each counts where."""

import numpy as np
from numpy.typing import NDArray


def covering_origins(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along one side, evenly spread, so that neighbours share `overlap` pixels or more.

    Args:
        length: of the side, `tile` or more.
        overlap: from 0 to half a tile.
    """
    num_steps = -(-(length - tile) // (tile - overlap))
    return [round(place) for place in np.linspace(0, length - tile, num_steps + 1)]


def blending_weights(origins: list[int], tile: int, overlap: int) -> NDArray[np.float32]:
    """How much each tile counts at each of its pixels along one side: (tiles, tile), adding up to 1 at every pixel.

    Towards a neighbour the weight falls as a squared cosine over the overlap; at the picture's own borders there
    is nothing to blend with.
    """
    rise = np.ones(tile)
    rise[:overlap] = np.sin(np.pi / 2 * (np.arange(overlap) + 0.5) / max(overlap, 1)) ** 2
    weights = np.ones((len(origins), tile))
    weights[1:] *= rise
    weights[:-1] *= rise[::-1]
    total = np.zeros(origins[-1] + tile)
    for origin, weight in zip(origins, weights, strict=True):
        total[origin : origin + tile] += weight
    for origin, weight in zip(origins, weights, strict=True):
        weight /= total[origin : origin + tile]
    return weights.astype(np.float32)


def reflected_to(image: NDArray[np.uint8], tile: int) -> tuple[NDArray[np.uint8], int, int]:
    """The picture (H, W, 3), mirrored at its borders to at least a tile each way, and the row and the column that it
    then begins at; the very same picture where it is large enough."""
    height, width = image.shape[:2]
    rows, columns = max(tile - height, 0), max(tile - width, 0)
    if not rows and not columns:
        return image, 0, 0
    margins = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
    return np.pad(image, margins, mode="reflect"), rows // 2, columns // 2
