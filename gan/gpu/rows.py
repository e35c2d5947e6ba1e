"""Pictures as rows of channels, the form in which the kernels of this package read and write them.

A row is one position; rows are channels last. Sums are taken in a fixed order: the same input gives the same bits.
"""

from torch import Tensor


def as_pictures(like: Tensor, rows: Tensor) -> Tensor:
    """Rows of channels as pictures of the size of `like`."""
    number, _, height, width = like.shape
    return rows.view(number, height, width, -1).permute(0, 3, 1, 2)


def with_rows(x: Tensor) -> tuple[Tensor, int]:
    """Pictures whose positions are evenly spaced rows of channels, and the distance between rows; a copy if need be."""
    batch_size, channels, height, width = x.shape
    strides = x.stride()

    # The stride of a side of length 1 means nothing: the innermost longer side gives the distance.
    if width > 1:
        distance = strides[3]
    elif height > 1:
        distance = strides[2]
    else:
        distance = strides[0] if batch_size > 1 else channels

    # True for channels last, and for a slice of its channels: there the distance is more than `channels`.
    even = (
        (channels == 1 or strides[1] == 1)
        and (height == 1 or strides[2] == distance * width)
        and (batch_size == 1 or strides[0] == distance * width * height)
    )
    if even:
        return x, distance
    return as_pictures(x, x.permute(0, 2, 3, 1).reshape(-1, channels)), channels
