"""Batch norm by the batch's statistics with what follows it, in two kernels each way.

What follows are dropout by a given mask, one or two leaky ReLUs, and the skip connection's channels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function

from gan.gpu.rows import as_pictures, with_rows

# One program works on a tile of so many rows (positions) and channels.
ROWS, CHANNELS = 64, 32
# The second kernel loads all parts at once by tl.arange, which needs a power of two.
_MAX_PARTS = 32  # a power of two
_ROWS_A_PART = 128


class FusedBatchNorm(Function):
    """Batch norm, dropout, activations and skip connection as one operation: see `gan.gpu.networks.batch_norm_act`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, skip: Tensor | None, running: Sequence[Tensor],
        mask: Tensor | None, slopes: Sequence[float], momentum: float, epsilon: float,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        # The kernels read the mask in the order N, C, H, W, and the pictures channels last.
        mask = None if mask is None else mask.contiguous()
        done = normalise(x, weight, bias, running, mask, slopes, momentum, epsilon, skip)
        # The results are not saved: the backward kernels compute the sign of each value again from x.
        ctx.save_for_backward(x, weight, bias, done.mean, done.rstd, mask)
        ctx.slopes, ctx.has_skip = slopes, skip is not None
        return tuple(done.results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd, mask = ctx.saved_tensors
        grad_skip, given = None, list(gradients)
        # The result has the channels of `skip` first, then those of x. Its gradient has the same order.
        if ctx.has_skip:
            grad_skip, *given = torch.split(gradients[0], x.shape[1], dim=1)
        gradients = normalise_backward(x, weight, bias, mean, rstd, mask, ctx.slopes, given)
        # Autograd expects one value for each argument of forward: None where there is no gradient.
        return (*gradients, grad_skip, None, None, None, None, None)


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
    batch_size, channels, height, width = x.shape
    rows = batch_size * height * width
    x, x_stride = with_rows(x)
    skip, skip_stride = (None, 0) if skip is None else with_rows(skip)
    result_channels = channels if skip is None else 2 * channels

    # The moments of each part of the rows first; the second kernel combines them, and normalises.
    num_parts, rows_a_part = _parts_of(rows)
    partial = x.new_empty((2, num_parts, channels), dtype=torch.float32)
    saved = x.new_empty((2, channels), dtype=torch.float32)
    results = [x.new_empty((rows, result_channels)) for _ in slopes]
    _moments_kernel[(triton.cdiv(channels, CHANNELS), num_parts)](
        x, partial[0], partial[1], rows, channels, x_stride, rows_a_part, ROWS=ROWS, CHANNELS=CHANNELS
    )
    _normalise_kernel[(triton.cdiv(rows, ROWS), triton.cdiv(channels, CHANNELS))](
        x, mask, skip, results[0], results[-1], partial[0], partial[1], weight, bias, *running, saved[0], saved[1],
        rows, channels, x_stride, skip_stride, height * width, rows_a_part, num_parts, momentum, epsilon,
        FIRST_SLOPE=slopes[0], SECOND_SLOPE=slopes[-1], TWO=len(slopes) == 2, MASKED=mask is not None,
        SKIPPED=skip is not None, ROWS=ROWS, CHANNELS=CHANNELS, PARTS=_MAX_PARTS,
    )  # fmt: skip
    return Normalised([as_pictures(x, result) for result in results], saved[0], saved[1])


def normalise_backward(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, mask: Tensor | None,
    slopes: Sequence[float], gradients: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients by x, weight and bias, from those by the results."""
    batch_size, channels, height, width = x.shape
    rows = batch_size * height * width
    (x, x_stride), *given = (with_rows(tensor) for tensor in (x, *gradients))
    # With one slope both names are the same gradient, and the kernels read only the first.
    (first, first_stride), (second, second_stride) = given[0], given[-1]

    # Sums over each part of the rows first; the second kernel adds them up, and computes the gradients.
    num_parts, rows_a_part = _parts_of(rows)
    partial = x.new_empty((2, num_parts, channels), dtype=torch.float32)
    grad_x = x.new_empty((rows, channels))
    grad_weight, grad_bias = torch.empty_like(weight), torch.empty_like(bias)
    arguments = (x, mask, first, second, mean, rstd, weight, bias, partial[0], partial[1])
    sizes = (rows, channels, x_stride, first_stride, second_stride, height * width)
    constants: dict[str, Any] = {
        "FIRST_SLOPE": slopes[0], "SECOND_SLOPE": slopes[-1], "TWO": len(slopes) == 2, "MASKED": mask is not None,
        "ROWS": ROWS, "CHANNELS": CHANNELS,
    }  # fmt: skip
    _gradient_sums_kernel[(triton.cdiv(channels, CHANNELS), num_parts)](*arguments, *sizes, rows_a_part, **constants)
    _gradient_kernel[(triton.cdiv(rows, ROWS), triton.cdiv(channels, CHANNELS))](
        *arguments, grad_x, grad_weight, grad_bias, *sizes, num_parts, **constants, PARTS=_MAX_PARTS
    )
    return as_pictures(x, grad_x), grad_weight, grad_bias


def _parts_of(rows: int) -> tuple[int, int]:
    """How rows are parted for sums: so many parts of so many rows; a function of the rows alone, so that sums are
    always taken in the same order."""
    rows_a_part = max(_ROWS_A_PART, triton.cdiv(rows, _MAX_PARTS))
    return triton.cdiv(rows, rows_a_part), rows_a_part


# Triton compiles a kernel again where an integer argument is 1 or a multiple of 16, but not for those listed here.
@triton.jit(do_not_specialize=["rows", "rows_a_part"])
def _moments_kernel(
    x, means, squares, rows, channels, x_stride, rows_a_part, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Mean and sum of squared deviations of each channel over a part of the rows (Chan et al. 1983)."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    part = tl.program_id(1)
    first = part * rows_a_part
    last = tl.minimum(first + rows_a_part, rows)

    count = 0.0
    mean = tl.zeros((CHANNELS,), tl.float32)
    square = tl.zeros((CHANNELS,), tl.float32)
    for start in range(first, last, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < last)[:, None] & (channel < channels)[None, :]
        value = tl.load(x + row.to(tl.int64)[:, None] * x_stride + channel[None, :], mask=inside, other=0.0)
        value = value.to(tl.float32)
        # Moments of these rows alone. Squares are taken about their mean: raw sums of squares would cancel.
        more = tl.minimum(last - start, ROWS).to(tl.float32)
        here = tl.sum(value, 0) / more
        deviation = tl.where(inside, value - here[None, :], 0.0)
        # Merge them with the moments of the rows before.
        total = count + more
        change = here - mean
        mean += change * (more / total)
        square += tl.sum(deviation * deviation, 0) + change * change * (count * more / total)
        count = total

    tl.store(means + part * channels + channel, mean, mask=channel < channels)
    tl.store(squares + part * channels + channel, square, mask=channel < channels)


@triton.jit(do_not_specialize=["rows", "area", "rows_a_part", "num_parts"])
def _normalise_kernel(
    x, mask, skip, first_result, second_result, means, squares, weight, bias, running_mean, running_var, num_batches,
    saved_mean, saved_rstd, rows, channels, x_stride, skip_stride, area, rows_a_part, num_parts, momentum, epsilon,
    FIRST_SLOPE: tl.constexpr, SECOND_SLOPE: tl.constexpr, TWO: tl.constexpr, MASKED: tl.constexpr,
    SKIPPED: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels

    # The moments of all rows, from those of the parts.
    part = tl.arange(0, PARTS)
    # The last part may be shorter. Parts after it have no rows.
    counts = tl.minimum(tl.maximum(rows - part * rows_a_part, 0), rows_a_part).to(tl.float32)[:, None]
    partial = part[:, None] * channels + channel[None, :]
    there = (part < num_parts)[:, None] & known[None, :]
    part_means = tl.load(means + partial, mask=there, other=0.0)
    part_squares = tl.load(squares + partial, mask=there, other=0.0)
    mean = tl.sum(part_means * counts, 0) / rows
    deviation = tl.where(there, part_means - mean[None, :], 0.0)
    square = tl.sum(part_squares + deviation * deviation * counts, 0)
    rstd = 1.0 / tl.sqrt(square / rows + epsilon)

    # The programs of the first rows also keep the statistics, for the backward pass and for eval mode.
    if tl.program_id(0) == 0:
        tl.store(saved_mean + channel, mean, mask=known)
        tl.store(saved_rstd + channel, rstd, mask=known)
        old = tl.load(running_mean + channel, mask=known)
        tl.store(running_mean + channel, old + momentum * (mean - old), mask=known)
        # As in PyTorch, the running variance is the unbiased one; the batch is normalised by the biased one.
        old = tl.load(running_var + channel, mask=known)
        tl.store(running_var + channel, old + momentum * (square / (rows - 1) - old), mask=known)
        if tl.program_id(1) == 0:
            tl.store(num_batches, tl.load(num_batches) + 1)

    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = (row < rows)[:, None] & known[None, :]
    long_row = row.to(tl.int64)
    value = tl.load(x + long_row[:, None] * x_stride + channel[None, :], mask=inside).to(tl.float32)
    gamma, beta = tl.load(weight + channel, mask=known), tl.load(bias + channel, mask=known)
    y = (value - mean[None, :]) * (rstd * gamma)[None, :] + beta[None, :]
    if MASKED:
        # `area` is H W: this turns a position of all pictures into an offset in N, C, H, W.
        place = (long_row // area * channels * area + long_row % area)[:, None] + channel[None, :] * area
        y *= tl.load(mask + place, mask=inside).to(tl.float32)

    # Where the skip's channels come first, a row of the result is twice as long.
    place = long_row[:, None] * channels + channel[None, :]
    if SKIPPED:
        passed = tl.load(skip + long_row[:, None] * skip_stride + channel[None, :], mask=inside)
        place += long_row[:, None] * channels
        tl.store(first_result + place, passed, mask=inside)
        place += channels
    kind = first_result.dtype.element_ty
    tl.store(first_result + place, tl.where(y > 0, y, FIRST_SLOPE * y).to(kind), mask=inside)
    if TWO:
        tl.store(second_result + place, tl.where(y > 0, y, SECOND_SLOPE * y).to(kind), mask=inside)


@triton.jit
def _load_gradient(
    x, mask, first_gradient, second_gradient, mean, rstd, weight, bias, row, channel, inside, channels,
    x_stride, first_stride, second_stride, area,
    FIRST_SLOPE: tl.constexpr, SECOND_SLOPE: tl.constexpr, TWO: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The gradient by what batch norm gave, and what it normalised to mean 0 and variance 1."""
    long_row = row.to(tl.int64)
    value = tl.load(x + long_row[:, None] * x_stride + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    normal = tl.where(inside, (value - mean[None, :]) * rstd[None, :], 0.0)
    # The sign before dropout will do: a mask of 2 keeps it, and a mask of 0 removes the gradient anyway.
    positive = normal * weight[None, :] + bias[None, :] > 0
    gradient = tl.load(first_gradient + long_row[:, None] * first_stride + channel[None, :], mask=inside, other=0.0)
    gradient = gradient.to(tl.float32) * tl.where(positive, 1.0, FIRST_SLOPE)
    if TWO:
        more = tl.load(second_gradient + long_row[:, None] * second_stride + channel[None, :], mask=inside, other=0.0)
        gradient += more.to(tl.float32) * tl.where(positive, 1.0, SECOND_SLOPE)
    if MASKED:
        place = (long_row // area * channels * area + long_row % area)[:, None] + channel[None, :] * area
        gradient *= tl.load(mask + place, mask=inside, other=0).to(tl.float32)
    return gradient, normal


@triton.jit(do_not_specialize=["rows", "area", "rows_a_part"])
def _gradient_sums_kernel(
    x, mask, first_gradient, second_gradient, saved_mean, saved_rstd, weight, bias, sums, products,
    rows, channels, x_stride, first_stride, second_stride, area, rows_a_part,
    FIRST_SLOPE: tl.constexpr, SECOND_SLOPE: tl.constexpr, TWO: tl.constexpr, MASKED: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Of each channel, over a part of the rows: the gradient's sum, and that of it times the normalised value."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    part = tl.program_id(1)
    first = part * rows_a_part
    last = tl.minimum(first + rows_a_part, rows)
    mean, rstd = tl.load(saved_mean + channel, mask=known), tl.load(saved_rstd + channel, mask=known)
    gamma, beta = tl.load(weight + channel, mask=known), tl.load(bias + channel, mask=known)

    total = tl.zeros((CHANNELS,), tl.float32)
    product = tl.zeros((CHANNELS,), tl.float32)
    for start in range(first, last, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < last)[:, None] & known[None, :]
        gradient, normal = _load_gradient(
            x, mask, first_gradient, second_gradient, mean, rstd, gamma, beta, row, channel, inside, channels,
            x_stride, first_stride, second_stride, area, FIRST_SLOPE, SECOND_SLOPE, TWO, MASKED,
        )  # fmt: skip
        total += tl.sum(gradient, 0)
        product += tl.sum(gradient * normal, 0)

    tl.store(sums + part * channels + channel, total, mask=known)
    tl.store(products + part * channels + channel, product, mask=known)


@triton.jit(do_not_specialize=["rows", "area", "num_parts"])
def _gradient_kernel(
    x, mask, first_gradient, second_gradient, saved_mean, saved_rstd, weight, bias, sums, products,
    grad_x, grad_weight, grad_bias, rows, channels, x_stride, first_stride, second_stride, area, num_parts,
    FIRST_SLOPE: tl.constexpr, SECOND_SLOPE: tl.constexpr, TWO: tl.constexpr, MASKED: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels

    # The sums over all rows are the gradients by bias and weight.
    part = tl.arange(0, PARTS)
    partial = part[:, None] * channels + channel[None, :]
    there = (part < num_parts)[:, None] & known[None, :]
    total = tl.sum(tl.load(sums + partial, mask=there, other=0.0), 0)
    product = tl.sum(tl.load(products + partial, mask=there, other=0.0), 0)
    if tl.program_id(0) == 0:
        tl.store(grad_bias + channel, total, mask=known)
        tl.store(grad_weight + channel, product, mask=known)

    mean, rstd = tl.load(saved_mean + channel, mask=known), tl.load(saved_rstd + channel, mask=known)
    gamma, beta = tl.load(weight + channel, mask=known), tl.load(bias + channel, mask=known)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = (row < rows)[:, None] & known[None, :]
    gradient, normal = _load_gradient(
        x, mask, first_gradient, second_gradient, mean, rstd, gamma, beta, row, channel, inside, channels,
        x_stride, first_stride, second_stride, area, FIRST_SLOPE, SECOND_SLOPE, TWO, MASKED,
    )  # fmt: skip
    # The batch's mean and variance depend on x, too: both subtracted terms come from them (Ioffe and Szegedy 2015).
    value = (gradient - (total / rows)[None, :] - normal * (product / rows)[None, :]) * (rstd * gamma)[None, :]
    place = row.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(grad_x + place, value.to(grad_x.dtype.element_ty), mask=inside)
