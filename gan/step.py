"""One training step: both networks are updated from one forward pass."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn.functional import l1_loss

from gan.adam import Adam
from gan.losses import DiscriminatorLoss, GeneratorLoss, judgement_loss
from gan.state import TrainState
from gan.team import Team

DECODER = ("up.", "last.")


def train_step(
    state: TrainState, source: Tensor, target: Tensor, masks: Sequence[Tensor], lambda_l1: float, team: Team
) -> Tensor:
    """Updates both networks; the gradients of both losses are taken before either update is of consequence.

    The generator runs once, the discriminator once on the real and once on the fake pair. On a GPU the
    discriminator works beside the generator, but for its word on the fake, and updates beside gradients. With
    several workers, gradients, running statistics and losses are averaged. Nothing is read back to the host, so
    that a CUDA graph can hold the step.

    Args:
        source, target: (n, 3, S, S) in [-1, 1], this worker's share of the batch, on the state's device.
        masks: the generator's dropout masks for this share, on the device.

    Returns:
        The six losses in the order of LOSS_NAMES, float32 on the device: means over the whole batch.
    """
    generator, discriminator, judging = state.low_generator, state.low_discriminator, state.judging
    generator.train()
    discriminator.train()
    updates = Updates(state, team)
    kind = generator.last.weight.dtype
    source, real = source.to(kind), target.to(kind)

    with judging.beside():
        real_d_loss = judgement_loss(discriminator(source, real), 1.0)
        of_real = gradients(updates.scaled(real_d_loss), discriminator)

    levels = generator.encode(source)
    encoded = [level.detach().requires_grad_() for level in levels]
    generated = generator.decode(encoded, masks)
    fake = generated.detach().requires_grad_()

    with judging.beside():
        fake_logits = discriminator(source, fake)
        fooled = judgement_loss(fake_logits, 1.0)
        (by_judgement,) = grad(updates.scaled(fooled), fake, retain_graph=True)
    distance = l1_loss(fake.float(), target)
    (by_distance,) = grad(updates.scaled(lambda_l1 * distance), fake)
    judging.join()

    with judging.beside():
        fake_d_loss = judgement_loss(fake_logits, 0.0)
        of_fake = gradients(updates.scaled(fake_d_loss), discriminator)
        torch._foreach_add_(list(of_fake.values()), list(of_real.values()))
        updates.make(state.discriminator_optimizer, of_fake, running_statistics(discriminator))

    decoder, encoder = parts(generator)
    with_encoded = grad(generated, [*decoder.values(), *encoded], by_judgement + by_distance)
    of_decoder = dict(zip(decoder, with_encoded, strict=False))
    with state.updating.beside():
        updates.make(state.generator_optimizer, of_decoder, [])
    of_encoder = dict(zip(encoder, grad(levels, list(encoder.values()), with_encoded[len(decoder) :]), strict=True))
    with state.updating.beside():
        updates.make(state.generator_optimizer, of_encoder, running_statistics(generator))

    judging.join()
    state.updating.join()
    for_generator = GeneratorLoss(fooled + lambda_l1 * distance, fooled, distance)
    for_discriminator = DiscriminatorLoss(real_d_loss + fake_d_loss, real_d_loss, fake_d_loss)
    losses = torch.stack([loss.detach() for loss in (*for_generator, *for_discriminator)])
    team.average_([losses])
    updates.finish()
    return losses


class Updates:
    """The updates of a step: each as soon as its gradients are there, but in fp16, where they all wait until it is
    known that no gradient has overflowed."""

    def __init__(self, state: TrainState, team: Team) -> None:
        self._loss_scale, self._team = state.loss_scale, team
        self._optimizers = state.generator_optimizer, state.discriminator_optimizer
        self._waiting: list[tuple[Adam, Mapping[str, Tensor]]] = []
        if not self._loss_scale.enabled:
            for optimizer in self._optimizers:
                optimizer.begin_update()

    def scaled(self, loss: Tensor) -> Tensor:
        """What gradients are taken of."""
        scale = self._loss_scale.scale
        return loss if scale is None else loss * scale

    def make(self, optimizer: Adam, gradients: Mapping[str, Tensor], statistics: Sequence[Tensor]) -> None:
        """Averages gradients and running statistics over the workers, and updates from them."""
        self._team.average_([*gradients.values(), *statistics])
        if self._loss_scale.enabled:
            self._waiting.append((optimizer, gradients))
        else:
            optimizer.update(gradients)

    def finish(self) -> None:
        """Makes the updates that waited, or leaves them all out."""
        if not self._waiting:
            return
        every = [gradient for _, gradients in self._waiting for gradient in gradients.values()]
        overflow = self._loss_scale.overflow(every)
        for optimizer in self._optimizers:
            optimizer.begin_update(overflow)
        for optimizer, gradients in self._waiting:
            optimizer.update(gradients, self._loss_scale.scale, overflow)
        self._loss_scale.update(overflow)


def gradients(loss: Tensor, network: nn.Module) -> dict[str, Tensor]:
    """The loss's gradients by the network's own parameters, under their names; nothing is accumulated."""
    parameters = dict(network.named_parameters())
    return dict(zip(parameters, grad(loss, list(parameters.values())), strict=True))


def parts(generator: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """The parameters of the decoder and of the encoder, under their names in the generator."""
    decoder: dict[str, nn.Parameter] = {}
    encoder: dict[str, nn.Parameter] = {}
    for name, parameter in generator.named_parameters():
        (decoder if name.startswith(DECODER) else encoder)[name] = parameter
    return decoder, encoder


def running_statistics(network: nn.Module) -> list[Tensor]:
    """The means and variances that batch norm keeps for eval mode."""
    return [buffer for buffer in network.buffers() if buffer.is_floating_point()]
