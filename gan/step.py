"""One training step: both networks are updated from one forward pass."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gan.losses import discriminator_loss, generator_loss
from gan.state import LossScale, TrainState
from gan.team import Team


def train_step(
    state: TrainState, source: Tensor, target: Tensor, masks: Sequence[Tensor], lambda_l1: float, team: Team
) -> Tensor:
    """Updates both networks; the gradients of both losses are taken before either update.

    The generator runs once, the discriminator once on the real and once on the fake pair. With several
    workers, gradients, running statistics and losses are averaged by one all-reduce a network. Nothing is
    read back to the host, so that a CUDA graph can hold the step.

    Args:
        source, target: (n, 3, S, S) in [-1, 1], this worker's share of the batch, on the state's device.
        masks: the generator's dropout masks for this share, on the device.

    Returns:
        The six losses in the order of LOSS_NAMES, float32 on the device: means over the whole batch.
    """
    generator, discriminator, loss_scale = state.low_generator, state.low_discriminator, state.loss_scale
    generator.train()
    discriminator.train()
    fake = generator(source, masks)
    seen_source = source.to(fake.dtype)
    fake_logits = discriminator(seen_source, fake)
    real_logits = discriminator(seen_source, target.to(fake.dtype))
    for_generator = generator_loss(fake_logits, fake, target, lambda_l1)
    for_discriminator = discriminator_loss(real_logits, fake_logits)
    discriminator_gradients = gradients(for_discriminator.total_disc_loss, discriminator, loss_scale, keep_graph=True)
    generator_gradients = gradients(for_generator.total_gen_loss, generator, loss_scale, keep_graph=False)

    losses = torch.stack([loss.detach() for loss in (*for_generator, *for_discriminator)])
    team.average_([*generator_gradients, *running_statistics(generator)])
    team.average_([*discriminator_gradients, *running_statistics(discriminator), losses])
    overflow = loss_scale.overflow(generator_gradients + discriminator_gradients)
    state.discriminator_optimizer.update(discriminator_gradients, loss_scale.scale, overflow)
    state.generator_optimizer.update(generator_gradients, loss_scale.scale, overflow)
    loss_scale.update(overflow)
    return losses


def gradients(loss: Tensor, network: nn.Module, loss_scale: LossScale, *, keep_graph: bool) -> list[Tensor]:
    """The loss's gradients by the network's own parameters, in their order; nothing is accumulated."""
    scaled = loss if loss_scale.scale is None else loss * loss_scale.scale
    return list(torch.autograd.grad(scaled, list(network.parameters()), retain_graph=keep_graph))


def running_statistics(network: nn.Module) -> list[Tensor]:
    """The means and variances that batch norm keeps for eval mode."""
    return [buffer for buffer in network.buffers() if buffer.is_floating_point()]
