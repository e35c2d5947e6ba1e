"""The norm of both networks: what follows each convolution but the first and the last.

Nothing else in gan depends on which one it is: what it learns stays in fp32, and what it keeps for eval mode is
averaged over workers. `gan.networks.sizes` has its numbers, and `runner.models.onnx_graph` its ONNX operation. On a GPU
batch norm has a kernel of its own in `gan.gpu.batch_norm`; any other norm is PyTorch's.
"""

from collections.abc import Callable
from typing import TypeAlias

from torch import nn

NewNorm: TypeAlias = Callable[[int], nn.Module]  # from a number of channels


def new_norm(channels: int) -> nn.Module:
    """Batch norm (Ioffe and Szegedy 2015), gamma 1 and beta 0."""
    return nn.BatchNorm2d(channels)
