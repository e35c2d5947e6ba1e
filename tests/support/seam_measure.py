"""How much a picture changes where its tiles begin and end, against nearby."""

import numpy as np
from numpy.typing import NDArray

from gan.evaluation.tiling import covering_origins

PERIOD = 8  # transposed convolutions leave a pattern of 2, 4 and 8 pixels: only the same places in it compare


def seam_ratio(picture: NDArray[np.uint8], tile: int, overlap: int) -> float:
    """Mean step across the borders of tiles over the mean step 8 pixels beside them, inside tiles; 1 is no seam.

    Args:
        picture: (H, W, 3), `tile` or more each way, more than that one way at least.
    """
    across, inside = [], []
    for axis in (0, 1):
        profile = np.abs(np.diff(picture.astype(np.int16), axis=axis)).mean(axis=(1 - axis, 2))
        origins = np.array(covering_origins(picture.shape[axis], tile, overlap))
        borders = np.union1d(origins[1:], origins[:-1] + tile).astype(np.int64) - 1
        beside = np.setdiff1d(np.concatenate([borders - PERIOD, borders + PERIOD]), borders)
        across.append(profile[borders])
        inside.append(profile[beside])
    return float(np.concatenate(across).mean() / np.concatenate(inside).mean())
