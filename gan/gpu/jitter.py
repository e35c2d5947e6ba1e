"""Random jitter of a batch as one kernel, which reads the patches where they stay on the GPU."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gan.gpu.rows import as_pictures


def jitter(source: Tensor, target: Tensor, places: Tensor, enlarged: int) -> tuple[Tensor, Tensor]:
    """See `gan.data.jitter.jitter_batch`; `enlarged` is the side that patches are enlarged to."""
    number, size = places.shape[1], source.shape[-1]
    results = [source.new_empty((number * size * size, 3), dtype=torch.float32) for _ in range(2)]
    _jitter_kernel[(number * size,)](source, target, places, *results, number, size, enlarged, SIZE=size)
    like = source[:1].expand(number, -1, -1, -1)
    return as_pictures(like, results[0]), as_pictures(like, results[1])


@triton.jit(do_not_specialize=["number", "size", "enlarged"])
def _jitter_kernel(
    source, target, places, jittered_source, jittered_target, number, size, enlarged, SIZE: tl.constexpr
):
    """One row of a pair."""
    picture, row = tl.program_id(0) // size, tl.program_id(0) % size
    # `places` has four rows of `number` values: patches, tops, lefts and flips.
    index, top = tl.load(places + picture), tl.load(places + number + picture)
    left, flip = tl.load(places + 2 * number + picture), tl.load(places + 3 * number + picture)
    # SIZE equals `size`, because tl.arange needs a length that is known when the kernel is compiled.
    column = tl.arange(0, SIZE)
    y = _sampled_position(top + row, size, enlarged)
    x = _sampled_position(left + tl.where(flip != 0, size - 1 - column, column), size, enlarged)
    result = (tl.program_id(0).to(tl.int64) * size + column) * 3
    for channel in tl.static_range(3):
        plane = (index * 3 + channel) * size * size
        _jitter_row(source + plane, jittered_source + result + channel, x, y, size)
        _jitter_row(target + plane, jittered_target + result + channel, x, y, size)


@triton.jit
def _sampled_position(pixel, size, enlarged):
    """Where a picture of `size` is read for a pixel of it enlarged, as grid_sample reckons; borders go on outside."""
    # First grid_sample's coordinate in [-1, 1], then its pixel with align_corners=False.
    position = (2.0 * pixel.to(tl.float32) + 1.0) / enlarged - 1.0
    position = ((position + 1.0) * size - 1.0) / 2.0
    return tl.minimum(tl.maximum(position, 0.0), size - 1.0)


@triton.jit
def _jitter_row(picture, result, x, y, size):
    """One row of one channel, in [-1, 1]; the places of the result are three apart."""
    left, top = tl.floor(x), tl.floor(y)
    right_share, bottom_share = x - left, y - top
    first_column, first_row = left.to(tl.int32), top.to(tl.int32)
    second_column, second_row = tl.minimum(first_column + 1, size - 1), tl.minimum(first_row + 1, size - 1)
    # Bilinear interpolation between the four pixels around the position.
    value = tl.zeros_like(x)
    for below in tl.static_range(2):
        for beside in tl.static_range(2):
            row = second_row if below else first_row
            column = second_column if beside else first_column
            share = (right_share if beside else 1.0 - right_share) * (bottom_share if below else 1.0 - bottom_share)
            value += share * (tl.load(picture + row * size + column).to(tl.float32) / 127.5 - 1.0)
    tl.store(result, tl.minimum(tl.maximum(value, -1.0), 1.0))
