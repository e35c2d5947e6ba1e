"""The norm of both networks: what follows each convolution but the first, the last and the generator's bottleneck.

Nothing else in gan depends on which one it is: what it learns stays in fp32, and what it keeps for eval mode is
averaged over workers. `gan.networks.sizes` has its numbers, and `runner.models.onnx_graph` its ONNX operation. On a GPU
batch norm has a kernel of its own in `gan.gpu.batch_norm`; any other norm is PyTorch's.
"""

import functools
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

NewNorm: TypeAlias = Callable[[int], nn.Module]  # from a number of channels

NORMS: dict[str, NewNorm] = {
    # Batch norm (Ioffe and Szegedy 2015), gamma 1 and beta 0.
    "batch": nn.BatchNorm2d,
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
