"""The networks' forward passes as a GPU computes them in training: the modules' weights, other operations.

Batch norm, dropout, activations and skip connections are one operation; gradients by weights have a stream of their
own; the generator can be run in segments. What comes out is what the modules' own `forward` gives, but for rounding.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from gan.gpu.availability import has_kernels
from gan.gpu.streams import SideStream
from gan.networks.architecture import LEAK
from gan.networks.convolution import MAX_PRODUCT_POSITIONS, PADDING, STRIDE, is_channels_last
from gan.networks.discriminator import Discriminator
from gan.networks.generator import Generator

_RELU = 0.0  # the slope below 0 of the plain ReLU


def encode(
    generator: Generator, x: Tensor, start: int = 0, stop: int | None = None, stream: SideStream | None = None
) -> list[Tensor]:
    """Goes down some levels of the U-Net.

    Args:
        x: the source, in the weights' type, or what the level above `start` handed down.
        stream: see `downsample`.

    Returns:
        What the last of these levels hands down, then what each of them hands to the decoder.
    """
    skips = []
    levels: Sequence[Any] = list(generator.down)[start:stop]
    for down in levels:
        # The next level takes the leaky ReLU. The decoder takes the plain one, and applies none itself to skips.
        x, skip = batch_norm_act(down.norm, downsample(x, down.conv.weight, stream), (LEAK, _RELU))
        skips.append(skip)
    return [x, *skips]


def decode(
    generator: Generator, x: Tensor, *skips: Tensor, dropout_masks: Sequence[Tensor], start: int = 0,
    stop: int | None = None, stream: SideStream | None = None,
) -> Tensor:  # fmt: skip
    """Goes up some levels of the U-Net; where the last block is among them, to the fake target.

    Args:
        x: what the bottleneck handed over, or the result of the block before `start`.
        skips: what the encoder handed over at the level that each block comes up to.
        stream: see `downsample`.
    """
    blocks: Sequence[tuple[int, Any]] = list(enumerate(generator.up))[start:stop]
    for (block, up), skip in zip(blocks, skips, strict=True):
        mask = dropout_masks[block] if block < len(dropout_masks) else None
        x = upsample(x, up.conv.weight, stream=stream)
        (x,) = batch_norm_act(up.norm, x, [_RELU], mask, skip)

    if stop is None or stop > len(generator.up):
        x = torch.tanh(upsample(x, generator.last.weight, generator.last.bias, stream))
    return x


class FusedDiscriminator(nn.Module):
    """A discriminator's layers, under the same names, with batch norm and activation as one operation."""

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.layers = discriminator.layers

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """As `Discriminator.forward`: logits (N, 1, h, w)."""
        pair = torch.cat([source, target], dim=1)
        x = pair.to(next(self.parameters()).dtype)

        layers: Iterator[Any] = iter(self.layers)
        for layer in layers:
            if isinstance(layer, nn.BatchNorm2d):
                activation = next(layers)
                (x,) = batch_norm_act(layer, x, [activation.negative_slope])
            else:
                x = layer(x)
        return x


def batch_norm_act(
    norm: nn.Module, x: Tensor, slopes: Sequence[float], mask: Tensor | None = None, skip: Tensor | None = None
) -> list[Tensor]:
    """Batch norm, dropout, and a leaky ReLU for each slope below 0 (of 0: the plain ReLU).

    Args:
        norm: batch norm, or the identity.
        x: (N, C, H, W).
        mask: uint8 of x's shape; the normalised pictures are multiplied by it.
        skip: (N, C, H, W); where it is given its channels come before those of each result.
    """
    if isinstance(norm, nn.BatchNorm2d) and norm.training and norm.track_running_stats and has_kernels(x.device):
        from gan.gpu.batch_norm import FusedBatchNorm

        running = norm.running_mean, norm.running_var, norm.num_batches_tracked
        fused = FusedBatchNorm.apply(x, norm.weight, norm.bias, skip, running, mask, slopes, norm.momentum, norm.eps)
        return list(fused)

    # PyTorch's operations: for another norm, in eval mode, or without our kernels.
    x = norm(x)
    if mask is not None:
        x = x * mask.to(x.dtype)
    results = [F.leaky_relu(x, slope) if slope else F.relu(x) for slope in slopes]
    return results if skip is None else [torch.cat([skip, result], dim=1) for result in results]


def downsample(x: Tensor, weight: Tensor, stream: SideStream | None = None) -> Tensor:
    """As `gan.networks.convolution.downsample`.

    Args:
        stream: computes the gradient by the weights, at the same time as the one by x; before that gradient is read,
            this stream must be waited for.
    """
    if _is_product(x, weight, x.shape[2] // STRIDE, x.shape[3] // STRIDE):
        from gan.gpu.conv import DownsamplingProduct

        product: Tensor = DownsamplingProduct.apply(x, weight, stream)
        return product
    if stream is None:
        return F.conv2d(x, weight, stride=STRIDE, padding=PADDING)
    result: Tensor = Convolution.apply(x, weight, None, False, stream)
    return result


def upsample(x: Tensor, weight: Tensor, bias: Tensor | None = None, stream: SideStream | None = None) -> Tensor:
    """As `gan.networks.convolution.upsample`; for `stream` see `downsample`."""
    if bias is None and _is_product(x, weight, x.shape[2], x.shape[3]):
        from gan.gpu.conv import UpsamplingProduct

        product: Tensor = UpsamplingProduct.apply(x, weight, stream)
        return product
    if stream is None:
        return F.conv_transpose2d(x, weight, bias, stride=STRIDE, padding=PADDING)
    result: Tensor = Convolution.apply(x, weight, bias, True, stream)
    return result


def _is_product(x: Tensor, weight: Tensor, height: int, width: int) -> bool:
    """True for a layer that is computed as a matrix product: with few positions on its smaller side."""
    is_able = is_channels_last(weight) and has_kernels(x.device)
    return is_able and x.shape[0] * height * width <= MAX_PRODUCT_POSITIONS["cuda"]


class Convolution(Function):
    """PyTorch's convolution, with the gradients by weights and bias computed in a stream of their own."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool, stream: SideStream
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight)
        ctx.transposed, ctx.stream = transposed, stream
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        convolve = F.conv_transpose2d if transposed else F.conv2d
        return convolve(x, weight, bias, stride=STRIDE, padding=PADDING)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors

        # `wanted` says which gradients PyTorch computes: by input, weights and bias.
        def gradients_by(*wanted: bool) -> tuple[Tensor, Tensor, Tensor]:
            stride, padding, dilation, output_padding, groups = [STRIDE] * 2, [PADDING] * 2, [1, 1], [0, 0], 1
            sizes = (ctx.bias_sizes, stride, padding, dilation, ctx.transposed, output_padding, groups)
            return torch.ops.aten.convolution_backward(gradients[0], x, weight, *sizes, wanted)

        has_bias = ctx.bias_sizes is not None
        # The layers before this one wait only for the gradient by x, which stays in the current stream.
        _, grad_weight, grad_bias = ctx.stream.compute(lambda: gradients_by(False, True, has_bias), gradients[0], x)
        grad_x = gradients_by(True, False, False)[0] if ctx.needs_input_grad[0] else None
        return grad_x, grad_weight, grad_bias, None, None
