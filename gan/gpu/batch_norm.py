"""Batch norm with what follows it: dropout by a given mask, activations, and a skip connection's channels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from gan.gpu.availability import has_kernels


def normalised(
    norm: nn.Module, x: Tensor, slopes: Sequence[float], mask: Tensor | None = None, skip: Tensor | None = None
) -> list[Tensor]:
    """A leaky ReLU of the normalised pictures for each slope below 0; a slope of 0 is the plain ReLU.

    Args:
        norm: batch norm, or nothing.
        x: (N, C, H, W).
        mask: what the normalised pictures are multiplied by, uint8 of their shape.
        skip: (N, C, H, W); where it is given its channels come before those of each result.
    """
    if isinstance(norm, nn.BatchNorm2d) and norm.training and norm.track_running_stats and has_kernels(x.device):
        running = norm.running_mean, norm.running_var, norm.num_batches_tracked
        results = FusedNorm.apply(x, norm.weight, norm.bias, skip, running, mask, slopes, norm.momentum, norm.eps)
        return list(results)
    x = norm(x)
    if mask is not None:
        x = x * mask.to(x.dtype)
    results = [F.leaky_relu(x, slope) if slope else F.relu(x) for slope in slopes]
    return results if skip is None else [torch.cat([skip, result], dim=1) for result in results]


class FusedNorm(Function):
    """The same on a GPU in two kernels each way, with the batch's statistics."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, skip: Tensor | None, running: Sequence[Tensor],
        mask: Tensor | None, slopes: Sequence[float], momentum: float, epsilon: float,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        from gan.gpu import kernels  # needs Triton, which is only there for GPUs

        mask = None if mask is None else mask.contiguous()
        done = kernels.normalise(x, weight, bias, running, mask, slopes, momentum, epsilon, skip)
        ctx.save_for_backward(x, weight, bias, done.mean, done.rstd, mask)
        ctx.slopes, ctx.has_skip = slopes, skip is not None
        return tuple(done.results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from gan.gpu import kernels

        x, weight, bias, mean, rstd, mask = ctx.saved_tensors
        of_skip, given = None, list(gradients)
        if ctx.has_skip:
            of_skip, *given = torch.split(gradients[0], x.shape[1], dim=1)
        of = kernels.normalise_backward(x, weight, bias, mean, rstd, mask, ctx.slopes, given)
        return (*of, of_skip, None, None, None, None, None)
