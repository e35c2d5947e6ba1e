"""Own kernels for NVIDIA GPUs: each does in one or two passes over memory what takes PyTorch three to eight.

Pictures are rows of channels here, a row a position, channels last. Sums are taken in a fixed order: the same
input gives the same bits.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from gan.gpu.triton_kernels import (
    adam_kernel,
    gather_kernel,
    gradient_kernel,
    gradient_sums_kernel,
    jitter_kernel,
    moments_kernel,
    normalise_kernel,
    scatter_kernel,
)

OLDEST_CAPABILITY = (8, 0)
# Adam waits for the memory. Blocks that are soon done make room for the gradients that are computed beside it.
ADAM_BLOCK, ADAM_WARPS = 1024, 8
ROWS, CHANNELS = 64, 32
MAX_PARTS = 32  # a power of two
WINDOW_ROWS, WINDOW_CHANNELS = 16, 64
ROWS_A_PART = 128


@functools.cache
def run_on(device: torch.device) -> bool:
    """True where these kernels can be compiled and run: on a GPU of at least OLDEST_CAPABILITY, with a C compiler."""
    if torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        return False
    try:
        gather(torch.zeros(1, 1, 2, 2, device=device))
    except Exception:  # whatever a compiler or a driver raises
        return False
    return True


def adam(
    weight: Tensor, moments: Sequence[Tensor], gradient: Tensor, rounded: Tensor, learning_rate: Tensor,
    num_updates: Tensor, scale: Tensor | None, found_inf: Tensor | None, *, betas: Sequence[float], epsilon: float,
) -> None:  # fmt: skip
    """One update of a weight, all tensors in the same order in memory; see `gan.training.optimizer.Adam.update`."""
    count = weight.numel()
    adam_kernel[(triton.cdiv(count, ADAM_BLOCK),)](
        weight, *moments, gradient, rounded, learning_rate, num_updates, scale, found_inf, count,
        BETA1=betas[0], BETA2=betas[1], LOG_BETA1=math.log(betas[0]), LOG_BETA2=math.log(betas[1]), EPSILON=epsilon,
        SCALED=scale is not None, BLOCK=ADAM_BLOCK, num_warps=ADAM_WARPS,
    )  # fmt: skip


def parts_of(rows: int) -> tuple[int, int]:
    """How rows are parted for sums: so many parts of so many rows; a function of the rows alone, so that sums are
    always taken in the same order."""
    rows_a_part = max(ROWS_A_PART, triton.cdiv(rows, MAX_PARTS))
    return triton.cdiv(rows, rows_a_part), rows_a_part


def as_pictures(like: Tensor, rows: Tensor) -> Tensor:
    """Rows of channels as pictures of the size of `like`."""
    number, _, height, width = like.shape
    return rows.view(number, height, width, -1).permute(0, 3, 1, 2)


def with_rows(x: Tensor) -> tuple[Tensor, int]:
    """Pictures whose positions are evenly spaced rows of channels, and the distance between rows; a copy if need be."""
    number, channels, height, width = x.shape
    strides = x.stride()
    if width > 1:
        distance = strides[3]
    elif height > 1:
        distance = strides[2]
    else:
        distance = strides[0] if number > 1 else channels
    even = (
        (channels == 1 or strides[1] == 1)
        and (height == 1 or strides[2] == distance * width)
        and (number == 1 or strides[0] == distance * width * height)
    )
    if even:
        return x, distance
    return as_pictures(x, x.permute(0, 2, 3, 1).reshape(-1, channels)), channels


class Normalised(NamedTuple):
    """What `normalise` gives: its results, and what its gradient needs."""

    results: list[Tensor]
    mean: Tensor
    rstd: Tensor


def normalise(
    x: Tensor, weight: Tensor, bias: Tensor, running: Sequence[Tensor], mask: Tensor | None,
    slopes: Sequence[float], momentum: float, epsilon: float, skip: Tensor | None = None,
) -> Normalised:  # fmt: skip
    """Batch norm by the batch's statistics, times a mask, and one or two leaky ReLUs of it.

    Args:
        x: (N, C, H, W).
        running: mean and variance, brought up to date, and the number of batches.
        mask: (N, C, H, W) uint8, contiguous.
        slopes: of the ReLUs below 0.
        skip: (N, C, H, W), for one slope only: what the result has as its first C of 2 C channels.
    """
    number, channels, height, width = x.shape
    rows = number * height * width
    x, x_stride = with_rows(x)
    skip, skip_stride = (None, 0) if skip is None else with_rows(skip)
    width_of_result = channels if skip is None else 2 * channels
    num_parts, rows_a_part = parts_of(rows)
    partial = x.new_empty((2, num_parts, channels), dtype=torch.float32)
    saved = x.new_empty((2, channels), dtype=torch.float32)
    results = [x.new_empty((rows, width_of_result)) for _ in slopes]
    moments_kernel[(triton.cdiv(channels, CHANNELS), num_parts)](
        x, partial[0], partial[1], rows, channels, x_stride, rows_a_part, ROWS=ROWS, CHANNELS=CHANNELS
    )
    normalise_kernel[(triton.cdiv(rows, ROWS), triton.cdiv(channels, CHANNELS))](
        x, mask, skip, results[0], results[-1], partial[0], partial[1], weight, bias, *running, saved[0], saved[1],
        rows, channels, x_stride, skip_stride, height * width, rows_a_part, num_parts, momentum, epsilon,
        FIRST_SLOPE=slopes[0], SECOND_SLOPE=slopes[-1], TWO=len(slopes) == 2, MASKED=mask is not None,
        SKIPPED=skip is not None, ROWS=ROWS, CHANNELS=CHANNELS, PARTS=MAX_PARTS,
    )  # fmt: skip
    return Normalised([as_pictures(x, result) for result in results], saved[0], saved[1])


def normalise_backward(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, mask: Tensor | None,
    slopes: Sequence[float], gradients: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients by x, weight and bias, from those by the results."""
    number, channels, height, width = x.shape
    rows = number * height * width
    (x, x_stride), *given = (with_rows(tensor) for tensor in (x, *gradients))
    (first, first_stride), (second, second_stride) = given[0], given[-1]
    num_parts, rows_a_part = parts_of(rows)
    partial = x.new_empty((2, num_parts, channels), dtype=torch.float32)
    of_x = x.new_empty((rows, channels))
    of_weight, of_bias = torch.empty_like(weight), torch.empty_like(bias)
    arguments = (x, mask, first, second, mean, rstd, weight, bias, partial[0], partial[1])
    sizes = (rows, channels, x_stride, first_stride, second_stride, height * width)
    constants: dict[str, Any] = {
        "FIRST_SLOPE": slopes[0], "SECOND_SLOPE": slopes[-1], "TWO": len(slopes) == 2, "MASKED": mask is not None,
        "ROWS": ROWS, "CHANNELS": CHANNELS,
    }  # fmt: skip
    gradient_sums_kernel[(triton.cdiv(channels, CHANNELS), num_parts)](*arguments, *sizes, rows_a_part, **constants)
    gradient_kernel[(triton.cdiv(rows, ROWS), triton.cdiv(channels, CHANNELS))](
        *arguments, of_x, of_weight, of_bias, *sizes, num_parts, **constants, PARTS=MAX_PARTS
    )
    return as_pictures(x, of_x), of_weight, of_bias


def jitter(source: Tensor, target: Tensor, places: Tensor, enlarged: int) -> tuple[Tensor, Tensor]:
    """See `gan.data.jitter.jitter_batch`; `enlarged` is the side that patches are enlarged to."""
    number, size = places.shape[1], source.shape[-1]
    results = [source.new_empty((number * size * size, 3), dtype=torch.float32) for _ in range(2)]
    jitter_kernel[(number * size,)](source, target, places, *results, number, size, enlarged, SIZE=size)
    like = source[:1].expand(number, -1, -1, -1)
    return as_pictures(like, results[0]), as_pictures(like, results[1])


def gather(x: Tensor) -> Tensor:
    """The 4x4 windows of stride 2 of (N, C, 2h, 2w), padded by 1: (N h w, 16 C)."""
    number, channels, height, width = x.shape
    x, x_stride = with_rows(x)
    num_windows = number * height * width // 4
    windows = x.new_empty((num_windows, 16 * channels))
    block = min(triton.next_power_of_2(channels), WINDOW_CHANNELS)
    gather_kernel[(num_windows, triton.cdiv(channels, block))](
        x, windows, height // 2, width // 2, channels, x_stride, BLOCK=block
    )
    return windows


def scatter(windows: Tensor, number: int, height: int, width: int) -> Tensor:
    """The sum of (N h w, 16 C) windows at their places: (N, C, 2h, 2w)."""
    channels = windows.shape[1] // 16
    rows = windows.new_empty((4 * number * height * width, channels))
    block = min(triton.next_power_of_2(channels), WINDOW_CHANNELS)
    scatter_kernel[(triton.cdiv(len(rows), WINDOW_ROWS), triton.cdiv(channels, block))](
        windows, rows, len(rows), height, width, channels, ROWS=WINDOW_ROWS, BLOCK=block
    )
    return rows.view(number, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
