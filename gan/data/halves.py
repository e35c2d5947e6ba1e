"""What the pixels of a picture say about its two halves: whether they are a pair, and which of them is the map."""

from enum import Enum

import numpy as np
from numpy.typing import NDArray

_COLUMNS = 16  # on each side of the middle
_SEAM_STEP = 6.0  # real pairs have 9 and more; within a map or a satellite picture it is 4.1 at most
_CONTINUED_STEP = 2.5
_CONTINUED_SHARE = 0.5
_FLAT_STEP = 3 * 2  # the sum over three channels of what JPEG adds to a surface of one colour, 2 of 255
_EVERY_NTH_ROW = 4  # enough for a share of all pixels


class Middle(Enum):
    """What stands in the middle of a picture."""

    SEAM = "seam"  # two pictures meet
    CONTINUED = "continued"  # one picture goes on
    UNKNOWN = "unknown"  # both are possible, as where the picture has one colour there, or is noise


def middle_of(picture: NDArray[np.uint8]) -> Middle:
    """Compares the step between the two middle columns of a picture (H, W, 3) with the steps beside it.

    A seam's step is many times larger. Where one picture goes on, the step is like the others, and much smaller than
    between pixels of different rows: neighbouring columns of one picture are alike.
    """
    height, width = picture.shape[:2]
    middle = width // 2
    if middle <= _COLUMNS:
        return Middle.UNKNOWN

    # int16, because differences of uint8 would wrap around.
    columns = picture[:, middle - _COLUMNS - 1 : middle + _COLUMNS + 1].astype(np.int16)
    steps = np.abs(np.diff(columns, axis=1)).mean(axis=(0, 2))
    step, others = steps[_COLUMNS], np.delete(steps, _COLUMNS).mean()
    if step > _SEAM_STEP * others:
        return Middle.SEAM

    left, right = columns[:, _COLUMNS], columns[:, _COLUMNS + 1]
    of_other_rows = np.abs(left - np.roll(right, height // 2, axis=0)).mean()
    is_alike = step < _CONTINUED_SHARE * of_other_rows and step < _CONTINUED_STEP * others
    return Middle.CONTINUED if is_alike else Middle.UNKNOWN


def looks_like_pair(picture: NDArray[np.uint8]) -> bool:
    """True for a picture (H, W, 3) that is twice as wide as high, and has a seam in the middle."""
    height, width = picture.shape[:2]
    return width == 2 * height and middle_of(picture) is Middle.SEAM


def flat_share(half: NDArray[np.uint8]) -> float:
    """The share of pixels of (H, W, 3) that are as bright as their right neighbour, from 0 to 1.

    A drawn map has 0.58 and more, a satellite picture 0.60 at most, and each map more than its own satellite picture:
    measured on the study's pairs.
    """
    if half.shape[1] < 2:
        return 0.0
    red, green, blue = np.moveaxis(half[::_EVERY_NTH_ROW].astype(np.int16), 2, 0)
    brightness = red + green + blue
    return float((np.abs(np.diff(brightness, axis=1)) <= _FLAT_STEP).mean())
