"""The convolutions of the U-Net: those of stride 2 are computed the way that suits their shape."""

from typing import Any, Protocol

from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

KERNEL, STRIDE, PADDING = 4, 2, 1

# Up to this many positions (pictures x height x width on the smaller side) a layer is computed as one matrix
# product. There the weights outweigh the pictures: on a processor a convolution spends most of its time on
# bringing weights and their gradients into its own order and back, on a GPU it leaves most of it idle. Beyond
# it, unfolding the pictures costs more than that. A function of the shapes alone, never of a timing, so that a
# resumed training computes the same bits.
MAX_PRODUCT_POSITIONS = {"cpu": 256, "cuda": 1024}


class Downsample(nn.Conv2d):
    """Convolution to half the side: (N, C, H, W) to (N, O, H/2, W/2); without a bias."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, KERNEL, stride=STRIDE, padding=PADDING, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return downsample(x, self.weight)


class Upsample(nn.ConvTranspose2d):
    """Transposed convolution to twice the side: (N, C, H, W) to (N, O, 2H, 2W)."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, KERNEL, stride=STRIDE, padding=PADDING, bias=bias)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """See the class."""
        # `output_size` belongs to PyTorch's signature. Here the result always has twice the side.
        return upsample(x, self.weight, self.bias)


class Resize(nn.Conv2d):
    """Each pixel four times, then a 3x3 convolution: (N, C, H, W) to (N, O, 2H, 2W).

    All pixels of the result see equally many weights, so there is no checkerboard (Odena et al. 2016).
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return super().forward(F.interpolate(x, scale_factor=2, mode="nearest"))


class NewUpsampling(Protocol):
    """What makes a convolution to twice the side."""

    def __call__(self, in_channels: int, out_channels: int, *, bias: bool = False) -> Upsample | Resize:
        """The convolution, its weights not drawn yet."""


UPSAMPLINGS: dict[str, NewUpsampling] = {"transposed": Upsample, "resize": Resize}


def downsample(x: Tensor, weight: Tensor) -> Tensor:
    """Convolution to half the side: (N, C, H, W) by (O, C, 4, 4) gives (N, O, H/2, W/2)."""
    if x.is_cuda:
        from gan.gpu.networks import downsample as gpu_downsample  # a processor never needs it

        return gpu_downsample(x, weight)
    if _is_small(x.shape[0] * (x.shape[2] // STRIDE) * (x.shape[3] // STRIDE), x):
        product: Tensor = _DownsamplingProduct.apply(x, weight)
        return product
    return F.conv2d(x, weight, stride=STRIDE, padding=PADDING)


def upsample(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Transposed convolution to twice the side: (N, C, H, W) by (C, O, 4, 4) gives (N, O, 2H, 2W)."""
    if x.is_cuda:
        from gan.gpu.networks import upsample as gpu_upsample

        return gpu_upsample(x, weight, bias)
    if bias is None and _is_small(x.shape[0] * x.shape[2] * x.shape[3], x):
        product: Tensor = _UpsamplingProduct.apply(x, weight)
        return product
    return F.conv_transpose2d(x, weight, bias, stride=STRIDE, padding=PADDING)


def _is_small(num_positions: int, x: Tensor) -> bool:
    """True for a layer that is computed as a matrix product.

    Args:
        num_positions: of the layer's smaller side, over all pictures of the batch.
    """
    return num_positions <= MAX_PRODUCT_POSITIONS.get(x.device.type, 0)


class _DownsamplingProduct(Function):
    """The windows, a row each, times the weights. The gradient is `_UpsamplingProduct`'s forward pass, and the other
    way round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        windows = _unfold(x, weight)
        ctx.save_for_backward(windows, weight)
        height, width = x.shape[2] // STRIDE, x.shape[3] // STRIDE
        return as_picture(F.linear(windows, as_matrix(weight)), height, width, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        windows, weight = ctx.saved_tensors
        rows = as_rows(gradients[0])
        grad_weight = like_weight(weight_grad_product(rows, windows), weight)
        height, width = gradients[0].shape[2:]
        return _fold(rows @ as_matrix(weight), height, width, weight), grad_weight


class _UpsamplingProduct(Function):
    """Each position times the weights is a window of the result; where windows overlap, they are added."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        rows = as_rows(x)
        ctx.save_for_backward(rows, weight)
        return _fold(rows @ as_matrix(weight), x.shape[2], x.shape[3], weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        windows = _unfold(gradients[0], weight)
        grad_weight = like_weight(weight_grad_product(rows, windows), weight)
        height, width = gradients[0].shape[2] // STRIDE, gradients[0].shape[3] // STRIDE
        return as_picture(F.linear(windows, as_matrix(weight)), height, width, weight), grad_weight


def weight_grad_product(rows: Tensor, windows: Tensor) -> Tensor:
    """A layer's gradient by its weights as a matrix, from the smaller side's rows and the larger side's windows."""
    # Of a single row the product is exact either way, and as quick as its result is written this way.
    return rows.t() * windows if len(rows) == 1 else rows.t() @ windows


def is_channels_last(weight: Tensor) -> bool:
    """True where the channels of a weight lie next to one another in memory."""
    return weight.stride(1) == 1 and not weight.is_contiguous()


def as_matrix(weight: Tensor) -> Tensor:
    """A row for each entry of the weight's first dimension, in the order that it has in memory: a view."""
    return (weight.permute(0, 2, 3, 1) if is_channels_last(weight) else weight).flatten(1)


def like_weight(matrix: Tensor, weight: Tensor) -> Tensor:
    """The inverse of `as_matrix`, for a matrix of the weight's size: a view."""
    first, second = weight.shape[:2]
    if is_channels_last(weight):
        return matrix.view(first, KERNEL, KERNEL, second).permute(0, 3, 1, 2)
    return matrix.view(weight.shape)


def as_rows(x: Tensor) -> Tensor:
    """(N, C, H, W) as (N H W, C), a row a position: products of few rows by a large matrix are quick."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def as_picture(rows: Tensor, height: int, width: int, weight: Tensor) -> Tensor:
    """The inverse of `as_rows`, in the weight's memory format."""
    picture = rows.view(-1, height, width, rows.shape[1]).permute(0, 3, 1, 2)
    return picture if is_channels_last(weight) else picture.contiguous()


def _unfold(x: Tensor, weight: Tensor) -> Tensor:
    """The windows of (N, C, H, W), (N H/2 W/2, 16 C), each in the order that a row of the weight has."""
    pictures, channels, height, width = x.shape
    if not is_channels_last(weight):
        # F.unfold gives (N, 16 C, positions), a window in the order C, 4, 4 of a contiguous weight.
        columns = F.unfold(x, KERNEL, padding=PADDING, stride=STRIDE)
        return columns.transpose(1, 2).reshape(-1, columns.shape[1])

    # Padded, a picture is a grid of 2x2 cells, and a window is four of them.
    height, width = height // STRIDE, width // STRIDE
    cells = F.pad(x.permute(0, 2, 3, 1), (0, 0, PADDING, PADDING, PADDING, PADDING))
    cells = cells.view(pictures, height + 1, STRIDE, width + 1, STRIDE, channels)
    windows = x.new_empty(pictures, height, width, 2, STRIDE, 2, STRIDE, channels)
    for down in range(2):
        for right in range(2):
            cell = cells[:, down : down + height, :, right : right + width]
            windows[:, :, :, down, :, right] = cell.permute(0, 1, 3, 2, 4, 5)
    return windows.view(pictures * height * width, -1)


def _fold(windows: Tensor, height: int, width: int, weight: Tensor) -> Tensor:
    """The sum of all windows, each at its position: (N, C, 2 height, 2 width)."""
    channels = weight.shape[1]
    if not is_channels_last(weight):
        columns = windows.view(-1, height * width, windows.shape[1]).transpose(1, 2)
        return F.fold(columns, (STRIDE * height, STRIDE * width), KERNEL, padding=PADDING, stride=STRIDE)

    # The reverse of `_unfold`: each of a window's four 2x2 cells is added to the cell that it covers.
    windows = windows.view(-1, height, width, 2, STRIDE, 2, STRIDE, channels)
    cells = windows.new_zeros(len(windows), height + 1, STRIDE, width + 1, STRIDE, channels)
    for down in range(2):
        for right in range(2):
            cell = cells[:, down : down + height, :, right : right + width]
            cell += windows[:, :, :, down, :, right].permute(0, 1, 3, 2, 4, 5)
    padded = cells.view(len(windows), STRIDE * (height + 1), STRIDE * (width + 1), channels)
    return padded[:, PADDING:-PADDING, PADDING:-PADDING].contiguous().permute(0, 3, 1, 2)
