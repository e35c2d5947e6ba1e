"""The U-Net generator of pix2pix (Isola et al. 2017, section 6.1.1)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gan.gpu.batch_norm import normalised
from gan.gpu.streams import SideStream
from gan.networks.convolution import downsample, upsample

MAX_WIDTH = 8
NUM_DROPOUT_BLOCKS = 3
LEAK, RELU = 0.2, 0.0


class DownBlock(nn.Module):
    """4x4 convolution of stride 2, batch norm where asked for."""

    def __init__(self, in_channels: int, out_channels: int, *, normalise: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels) if normalise else nn.Identity()

    def forward(self, x: Tensor, slopes: Sequence[float], side: SideStream | None) -> list[Tensor]:
        """The block's leaky ReLU for each slope."""
        return normalised(self.norm, downsample(x, self.conv.weight, side), slopes)


class UpBlock(nn.Module):
    """4x4 transposed convolution of stride 2, batch norm, dropout by a given mask, ReLU, after the skip's channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor, skip: Tensor, dropout_mask: Tensor | None, side: SideStream | None) -> Tensor:
        x = upsample(x, self.conv.weight, side=side)
        return normalised(self.norm, x, [RELU], dropout_mask, skip)[0]


class Generator(nn.Module):
    """Maps a source picture to a fake target of the same size.

    The U-Net has log2(patch_size) levels of widths 1, 2, 4, 8, 8, ... times `channels`, with a skip
    connection at each. There is no batch norm on the first level and on the 1x1 bottleneck, where a
    batch of one would leave a single value to normalise. 54,413,955 parameters at 64 channels and 256
    pixels, layer for layer those of the PyTorch reference implementation.

    Dropout is no layer: its masks are an argument, so that they can be a function of seed and step.

    Args:
        channels: width of the first level, 1 or more.
        patch_size: side of the pictures in pixels, a power of two from 64 on.
    """

    def __init__(self, channels: int = 64, patch_size: int = 256) -> None:
        super().__init__()
        levels = int(math.log2(patch_size))
        widths = [channels * min(2**level, MAX_WIDTH) for level in range(levels)]
        self.patch_size = patch_size
        self.widths = widths
        self.down = nn.ModuleList(
            DownBlock(
                widths[level - 1] if level else 3,
                widths[level],
                normalise=0 < level < levels - 1,
            )
            for level in range(levels)
        )
        self.up = nn.ModuleList(
            UpBlock(widths[level] if level == levels - 1 else 2 * widths[level], widths[level - 1])
            for level in range(levels - 1, 0, -1)
        )
        self.last = nn.ConvTranspose2d(2 * widths[0], 3, 4, stride=2, padding=1, bias=True)

    @property
    def dropout_shapes(self) -> list[tuple[int, int, int]]:
        """(channels, height, width) of each dropout mask for one picture, from the bottleneck on."""
        return [(self.widths[-2 - block], 2 ** (block + 1), 2 ** (block + 1)) for block in range(NUM_DROPOUT_BLOCKS)]

    def forward(self, source: Tensor, dropout_masks: Sequence[Tensor] = ()) -> Tensor:
        """The fake target, in [-1, 1].

        Args:
            source: (N, 3, H, W) in [-1, 1], H and W multiples of patch_size; computed with in the weights' type.
            dropout_masks: three tensors (N, *dropout_shapes[i]) of 0 (dropped) and 2 (kept), or none
                for no dropout.
        """
        x, *skips = self.encode(source.to(self.last.weight.dtype))
        x = skips.pop()
        return self.decode(x, *reversed(skips), dropout_masks=dropout_masks)

    def encode(
        self, x: Tensor, start: int = 0, stop: int | None = None, side: SideStream | None = None
    ) -> list[Tensor]:
        """Goes down some levels.

        Args:
            x: the source, in the weights' type, or what the level above `start` handed down.
            side: see `gan.networks.convolution.downsample`.

        Returns:
            what the last of them hands down, and what each of them hands to the decoder.
        """
        skips = []
        for down in self.down[start:stop]:
            x, skip = down(x, (LEAK, RELU), side)
            skips.append(skip)
        return [x, *skips]

    def decode(
        self, x: Tensor, *skips: Tensor, dropout_masks: Sequence[Tensor], start: int = 0, stop: int | None = None,
        side: SideStream | None = None,
    ) -> Tensor:  # fmt: skip
        """Goes up some levels; where the last block is among them, to the fake target.

        Args:
            x: what the bottleneck handed over, or the result of the block before `start`.
            skips: what the encoder handed over at the level that each block comes up to.
            side: see `gan.networks.convolution.downsample`.
        """
        blocks = list(enumerate(self.up))[start:stop]
        for (block, up), skip in zip(blocks, skips, strict=True):
            x = up(x, skip, dropout_masks[block] if block < len(dropout_masks) else None, side)
        if stop is None or stop > len(self.up):
            x = torch.tanh(upsample(x, self.last.weight, self.last.bias, side))
        return x
