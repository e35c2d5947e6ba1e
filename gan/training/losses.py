"""The losses of pix2pix, from logits, under the names that the study logs them by."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss

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


def generator_loss(fake_logits: Tensor, fake: Tensor, target: Tensor, lambda_l1: float) -> GeneratorLoss:
    """The fake is to be taken for real, and to be near the target.

    Args:
        fake_logits: (N, 1, h, w), the discriminator's logits of the fake pair.
        fake, target: (N, 3, H, W) in [-1, 1].
        lambda_l1: weight of the mean absolute difference, 100 in the paper.
    """
    # The non-saturating loss: -log D instead of log(1 - D) (Goodfellow et al. 2014).
    adversarial = adversarial_loss(fake_logits, REAL)
    l1 = l1_loss(fake.float(), target.float())
    return GeneratorLoss(adversarial + lambda_l1 * l1, adversarial, l1)


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> DiscriminatorLoss:
    """Real pairs are to be called real, fake ones fake; the two are added, not averaged, as the study does.

    Args:
        real_logits, fake_logits: (N, 1, h, w).
    """
    real, fake = adversarial_loss(real_logits, REAL), adversarial_loss(fake_logits, FAKE)
    return DiscriminatorLoss(real + fake, real, fake)


def adversarial_loss(logits: Tensor, label: float) -> Tensor:
    """Binary cross-entropy of logits with one label for all of them, REAL or FAKE; a scalar, computed in fp32."""
    logits = logits.float()
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
