"""The 4x4 convolutions of stride 2 of the U-Net, computed the way that suits their shape."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from gan.gpu.availability import has_kernels
from gan.gpu.streams import SideStream
from gan.training.precision import memory_format_of

KERNEL, STRIDE, PADDING = 4, 2, 1

# Up to this many positions (pictures x height x width on the smaller side) a layer is computed as one matrix
# product. There the weights outweigh the pictures: on a processor a convolution spends most of its time on
# bringing weights and their gradients into its own order and back, on a GPU it leaves most of it idle. Beyond
# it, unfolding the pictures costs more than that. A function of the shapes alone, never of a timing, so that a
# resumed training computes the same bits.
MAX_PRODUCT_POSITIONS = {"cpu": 256, "cuda": 1024}


def downsample(x: Tensor, weight: Tensor, side: SideStream | None = None) -> Tensor:
    """Convolution to half the side: (N, C, H, W) by (O, C, 4, 4) gives (N, O, H/2, W/2).

    Args:
        side: takes the weights' gradient beside the one by x; who uses it, waits for that stream.
    """
    if as_product(x, weight, x.shape[2] // STRIDE, x.shape[3] // STRIDE):
        product: Tensor = DownsamplingProduct.apply(x, weight, side)
        return product
    if side is None:
        return F.conv2d(x, weight, stride=STRIDE, padding=PADDING)
    result: Tensor = Convolution.apply(x, weight, None, False, side)
    return result


def upsample(x: Tensor, weight: Tensor, bias: Tensor | None = None, side: SideStream | None = None) -> Tensor:
    """Transposed convolution to twice the side: (N, C, H, W) by (C, O, 4, 4) gives (N, O, 2H, 2W).

    Args:
        side: as for `downsample`.
    """
    if bias is None and as_product(x, weight, x.shape[2], x.shape[3]):
        product: Tensor = UpsamplingProduct.apply(x, weight, side)
        return product
    if side is None:
        return F.conv_transpose2d(x, weight, bias, stride=STRIDE, padding=PADDING)
    result: Tensor = Convolution.apply(x, weight, bias, True, side)
    return result


def as_product(x: Tensor, weight: Tensor, height: int, width: int) -> bool:
    """True where the layer is a matrix product: with few positions on its smaller side."""
    able = x.device.type == "cpu" or (in_channels_last(weight) and has_kernels(x.device))
    return able and x.shape[0] * height * width <= MAX_PRODUCT_POSITIONS[x.device.type]


class Convolution(Function):
    """PyTorch's convolution, of which the weights' gradient is taken beside the other one."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool, side: SideStream
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight)
        ctx.transposed, ctx.side = transposed, side
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        convolve = F.conv_transpose2d if transposed else F.conv2d
        return convolve(x, weight, bias, stride=STRIDE, padding=PADDING)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors

        def by(*wanted: bool) -> tuple[Tensor, Tensor, Tensor]:
            stride, padding, dilation, more = [STRIDE] * 2, [PADDING] * 2, [1, 1], [0, 0]
            sizes = (ctx.bias_sizes, stride, padding, dilation, ctx.transposed, more, 1)
            return torch.ops.aten.convolution_backward(gradients[0], x, weight, *sizes, wanted)

        has_bias = ctx.bias_sizes is not None
        _, of_weight, of_bias = ctx.side.compute(lambda: by(False, True, has_bias), gradients[0], x)
        of_x = by(True, False, False)[0] if ctx.needs_input_grad[0] else None
        return of_x, of_weight, of_bias, None, None


class DownsamplingProduct(Function):
    """The windows, a row each, times the weights. Each way's gradient is the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, side: SideStream | None) -> Tensor:
        windows = gathered(x, weight)
        ctx.save_for_backward(windows, weight)
        ctx.side = side
        height, width = x.shape[2] // STRIDE, x.shape[3] // STRIDE
        return as_picture(F.linear(windows, as_matrix(weight)), height, width, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        windows, weight = ctx.saved_tensors
        rows = as_rows(gradients[0])
        of_weight = weight_gradient(rows, windows, weight, ctx.side)
        of_windows = rows @ as_matrix(weight)
        height, width = gradients[0].shape[2:]
        return scattered(of_windows, height, width, weight), of_weight, None


class UpsamplingProduct(Function):
    """Each position times the weights is a window of the result, where windows overlap their sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, side: SideStream | None) -> Tensor:
        rows = as_rows(x)
        ctx.save_for_backward(rows, weight)
        ctx.side = side
        return scattered(rows @ as_matrix(weight), x.shape[2], x.shape[3], weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        windows = gathered(gradients[0], weight)
        of_weight = weight_gradient(rows, windows, weight, ctx.side)
        height, width = gradients[0].shape[2] // STRIDE, gradients[0].shape[3] // STRIDE
        of_rows = F.linear(windows, as_matrix(weight))
        return as_picture(of_rows, height, width, weight), of_weight, None


def weight_gradient(rows: Tensor, windows: Tensor, weight: Tensor, side: SideStream | None) -> Tensor:
    """The gradient by a layer's weights, from its smaller side's rows and its larger side's windows."""

    def product() -> Tensor:
        # Of a single row the product is exact either way, and as quick as its result is written this way.
        return rows.t() * windows if len(rows) == 1 else rows.t() @ windows

    return like_weight(product() if side is None else side.compute(product, rows, windows), weight)


def in_channels_last(weight: Tensor) -> bool:
    """True where the channels of a weight lie beside one another in memory."""
    return weight.stride(1) == 1 and not weight.is_contiguous()


def as_matrix(weight: Tensor) -> Tensor:
    """A row for each of the weight's first dimension, in the order that it lies in memory: a view."""
    return (weight.permute(0, 2, 3, 1) if in_channels_last(weight) else weight).flatten(1)


def like_weight(matrix: Tensor, weight: Tensor) -> Tensor:
    """What `as_matrix` is for a tensor of the weight's shape and memory format: a view."""
    first, second = weight.shape[:2]
    if in_channels_last(weight):
        return matrix.view(first, KERNEL, KERNEL, second).permute(0, 3, 1, 2)
    return matrix.view(weight.shape)


def as_rows(x: Tensor) -> Tensor:
    """(N, C, H, W) as (N H W, C), a row a position: products of few rows by a large matrix are quick."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def as_picture(rows: Tensor, height: int, width: int, weight: Tensor) -> Tensor:
    """What `as_rows` is of, in the weight's memory format."""
    picture = rows.view(-1, height, width, rows.shape[1]).permute(0, 3, 1, 2)
    return picture if in_channels_last(weight) else picture.contiguous()


def gathered(x: Tensor, weight: Tensor) -> Tensor:
    """The windows of (N, C, H, W), (N H/2 W/2, 16 C), each in the order that a row of the weight has."""
    pictures, channels, height, width = x.shape
    if x.device.type != "cpu":
        from gan.gpu import kernels  # needs Triton, which is only there for GPUs

        return kernels.gather(x)
    if not in_channels_last(weight):
        columns = F.unfold(x, KERNEL, padding=PADDING, stride=STRIDE)
        return columns.transpose(1, 2).reshape(-1, columns.shape[1])
    height, width = height // STRIDE, width // STRIDE
    # Padded, a picture is a grid of 2x2 cells, and a window is four of them.
    cells = F.pad(x.permute(0, 2, 3, 1), (0, 0, PADDING, PADDING, PADDING, PADDING))
    cells = cells.view(pictures, height + 1, STRIDE, width + 1, STRIDE, channels)
    windows = x.new_empty(pictures, height, width, 2, STRIDE, 2, STRIDE, channels)
    for down in range(2):
        for right in range(2):
            cell = cells[:, down : down + height, :, right : right + width]
            windows[:, :, :, down, :, right] = cell.permute(0, 1, 3, 2, 4, 5)
    return windows.view(pictures * height * width, -1)


def scattered(windows: Tensor, height: int, width: int, weight: Tensor) -> Tensor:
    """The sum of windows at their places, (N, C, 2 height, 2 width): what is gathered from, if nothing overlaps."""
    channels = weight.shape[1]
    if windows.device.type != "cpu":
        from gan.gpu import kernels

        return kernels.scatter(windows, len(windows) // (height * width), height, width)
    if not in_channels_last(weight):
        columns = windows.view(-1, height * width, windows.shape[1]).transpose(1, 2)
        return F.fold(columns, (STRIDE * height, STRIDE * width), KERNEL, padding=PADDING, stride=STRIDE)
    windows = windows.view(-1, height, width, 2, STRIDE, 2, STRIDE, channels)
    cells = windows.new_zeros(len(windows), height + 1, STRIDE, width + 1, STRIDE, channels)
    for down in range(2):
        for right in range(2):
            cell = cells[:, down : down + height, :, right : right + width]
            cell += windows[:, :, :, down, :, right].permute(0, 1, 3, 2, 4, 5)
    padded = cells.view(len(windows), STRIDE * (height + 1), STRIDE * (width + 1), channels)
    return padded[:, PADDING:-PADDING, PADDING:-PADDING].contiguous().permute(0, 3, 1, 2)


def describe_kernels(device: torch.device, precision: str, *, graph: bool) -> str:
    """What of the computation, beside threads and precision, decides the bits; recorded with a trial."""
    order = "contiguous" if memory_format_of(device, precision) == torch.contiguous_format else "channels last"
    products = f"matrix products up to {MAX_PRODUCT_POSITIONS[device.type]} positions"
    if device.type == "cpu":
        return f"{order}; {products}"
    own = f"own kernels; {products}" if has_kernels(device) else "no own kernels"
    return f"{order}; {own}; {'one CUDA graph a step' if graph else 'no CUDA graph'}"
