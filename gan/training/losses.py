"""The losses of pix2pix, from logits, under the names that the study logs them by."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss, mse_loss, relu

REAL, FAKE = 1.0, 0.0  # the labels of the discriminator


class GeneratorLoss(NamedTuple):
    """What the generator minimises, and its two parts; scalars."""

    total_gen_loss: Tensor
    fake_d_real_class_loss: Tensor
    l1_loss: Tensor


class DiscriminatorLoss(NamedTuple):
    """What the discriminator minimises, and its two parts; scalars."""

    total_disc_loss: Tensor
    real_d_loss: Tensor
    fake_d_loss: Tensor


LOSS_NAMES = (*GeneratorLoss._fields, *DiscriminatorLoss._fields)


def generator_loss(
    fake_logits: Tensor, fake: Tensor, target: Tensor, lambda_l1: float, gan_loss: str = "bce"
) -> GeneratorLoss:
    """The fake is to be taken for real, and to be near the target.

    Args:
        fake_logits: (N, 1, h, w), the discriminator's logits of the fake pair.
        fake, target: (N, 3, H, W) in [-1, 1].
        lambda_l1: weight of the mean absolute difference, 100 in the paper.
        gan_loss: one of GAN_LOSSES.
    """
    adversarial = GAN_LOSSES[gan_loss].fooled(fake_logits)
    l1 = l1_loss(_wide(fake), target.to(_wide(fake).dtype))
    return GeneratorLoss(adversarial + lambda_l1 * l1, adversarial, l1)


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, gan_loss: str = "bce") -> DiscriminatorLoss:
    """Real pairs are to be called real, fake ones fake; the two are added, not averaged, as the study does.

    Args:
        real_logits, fake_logits: (N, 1, h, w).
        gan_loss: one of GAN_LOSSES.
    """
    adversarial = GAN_LOSSES[gan_loss]
    real, fake = adversarial.real(real_logits), adversarial.fake(fake_logits)
    return DiscriminatorLoss(real + fake, real, fake)


def adversarial_loss(logits: Tensor, label: float) -> Tensor:
    """Binary cross-entropy of logits with one label for all of them, REAL or FAKE; a scalar, computed in fp32."""
    logits = _wide(logits)
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def _least_squares(logits: Tensor, label: float) -> Tensor:
    """Mean squared difference of logits from one label, REAL or FAKE; a scalar, computed in fp32."""
    logits = _wide(logits)
    return mse_loss(logits, torch.full_like(logits, label))


def _wide(tensor: Tensor) -> Tensor:
    """In fp32, or in fp64 if it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


class AdversarialLoss(NamedTuple):
    """The three terms of a loss of GANs: of logits (N, 1, h, w) a scalar each, computed in fp32.

    Attributes:
        real, fake: what the discriminator minimises, on real and on generated pairs.
        fooled: what the generator minimises.
    """

    real: Callable[[Tensor], Tensor]
    fake: Callable[[Tensor], Tensor]
    fooled: Callable[[Tensor], Tensor]


GAN_LOSSES: dict[str, AdversarialLoss] = {
    # The generator's is the non-saturating loss: -log D instead of log(1 - D) (Goodfellow et al. 2014).
    "bce": AdversarialLoss(
        real=lambda logits: adversarial_loss(logits, REAL),
        fake=lambda logits: adversarial_loss(logits, FAKE),
        fooled=lambda logits: adversarial_loss(logits, REAL),
    ),
    # Least squares (Mao et al. 2017).
    "lsgan": AdversarialLoss(
        real=lambda logits: _least_squares(logits, REAL),
        fake=lambda logits: _least_squares(logits, FAKE),
        fooled=lambda logits: _least_squares(logits, REAL),
    ),
    # The hinge (Lim and Ye 2017): logits beyond 1 and -1 are right enough. The generator's has no bound.
    "hinge": AdversarialLoss(
        real=lambda logits: relu(1 - _wide(logits)).mean(),
        fake=lambda logits: relu(1 + _wide(logits)).mean(),
        fooled=lambda logits: -_wide(logits).mean(),
    ),
}
