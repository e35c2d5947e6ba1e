"""How overlapping tiles cover a picture of any size, and the weights that blend them."""

import numpy as np
from numpy.typing import NDArray


def covering_origins(length: int, tile: int, overlap: int) -> list[int]:
    """The first pixels of the tiles along one side, evenly spaced; neighbours share `overlap` pixels or more.

    Args:
        length: of the side; at least `tile`.
        overlap: from 0 to half a tile.
    """
    num_steps = -(-(length - tile) // (tile - overlap))
    return [round(origin) for origin in np.linspace(0, length - tile, num_steps + 1)]


def blending_weights(origins: list[int], tile: int, overlap: int) -> NDArray[np.float32]:
    """The weight of each tile at each of its pixels along one side: (tiles, tile); the sum is 1 at every pixel.

    Towards a neighbour the weight falls as a squared cosine over the overlap. At the borders of the picture it does
    not fall.
    """
    rise = np.ones(tile)
    rise[:overlap] = np.sin(np.pi / 2 * (np.arange(overlap) + 0.5) / max(overlap, 1)) ** 2
    weights = np.ones((len(origins), tile))
    weights[1:] *= rise
    weights[:-1] *= rise[::-1]

    # Evenly spaced tiles may share more than the overlap, where the sum of their weights is more than 1.
    total = np.zeros(origins[-1] + tile)
    for origin, weight in zip(origins, weights, strict=True):
        total[origin : origin + tile] += weight
    for origin, weight in zip(origins, weights, strict=True):
        weight /= total[origin : origin + tile]
    return weights.astype(np.float32)


def reflected_to(image: NDArray[np.uint8], tile: int) -> tuple[NDArray[np.uint8], int, int]:
    """Mirrors a picture that is smaller than a tile at its borders, until it is as large.

    Args:
        image: (H, W, 3).

    Returns:
        The picture, and the row and the column at which the original begins in it. A picture that is large enough is
        returned as it is, without a copy.
    """
    height, width = image.shape[:2]
    rows, columns = max(tile - height, 0), max(tile - width, 0)
    if not rows and not columns:
        return image, 0, 0
    margins = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
    return np.pad(image, margins, mode="reflect"), rows // 2, columns // 2
