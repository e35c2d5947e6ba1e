"""Metrics that see blur, one value per picture, without learned weights. All take (N, 3, H, W) pairs in [-1, 1].

PSNR and L1 favour blurred pictures: the mean of all pictures that fit a map, which is blurred, is nearest to each of
them. These two compare how detail is distributed, and ignore where it is.
"""

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, pad

_SMALLEST_LEVEL = 16
_NEIGHBOURHOOD = 7
_NUM_DESCRIPTORS = 512
_NUM_PROJECTIONS = 128
_SEED = 0
_HALF_GREY_LEVEL = 1 / 255
_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
# Of red, green and blue in ITU-R BT.601.
_LUMINANCE = (0.299, 0.587, 0.114)
# Rounding to steps of 2/255 has an error of variance step^2 / 12.
_ROUNDING_POWER = (2 / 255) ** 2 / 12


def swd(generated: Tensor, target: Tensor) -> Tensor:
    """Sliced Wasserstein distance of 7x7 neighbourhoods in the Laplacian pyramid: (N,), 0 for equal pictures.

    The mean over the pyramid's levels, from the whole picture down to 16 pixels. On each level, 512 neighbourhoods at
    the same positions in both pictures are centred, divided by their standard deviation in each channel, and projected
    on 128 directions. The distance is the mean difference of the sorted projections, in units of that standard
    deviation: about 0.2 for two different satellite pictures, 0.7 for one and a constant picture. Pictures must be at
    least 7 pixels high and wide.

    Karras et al., Progressive Growing of GANs (2018), section 5, for one pair of pictures instead of two sets, and
    without their factor of 1000. The divisor of a channel is at least half a grey level.
    """
    levels = laplacian_pyramid(torch.cat([generated, target]).float())
    return torch.stack([_level_distance(level) for level in levels]).mean(dim=0)


def laplacian_pyramid(pictures: Tensor) -> list[Tensor]:
    """(N, C, S, S), (N, C, S/2, S/2) and so on: the detail that each halving loses; the last level is the rest."""
    levels = []
    while min(pictures.shape[-2:]) >= 2 * _SMALLEST_LEVEL and not any(side % 2 for side in pictures.shape[-2:]):
        half = halve(pictures)
        levels.append(pictures - double(half))
        pictures = half
    return [*levels, pictures]


def halve(pictures: Tensor) -> Tensor:
    """Every second pixel of the smoothed pictures; their edges are mirrored."""
    channels = pictures.shape[1]
    return conv2d(pad(pictures, (2, 2, 2, 2), mode="reflect"), _binomial(pictures), stride=2, groups=channels)


def double(pictures: Tensor) -> Tensor:
    """The pictures at twice the size, interpolated smoothly."""
    channels = pictures.shape[1]
    mirrored = pad(pictures, (1, 1, 1, 1), mode="reflect")
    # Only one pixel of four has a value before smoothing: the factor 4 keeps the mean.
    larger = conv_transpose2d(mirrored, 4 * _binomial(pictures), stride=2, groups=channels)
    return larger[..., 4:-3, 4:-3]


def _binomial(pictures: Tensor) -> Tensor:
    """(C, 1, 5, 5): the smoothing window of each channel."""
    row = torch.tensor(_BINOMIAL, device=pictures.device)
    return torch.outer(row, row).expand(pictures.shape[1], 1, -1, -1)


def _level_distance(level: Tensor) -> Tensor:
    """(N,) from one level of 2 N pictures: first the generated ones, then their targets."""
    count, channels, height, width = level.shape
    indices = _neighbourhoods(height, width).to(level.device)
    pixels = level.flatten(-2)[..., indices.flatten()].reshape(count, channels, *indices.shape)

    pixels = pixels - pixels.mean(dim=(2, 3), keepdim=True)
    pixels = pixels / pixels.std(dim=(2, 3), correction=0, keepdim=True).clamp(min=_HALF_GREY_LEVEL)

    # Sorted projections are matched in their order: the Wasserstein distance along a line.
    projected = torch.einsum("ncdp,cpk->nkd", pixels, _directions(channels).to(level.device))
    generated, target = _ascending(projected).chunk(2)
    return (generated - target).abs().mean(dim=(1, 2))


def _ascending(values: Tensor) -> Tensor:
    """Sorted along the last dimension."""
    # On a processor NumPy takes a tenth of torch's time.
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(dim=-1).values


@functools.cache
def _neighbourhoods(height: int, width: int) -> Tensor:
    """(D, 49): flat indices of the pixels of D neighbourhoods: 512 drawn ones, or all where there are fewer."""
    rows, columns = height - _NEIGHBOURHOOD + 1, width - _NEIGHBOURHOOD + 1
    drawn = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(_SEED))[:_NUM_DESCRIPTORS]
    corners = drawn // columns * width + drawn % columns
    offsets = torch.arange(_NEIGHBOURHOOD)
    return corners[:, None] + (offsets[:, None] * width + offsets).flatten()


@functools.cache
def _directions(channels: int) -> Tensor:
    """(C, 49, 128): unit vectors in the space of the neighbourhoods."""
    size = (channels, _NEIGHBOURHOOD**2, _NUM_PROJECTIONS)
    drawn = torch.randn(size, generator=torch.Generator().manual_seed(_SEED))
    return drawn / drawn.square().sum(dim=(0, 1)).sqrt()


def spectrum(generated: Tensor, target: Tensor) -> Tensor:
    """Distance of the radial power spectra in decibels: (N,), 0 for equal pictures.

    The power of the luminance is averaged over rings of frequencies: one ring for each whole number of periods from 1
    to half the picture's side. The value is the mean absolute difference over the rings. A picture whose finest half of
    frequencies has a hundredth of its target's power has a value of 10 dB.
    """
    # Rounding to 8 bits adds this power anyway. Constant pictures have a logarithm with it, and differences that
    # nobody can see do not count.
    bands = radial_power(torch.cat([generated, target]).float())
    generated_db, target_db = (10 * torch.log10(bands + _ROUNDING_POWER)).chunk(2)
    return (generated_db - target_db).abs().mean(dim=1)


def radial_power(pictures: Tensor) -> Tensor:
    """(N, B): mean power of the luminance in B bands of frequency, as much as its variance where it is white."""
    height, width = pictures.shape[-2:]
    weights = torch.tensor(_LUMINANCE, device=pictures.device)
    luminance = torch.einsum("nchw,c->nhw", pictures, weights)

    # Opposite edges do not meet. Without a window that step would look like detail.
    window = torch.outer(*(torch.hann_window(side, device=pictures.device) for side in (height, width)))
    centred = luminance - luminance.mean(dim=(1, 2), keepdim=True)
    power = torch.fft.rfft2(centred * window).abs().square().flatten(1) / window.square().sum()

    band, size = (part.to(pictures.device) for part in _bands_of(height, width))
    sums = torch.zeros(len(pictures), len(size), device=pictures.device).index_add_(1, band, power)
    return (sums / size)[:, 1:]


@functools.cache
def _bands_of(height: int, width: int) -> tuple[Tensor, Tensor]:
    """The band of each frequency of `rfft2`, flat, and the number of frequencies in each band.

    Band 0 has the mean, and the frequencies beyond the last band.
    """
    num_bands = min(height, width) // 2
    rows = torch.fft.fftfreq(height, 1 / height)
    columns = torch.fft.rfftfreq(width, 1 / width)
    radius = (rows[:, None].square() + columns.square()).sqrt().round().long().flatten()
    band = torch.where(radius > num_bands, 0, radius)
    return band, torch.bincount(band, minlength=num_bands + 1).float()
