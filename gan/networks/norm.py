"""The norm of both networks: what follows each convolution but the first, the last and the generator's bottleneck.

Nothing else in gan depends on which one it is: what it learns stays in fp32. `gan.networks.sizes` has its numbers, and
`runner.models.onnx_graph` its ONNX operation. On a GPU batch norm has a kernel of its own in `gan.gpu.batch_norm`, for
a worker that trains alone; any other norm is PyTorch's.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

NewNorm: TypeAlias = Callable[[int], nn.Module]  # from a number of channels


class BatchNorm(nn.BatchNorm2d):
    """Batch norm (Ioffe and Szegedy 2015), gamma 1 and beta 0; inside `whole_batch` over the batch of all workers.

    Attributes:
        counted: None for the batch of this process alone; otherwise whether this worker's pictures belong to the batch.
        per_picture: True for the statistics of each picture, as if it were a batch of its own.
    """

    counted: bool | None = None
    per_picture: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        if self.per_picture:
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        if self.counted is None or not self.training:
            return super().forward(x)
        normed, mean, square, count = _WholeBatchNorm.apply(x, self.weight, self.bias, self.eps, self.counted)

        # As in PyTorch, the running variance is the unbiased one; the batch is normalised by the biased one.
        momentum = float(self.momentum or 0.0)
        with torch.no_grad():
            self.running_mean.lerp_(mean, momentum)  # type: ignore[union-attr]
            self.running_var.lerp_(square / (count - 1), momentum)  # type: ignore[union-attr]
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        result: Tensor = normed
        return result


class _WholeBatchNorm(Function):
    """Normalises this worker's pictures by mean and variance of all workers' pictures, in fp32 or fp64.

    torch.nn.SyncBatchNorm does so on GPUs only. All workers must call it, and its backward pass, equally often.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, counted: bool) -> tuple[Tensor, ...]:
        wide = _wide(x)
        # Each worker's own moments, and from these those of all: sums of squares would lose digits.
        mean = wide.mean((0, 2, 3))
        square = (wide - mean[:, None, None]).square().sum((0, 2, 3))
        count = torch.full_like(mean, x.numel() // x.shape[1])
        own = torch.stack([mean, square, count]) * float(counted)
        gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, own)
        means, squares, counts = torch.stack(gathered).unbind(1)

        total = counts.sum(0)
        mean = (means * counts).sum(0) / total
        square = (squares + counts * (means - mean).square()).sum(0)
        rstd = (square / total + epsilon).rsqrt()
        ctx.save_for_backward(x, weight, mean, rstd, total)
        ctx.counted = counted
        normed = (wide - mean[:, None, None]) * (rstd * weight)[:, None, None] + bias[:, None, None]
        normed = normed.to(x.dtype)
        ctx.mark_non_differentiable(mean, square, total)
        return normed, mean, square, total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd, total = ctx.saved_tensors
        gradient = _wide(gradients[0])
        normal = (_wide(x) - mean[:, None, None]) * rstd[:, None, None]
        own = torch.stack([gradient.sum((0, 2, 3)), (gradient * normal).sum((0, 2, 3))])

        # The mean and variance depend on all workers' pictures: both subtracted terms come from them. The gradients by
        # weight and bias are this worker's part of a sum, like those of every other parameter.
        sums = own.clone()
        dist.all_reduce(sums)
        if ctx.counted:
            by_bias, by_weight = (sums / total)[:, :, None, None]
            gradient = gradient - by_bias - normal * by_weight
        grad_x = gradient * (rstd * weight)[:, None, None]
        return grad_x.to(x.dtype), own[1], own[0], None, None


def _wide(x: Tensor) -> Tensor:
    """In fp32, or in fp64 if it is."""
    return x if x.dtype == torch.float64 else x.float()


@contextlib.contextmanager
def whole_batch(*networks: nn.Module, counted: bool) -> Iterator[None]:
    """Inside, batch norms in training mode take their statistics over the pictures of all workers.

    Args:
        counted: False on a worker whose pictures do not belong to the batch: it has fewer pictures than workers.
    """
    norms = [module for network in networks for module in network.modules() if isinstance(module, BatchNorm)]
    for norm in norms:
        norm.counted = counted
    try:
        yield
    finally:
        for norm in norms:
            norm.counted = None


NORMS: dict[str, NewNorm] = {
    "batch": BatchNorm,
    # Each picture by its own mean and variance, in training and in eval alike (Ulyanov et al. 2016), with a learned
    # scale and shift like batch norm's: both learn the same from a batch of one picture.
    "instance": functools.partial(nn.InstanceNorm2d, affine=True),
}


class Bias(nn.Module):
    """A constant for each channel: what a level without a norm adds, where norms leave convolutions their biases.

    Such are the U-Nets with instance norm of other programs; where ours does not start from one the constants are 0.
    They are not trained, so that both norms learn the same from a batch of one picture.
    """

    bias: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("bias", torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return x + self.bias.to(x.dtype)[:, None, None]


def new_identity(norm: str, channels: int) -> nn.Module:
    """What stands in place of the norm on a generator's first level and at its bottleneck.

    Args:
        norm: that of the other levels, one of NORMS.
    """
    return Bias(channels) if norm == "instance" else nn.Identity()
