"""Metrics that see blur, one value a picture, without learned weights. All take (N, 3, H, W) pairs in [-1, 1].

PSNR and L1 favour what is blurred: the mean of all pictures that fit a map is nearest to each of them. These two
compare how detail is distributed, and not where it lies.
"""

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, pad

SMALLEST_LEVEL = 16
NEIGHBOURHOOD = 7
NUM_DESCRIPTORS = 512
NUM_PROJECTIONS = 128
SEED = 0
HALF_GREY_LEVEL = 1 / 255
BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
LUMINANCE = (0.299, 0.587, 0.114)
ROUNDING_POWER = (2 / 255) ** 2 / 12


def swd(generated: Tensor, target: Tensor) -> Tensor:
    """Sliced Wasserstein distance of 7x7 neighbourhoods in the Laplacian pyramid: (N,), 0 for equal pictures.

    The mean over the pyramid's levels, from the whole picture down to 16 pixels. Of each level 512 neighbourhoods,
    the same places in both pictures, are centred and divided by their standard deviation in each channel, and
    projected on 128 directions; the distance is the mean difference of the sorted projections. Its unit is thus that
    standard deviation: two different satellite pictures come to about 0.2, one beside a constant picture to 0.7.
    Pictures are at least 7 pixels high and wide.

    Karras et al., Progressive Growing of GANs (2018), section 5, for one pair of pictures instead of two sets, and
    without their factor of 1000. A channel without detail is divided by half a grey level at the least.
    """
    levels = laplacian_pyramid(torch.cat([generated, target]).float())
    return torch.stack([level_distance(level) for level in levels]).mean(dim=0)


def laplacian_pyramid(pictures: Tensor) -> list[Tensor]:
    """(N, C, S, S), (N, C, S/2, S/2) and so on: what each halving loses, and last what is left at 16 pixels."""
    levels = []
    while min(pictures.shape[-2:]) >= 2 * SMALLEST_LEVEL and not any(side % 2 for side in pictures.shape[-2:]):
        half = halve(pictures)
        levels.append(pictures - double(half))
        pictures = half
    return [*levels, pictures]


def halve(pictures: Tensor) -> Tensor:
    """Every second pixel of the smoothed pictures, mirrored at their edges."""
    channels = pictures.shape[1]
    return conv2d(pad(pictures, (2, 2, 2, 2), mode="reflect"), binomial(pictures), stride=2, groups=channels)


def double(pictures: Tensor) -> Tensor:
    """Twice the size, smooth."""
    channels = pictures.shape[1]
    mirrored = pad(pictures, (1, 1, 1, 1), mode="reflect")
    larger = conv_transpose2d(mirrored, 4 * binomial(pictures), stride=2, groups=channels)
    return larger[..., 4:-3, 4:-3]


def binomial(pictures: Tensor) -> Tensor:
    """(C, 1, 5, 5): the smoothing window of each channel."""
    row = torch.tensor(BINOMIAL, device=pictures.device)
    return torch.outer(row, row).expand(pictures.shape[1], 1, -1, -1)


def level_distance(level: Tensor) -> Tensor:
    """(N,) from one level of N generated pictures, followed by that of their N targets."""
    count, channels, height, width = level.shape
    places = neighbourhoods(height, width).to(level.device)
    pixels = level.flatten(-2)[..., places.flatten()].reshape(count, channels, *places.shape)
    pixels = pixels - pixels.mean(dim=(2, 3), keepdim=True)
    pixels = pixels / pixels.std(dim=(2, 3), correction=0, keepdim=True).clamp(min=HALF_GREY_LEVEL)
    projected = torch.einsum("ncdp,cpk->nkd", pixels, directions(channels).to(level.device))
    generated, target = ascending(projected).chunk(2)
    return (generated - target).abs().mean(dim=(1, 2))


def ascending(values: Tensor) -> Tensor:
    """Sorted along the last dimension; on a processor by NumPy, which takes a tenth of torch's time."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(dim=-1).values


@functools.cache
def neighbourhoods(height: int, width: int) -> Tensor:
    """(D, 49): flat indices of the pixels around each of 512 places, or around all where there are fewer."""
    rows, columns = height - NEIGHBOURHOOD + 1, width - NEIGHBOURHOOD + 1
    drawn = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(SEED))[:NUM_DESCRIPTORS]
    corners = drawn // columns * width + drawn % columns
    offsets = torch.arange(NEIGHBOURHOOD)
    return corners[:, None] + (offsets[:, None] * width + offsets).flatten()


@functools.cache
def directions(channels: int) -> Tensor:
    """(C, 49, 128): unit vectors in the space of the neighbourhoods."""
    size = (channels, NEIGHBOURHOOD**2, NUM_PROJECTIONS)
    drawn = torch.randn(size, generator=torch.Generator().manual_seed(SEED))
    return drawn / drawn.square().sum(dim=(0, 1)).sqrt()


def spectrum(generated: Tensor, target: Tensor) -> Tensor:
    """Distance of the radial power spectra in decibels: (N,), 0 for equal pictures.

    The power of the luminance at all frequencies of about the same size is averaged, for each whole number of
    periods from 1 to half the picture's side; the value is the mean absolute difference over these. A picture
    whose finest half of frequencies has a hundredth of its target's power comes to 10 dB.

    A Hann window keeps the edges, which do not meet, from looking like detail; and the power that rounding to 8 bits
    has is added to both, so that there is a logarithm for a constant picture and none for what nobody can see.
    """
    bands = radial_power(torch.cat([generated, target]).float())
    generated_db, target_db = (10 * torch.log10(bands + ROUNDING_POWER)).chunk(2)
    return (generated_db - target_db).abs().mean(dim=1)


def radial_power(pictures: Tensor) -> Tensor:
    """(N, B): mean power of the luminance in B bands of frequency, as much as its variance where it is white."""
    height, width = pictures.shape[-2:]
    weights = torch.tensor(LUMINANCE, device=pictures.device)
    luminance = torch.einsum("nchw,c->nhw", pictures, weights)
    window = torch.outer(*(torch.hann_window(side, device=pictures.device) for side in (height, width)))
    centred = luminance - luminance.mean(dim=(1, 2), keepdim=True)
    power = torch.fft.rfft2(centred * window).abs().square().flatten(1) / window.square().sum()
    band, size = (part.to(pictures.device) for part in bands_of(height, width))
    sums = torch.zeros(len(pictures), len(size), device=pictures.device).index_add_(1, band, power)
    return (sums / size)[:, 1:]


@functools.cache
def bands_of(height: int, width: int) -> tuple[Tensor, Tensor]:
    """The band of each frequency of `rfft2`, flat, and how many each band has; those past the last band count in
    band 0, with the mean."""
    num_bands = min(height, width) // 2
    rows = torch.fft.fftfreq(height, 1 / height)
    columns = torch.fft.rfftfreq(width, 1 / width)
    radius = (rows[:, None].square() + columns.square()).sqrt().round().long().flatten()
    band = torch.where(radius > num_bands, 0, radius)
    return band, torch.bincount(band, minlength=num_bands + 1).float()
