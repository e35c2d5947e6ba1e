"""The patch discriminator of pix2pix (Isola et al. 2017, section 6.1.2)."""

import torch
from torch import Tensor, nn

from gan.networks.architecture import LEAK, MAX_WIDTH, NUM_STRIDED_LAYERS
from gan.networks.norm import NORMS, NewNorm

RECEPTIVE_FIELDS = (1, *NUM_STRIDED_LAYERS)


class Discriminator(nn.Module):
    """Says of each receptive field of a pair whether its target is real.

    The fields 16, 70 and 286 are 1, 3 and 5 convolutions of stride 2, then two of stride 1, all 4x4;
    the field 1 is three 1x1 convolutions. 9,024, 139,585, 2,768,705 and 11,159,361 parameters at 64
    channels for the fields 1, 16, 70 and 286.

    Args:
        channels: width of the first layer, 1 or more.
        receptive_field: side in pixels of what one logit sees: 1, 16, 70 or 286.
        norm: one of `gan.networks.norm.NORMS`.

    Raises:
        ValueError: for another receptive field.
    """

    def __init__(self, channels: int = 64, receptive_field: int = 70, norm: str = "batch") -> None:
        super().__init__()
        if receptive_field not in RECEPTIVE_FIELDS:
            raise ValueError(f"receptive_field is {receptive_field}: use one of {RECEPTIVE_FIELDS}")
        self.receptive_field = receptive_field
        if receptive_field == 1:
            self.layers = _pixel_layers(channels, NORMS[norm])
        else:
            self.layers = _patch_layers(channels, receptive_field, NORMS[norm])

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits (N, 1, h, w), above 0 for "real".

        Args:
            source: (N, 3, H, W) in [-1, 1]; both are cast to the weights' type.
            target: (N, 3, H, W) in [-1, 1], real or fake.
        """
        # The discriminator is conditional: it sees the source beside the target, six channels.
        pair = torch.cat([source, target], dim=1)
        logits: Tensor = self.layers(pair.to(next(self.parameters()).dtype))
        return logits


def _pixel_layers(channels: int, norm: NewNorm) -> nn.Sequential:
    """Three 1x1 convolutions: each pixel is judged alone; a bias in the first only."""
    return nn.Sequential(
        nn.Conv2d(6, channels, 1),
        nn.LeakyReLU(LEAK),
        nn.Conv2d(channels, 2 * channels, 1, bias=False),
        norm(2 * channels),
        nn.LeakyReLU(LEAK),
        nn.Conv2d(2 * channels, 1, 1, bias=False),
    )


def _patch_layers(channels: int, receptive_field: int, norm: NewNorm) -> nn.Sequential:
    """4x4 convolutions, the last two of stride 1; a bias in the first and the last only."""
    layers: list[nn.Module] = [nn.Conv2d(6, channels, 4, stride=2, padding=1), nn.LeakyReLU(LEAK)]

    width = channels
    num_strided = NUM_STRIDED_LAYERS[receptive_field]
    for layer in range(1, num_strided + 1):
        stride = 2 if layer < num_strided else 1
        next_width = channels * min(2**layer, MAX_WIDTH)
        layers += [
            nn.Conv2d(width, next_width, 4, stride=stride, padding=1, bias=False),
            norm(next_width),
            nn.LeakyReLU(LEAK),
        ]
        width = next_width

    # One logit for each receptive field. The losses take logits, so there is no sigmoid.
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 4, stride=1, padding=1))
