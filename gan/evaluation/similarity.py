"""The metrics of the study, one value per picture. All take (N, 3, H, W) pairs in [-1, 1]."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

_MAX_VALUE = 2.0  # from -1 to 1
_SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5
_SSIM_C1 = (0.01 * _MAX_VALUE) ** 2
_SSIM_C2 = (0.03 * _MAX_VALUE) ** 2


def ssim(generated: Tensor, target: Tensor) -> Tensor:
    """Structural similarity as tf.image.ssim computes it: (N,) in [-1, 1], 1 for equal pictures.

    A Gaussian window of 11x11 with sigma 1.5, without padding; each channel is computed alone, then they are averaged.
    torchmetrics pads the pictures, which gives other values.
    """
    # Channels become pictures of their own, so that one convolution blurs all of them.
    images = torch.stack([generated, target]).float().flatten(0, 2).unsqueeze(1)
    x, y = images.chunk(2)
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _blur(torch.cat([x, y, x * x, y * y, x * y])).chunk(5)

    # Wang et al., Image Quality Assessment (2004), equation 13.
    luminance = (2 * mean_x * mean_y + _SSIM_C1) / (mean_x**2 + mean_y**2 + _SSIM_C1)
    covariance = mean_xy - mean_x * mean_y
    variances = mean_xx + mean_yy - mean_x**2 - mean_y**2
    structure = (2 * covariance + _SSIM_C2) / (variances + _SSIM_C2)

    per_channel = (luminance * structure).mean(dim=(1, 2, 3))
    return per_channel.reshape(generated.shape[0], -1).mean(dim=1)


def _blur(images: Tensor) -> Tensor:
    """The SSIM window over (N, 1, H, W), without padding."""
    # A Gaussian window is separable: rows, then columns.
    offsets = torch.arange(_SSIM_WINDOW, dtype=images.dtype, device=images.device) - _SSIM_WINDOW // 2
    weights = torch.softmax(-(offsets**2) / (2 * _SSIM_SIGMA**2), dim=0)
    return conv2d(conv2d(images, weights.reshape(1, 1, -1, 1)), weights.reshape(1, 1, 1, -1))


def psnr(generated: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels: (N,), infinite for equal pictures."""
    squares = (generated.float() - target.float()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(_MAX_VALUE**2 / squares)


def l1(generated: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference: (N,) in [0, 2]."""
    return (generated.float() - target.float()).abs().mean(dim=(1, 2, 3))


def hp_l1(generated: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of the two pictures' high-pass maps: (N,) in [0, 2].

    Each map is divided by its largest absolute value. The map of a constant picture is empty: there the study's formula
    divides by zero, and this function returns 0.
    """
    maps = _high_pass(torch.cat([generated, target]).float())
    peaks = maps.abs().amax(dim=(1, 2, 3), keepdim=True)
    scaled_generated, scaled_target = (maps / torch.where(peaks > 0, peaks, 1.0)).chunk(2)
    value = (scaled_generated - scaled_target).abs().mean(dim=(1, 2, 3))
    both_have_detail = (peaks > 0).flatten().reshape(2, -1).all(dim=0)
    return torch.where(both_have_detail, value, 0.0)


def _high_pass(images: Tensor) -> Tensor:
    """(N, 1, H, W): the zero-padded 4-neighbour Laplacian, summed over the channels."""
    kernel = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]], device=images.device)
    return conv2d(images, kernel.expand(1, images.shape[1], 3, 3), padding=1)
