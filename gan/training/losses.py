"""The losses of pix2pix, from logits, under the names that the study logs them by."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss


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


def adversarial_loss(logits: Tensor, judgement: float) -> Tensor:
    """Cross-entropy of the discriminator's logits with one judgement of all they see: 1 for real, 0 for fake."""
    wide = logits.float()
    return binary_cross_entropy_with_logits(wide, torch.full_like(wide, judgement))


def adversarial_loss_grad(logits: Tensor, judgement: float) -> Tensor:
    """The gradient of `adversarial_loss` by the logits, float32 of their shape."""
    return (torch.sigmoid(logits.float()) - judgement) / logits.numel()


def generator_loss(fake_logits: Tensor, fake: Tensor, target: Tensor, lambda_l1: float) -> GeneratorLoss:
    """The fake is to be taken for real, and near the target.

    Args:
        fake_logits: (N, 1, h, w), the discriminator's view of the fake.
        fake, target: (N, 3, H, W) in [-1, 1].
        lambda_l1: weight of the mean absolute difference, 100 in the paper.
    """
    fooled = adversarial_loss(fake_logits, 1.0)
    distance = l1_loss(fake.float(), target.float())
    return GeneratorLoss(fooled + lambda_l1 * distance, fooled, distance)


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> DiscriminatorLoss:
    """Real pairs are to be called real, fake ones fake; the two are summed, not averaged, as the study does.

    Args:
        real_logits, fake_logits: (N, 1, h, w).
    """
    real_d_loss, fake_d_loss = adversarial_loss(real_logits, 1.0), adversarial_loss(fake_logits, 0.0)
    return DiscriminatorLoss(real_d_loss + fake_d_loss, real_d_loss, fake_d_loss)
