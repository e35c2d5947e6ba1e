"""The U-Net generator of pix2pix (Isola et al. 2017, section 6.1.1)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.networks.architecture import LEAK, MAX_WIDTH
from gan.networks.convolution import UPSAMPLINGS, Downsample, NewUpsampling
from gan.networks.norm import NORMS, new_identity

# The paper's decoder begins with three blocks that have dropout of 0.5 (CD512).
_NUM_DROPOUT_BLOCKS = 3


class DownBlock(nn.Module):
    """4x4 convolution of stride 2, then a norm, or the identity."""

    def __init__(self, in_channels: int, out_channels: int, norm: nn.Module) -> None:
        super().__init__()
        self.conv = Downsample(in_channels, out_channels)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H/2, W/2)."""
        normed: Tensor = self.norm(self.conv(x))
        return normed


class UpBlock(nn.Module):
    """Convolution to twice the side, a norm, then dropout by a given mask."""

    def __init__(self, in_channels: int, out_channels: int, norm: nn.Module, upsampling: NewUpsampling) -> None:
        super().__init__()
        self.conv = upsampling(in_channels, out_channels)
        self.norm = norm

    def forward(self, x: Tensor, dropout_mask: Tensor | None = None) -> Tensor:
        """(N, C, H, W) to (N, O, 2H, 2W)."""
        x = self.norm(self.conv(x))
        return x if dropout_mask is None else x * dropout_mask.to(x.dtype)


class Generator(nn.Module):
    """Maps a source picture to a fake target of the same size.

    The U-Net has log2(patch_size) levels of widths 1, 2, 4, 8, 8, ... times `channels`, with a skip
    connection at each. There is no norm on the first level and on the 1x1 bottleneck, where a
    batch of one would leave a single value to normalise. 54,413,955 parameters at 64 channels and 256
    pixels, layer for layer those of the PyTorch reference implementation.

    Dropout is no layer: its masks are an argument, so that they can be a function of seed and step.

    Args:
        channels: width of the first level, 1 or more.
        patch_size: side of the pictures in pixels, a power of two from 64 on.
        norm: one of `gan.networks.norm.NORMS`.
        upsampling: how blocks come up, one of `gan.networks.convolution.UPSAMPLINGS`.
    """

    def __init__(
        self, channels: int = 64, patch_size: int = 256, norm: str = "batch", upsampling: str = "transposed"
    ) -> None:
        super().__init__()
        new_norm, new_upsampling = NORMS[norm], UPSAMPLINGS[upsampling]
        levels = int(math.log2(patch_size))
        widths = [channels * min(2**level, MAX_WIDTH) for level in range(levels)]
        self.patch_size = patch_size
        self.widths = widths

        bottleneck = levels - 1
        self.down = nn.ModuleList(
            DownBlock(
                widths[level - 1] if level else 3,
                widths[level],
                new_norm(widths[level]) if 0 < level < bottleneck else new_identity(norm, widths[level]),
            )
            for level in range(levels)
        )
        # All blocks but the first also take what the encoder had at their level: twice the width.
        self.up = nn.ModuleList(
            UpBlock(
                widths[level] if level == bottleneck else 2 * widths[level],
                widths[level - 1],
                new_norm(widths[level - 1]),
                new_upsampling,
            )
            for level in range(bottleneck, 0, -1)
        )
        self.last = new_upsampling(2 * widths[0], 3, bias=True)

    @property
    def dropout_shapes(self) -> list[tuple[int, int, int]]:
        """(channels, height, width) of each dropout mask for one picture, from the bottleneck on."""
        # The first block comes up from 1x1 to 2x2 pixels.
        return [(self.widths[-2 - block], 2 ** (block + 1), 2 ** (block + 1)) for block in range(_NUM_DROPOUT_BLOCKS)]

    def forward(self, source: Tensor, dropout_masks: Sequence[Tensor] = ()) -> Tensor:
        """The fake target, in [-1, 1].

        Args:
            source: (N, 3, H, W) in [-1, 1], H and W multiples of patch_size; it is cast to the weights' type.
            dropout_masks: three tensors (N, *dropout_shapes[i]) of 0 (dropped) and 2 (kept), or none
                for no dropout.
        """
        # Encoder: each level halves the picture, and keeps its result for the decoder.
        x = self.down[0](source.to(self.last.weight.dtype))
        skips = [x]
        for down in self.down[1:]:
            x = down(F.leaky_relu(x, LEAK))
            skips.append(x)

        # Decoder: from the bottleneck up, with the encoder's result of the same size beside each block's own.
        x = F.relu(skips.pop())
        for block, up in enumerate(self.up):
            x = up(x, dropout_masks[block] if block < len(dropout_masks) else None)
            # Each half has its own ReLU, whose gradient is a tensor of its own: batch norm's backward pass takes six
            # times as long for the half of a tensor that lies channels last.
            x = torch.cat([F.relu(skips.pop()), F.relu(x)], dim=1)
        return torch.tanh(self.last(x))
