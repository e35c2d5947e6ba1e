"""The U-Net's small convolutions as matrix products: windows gathered and scattered by kernels, and their gradients."""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from gan.gpu.rows import with_rows
from gan.gpu.streams import SideStream
from gan.networks.convolution import STRIDE, as_matrix, as_picture, as_rows, like_weight, weight_grad_product

WINDOW_ROWS, WINDOW_CHANNELS = 16, 64


class DownsamplingProduct(Function):
    """The windows, a row each, times the weights. The gradient is `UpsamplingProduct`'s forward pass, and the other
    way round. The gradient by the weights is computed in `weight_grad_stream` where one is given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, weight_grad_stream: SideStream | None) -> Tensor:
        windows = gather(x)
        ctx.save_for_backward(windows, weight)
        ctx.weight_grad_stream = weight_grad_stream
        height, width = x.shape[2] // STRIDE, x.shape[3] // STRIDE
        return as_picture(F.linear(windows, as_matrix(weight)), height, width, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        windows, weight = ctx.saved_tensors
        rows = as_rows(gradients[0])
        grad_weight = _weight_grad(rows, windows, weight, ctx.weight_grad_stream)
        grad_windows = rows @ as_matrix(weight)
        height, width = gradients[0].shape[2:]
        return scatter(grad_windows, len(grad_windows) // (height * width), height, width), grad_weight, None


class UpsamplingProduct(Function):
    """Each position times the weights is a window of the result; where windows overlap, they are added."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, weight_grad_stream: SideStream | None) -> Tensor:
        rows = as_rows(x)
        ctx.save_for_backward(rows, weight)
        ctx.weight_grad_stream = weight_grad_stream
        return scatter(rows @ as_matrix(weight), *(x.shape[0], x.shape[2], x.shape[3]))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        windows = gather(gradients[0])
        grad_weight = _weight_grad(rows, windows, weight, ctx.weight_grad_stream)
        height, width = gradients[0].shape[2] // STRIDE, gradients[0].shape[3] // STRIDE
        grad_rows = F.linear(windows, as_matrix(weight))
        return as_picture(grad_rows, height, width, weight), grad_weight, None


def _weight_grad(rows: Tensor, windows: Tensor, weight: Tensor, stream: SideStream | None) -> Tensor:
    """The gradient by a layer's weights, from its smaller side's rows and its larger side's windows."""
    if stream is None:
        return like_weight(weight_grad_product(rows, windows), weight)
    return like_weight(stream.compute(lambda: weight_grad_product(rows, windows), rows, windows), weight)


def gather(x: Tensor) -> Tensor:
    """The 4x4 windows of stride 2 of (N, C, 2h, 2w), padded by 1: (N h w, 16 C)."""
    number, channels, height, width = x.shape
    x, x_stride = with_rows(x)
    num_windows = number * height * width // 4
    windows = x.new_empty((num_windows, 16 * channels))
    block = min(triton.next_power_of_2(channels), WINDOW_CHANNELS)
    _gather_kernel[(num_windows, triton.cdiv(channels, block))](
        x, windows, height // 2, width // 2, channels, x_stride, BLOCK=block
    )
    return windows


def scatter(windows: Tensor, number: int, height: int, width: int) -> Tensor:
    """The sum of (N h w, 16 C) windows at their places: (N, C, 2h, 2w)."""
    channels = windows.shape[1] // 16
    # Each position sums what falls on it. This needs no atomic additions, whose order would vary.
    rows = windows.new_empty((4 * number * height * width, channels))
    block = min(triton.next_power_of_2(channels), WINDOW_CHANNELS)
    _scatter_kernel[(triton.cdiv(len(rows), WINDOW_ROWS), triton.cdiv(channels, block))](
        windows, rows, len(rows), height, width, channels, ROWS=WINDOW_ROWS, BLOCK=block
    )
    return rows.view(number, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)


@triton.jit(do_not_specialize=["height", "width"])
def _gather_kernel(x, windows, height, width, channels, x_stride, BLOCK: tl.constexpr):
    """A window's sixteen rows of channels; outside the picture they are 0."""
    window, tap = tl.program_id(0), tl.arange(0, 16)
    picture, cell = window // (height * width), window % (height * width)
    # With a padding of 1 the window of cell (i, j) begins at (2 i - 1, 2 j - 1). A tap is one of its 4x4 positions.
    row = cell // width * 2 - 1 + tap // 4
    column = cell % width * 2 - 1 + tap % 4
    seen = (row >= 0) & (row < 2 * height) & (column >= 0) & (column < 2 * width)
    channel = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    known = channel < channels
    source = ((picture * 2 * height + row) * 2 * width + column).to(tl.int64) * x_stride
    value = tl.load(x + source[:, None] + channel, mask=known & seen[:, None], other=0.0)
    # A window has the order of a row of a channels-last weight: taps, then channels.
    place = (window * 16 + tap).to(tl.int64) * channels
    tl.store(windows + place[:, None] + channel, value, mask=known)


@triton.jit(do_not_specialize=["positions", "height", "width"])
def _scatter_kernel(windows, x, positions, height, width, channels, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Of some positions the sum of the up to four windows' rows that fall on each."""
    position = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    picture, place = position // (4 * height * width), position % (4 * height * width)
    row, column = place // (2 * width), place % (2 * width)
    channel = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    known = (position < positions)[:, None] & (channel < channels)

    # A position lies in up to four windows, 2x2 of them, at a place (tap) of its own in each.
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for down in tl.static_range(2):
        for right in tl.static_range(2):
            cell_row, cell_column = (row + 1) // 2 - down, (column + 1) // 2 - right
            tap = ((row + 1) % 2 + 2 * down) * 4 + (column + 1) % 2 + 2 * right
            seen = (cell_row >= 0) & (cell_row < height) & (cell_column >= 0) & (cell_column < width)
            window = (picture * height + cell_row) * width + cell_column
            source = (window * 16 + tap).to(tl.int64) * channels
            value = tl.load(windows + source[:, None] + channel, mask=known & seen[:, None], other=0.0)
            total += value.to(tl.float32)

    place = position.to(tl.int64) * channels
    tl.store(x + place[:, None] + channel, total.to(x.dtype.element_ty), mask=known)
