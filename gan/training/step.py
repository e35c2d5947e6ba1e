"""One training step of pix2pix, as it runs on a processor.

A GPU takes the same step in another order, see `gan.gpu.step`; with settings that this order was not made for, it takes
this one.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from gan.networks.norm import whole_batch
from gan.training.losses import discriminator_loss, generator_loss
from gan.training.process_group import ProcessGroup, Share
from gan.training.state import TrainState


def train_step(
    state: TrainState,
    source: Tensor,
    target: Tensor,
    dropout_masks: Sequence[Tensor],
    lambda_l1: float,
    group: ProcessGroup,
    gan_loss: str = "bce",
    share: Share | None = None,
) -> Tensor:
    """Updates both networks from one forward pass; with several workers from the gradient of their whole batch.

    Args:
        source, target: (n, 3, S, S) in [-1, 1], this worker's share of the batch, on the state's device.
        dropout_masks: the generator's, for this share, on the device.
        gan_loss: one of `gan.training.losses.GAN_LOSSES`.
        share: what part of the batch this is; only several workers need it, equal parts without it.

    Returns:
        The six losses in the order of LOSS_NAMES, float32 on the device: means over the whole batch.
    """
    generator, discriminator = state.compute_generator, state.compute_discriminator
    generator.train()
    discriminator.train()

    # Alone, a worker has the whole batch, and its norms are PyTorch's.
    weight = 1.0 if group.world_size == 1 else share.weight if share else 1 / group.world_size
    statistics = whole_batch(generator, discriminator, counted=weight > 0) if group.world_size > 1 else nullcontext()

    # One pass of the generator, and one of the discriminator over either pair: both losses share the one over the fake.
    with statistics:
        fake = generator(source, dropout_masks)
        real_logits = discriminator(source, target)
        fake_logits = discriminator(source, fake)

    for_generator = generator_loss(fake_logits, fake, target, lambda_l1, gan_loss)
    for_discriminator = discriminator_loss(real_logits, fake_logits, gan_loss)

    # Both gradients come before either update, so that both networks learn from each other as they were.
    scale = state.loss_scale
    # The graph is kept: the generator's loss goes back through the same pass over the fake.
    d_grads = _gradients(scale.scaled(weight * for_discriminator.total_disc_loss), discriminator, retain_graph=True)
    g_grads = _gradients(scale.scaled(weight * for_generator.total_gen_loss), generator)
    group.all_reduce_sum_(list(d_grads.values()))
    group.all_reduce_sum_(list(g_grads.values()))

    overflow = scale.overflow([*g_grads.values(), *d_grads.values()])
    state.discriminator_optimizer.step(d_grads, scale.scale, overflow)
    state.generator_optimizer.step(g_grads, scale.scale, overflow)
    scale.update(overflow)

    losses = torch.stack([*for_generator, *for_discriminator]).detach() * weight
    group.all_reduce_sum_([losses])
    return losses


def _gradients(loss: Tensor, network: nn.Module, *, retain_graph: bool = False) -> dict[str, Tensor]:
    """The gradients of a loss by a network's parameters, under their names."""
    parameters = dict(network.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()), retain_graph=retain_graph)
    return dict(zip(parameters, gradients, strict=True))
