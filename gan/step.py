"""One training step: both networks are updated from one forward pass."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn.functional import l1_loss

from gan.adam import Adam
from gan.generator import Generator
from gan.losses import DiscriminatorLoss, GeneratorLoss, judgement_loss
from gan.state import TrainState
from gan.team import Team


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
    generator, discriminator = state.low_generator, state.low_discriminator
    judging, updating = state.judging, state.updating
    generator.train()
    discriminator.train()
    half = len(generator.down) // 2
    into_shallow, into_deep, into_decoder = parts(generator, half)
    into_discriminator = dict(discriminator.named_parameters())
    updates = Updates(state, team)
    kind = generator.last.weight.dtype
    source, real = source.to(kind), target.to(kind)

    with judging.beside():
        real_d_loss = judgement_loss(discriminator(source, real), 1.0)
        of_real, _ = gradients([updates.scaled(real_d_loss)], into_discriminator)

    half_way, shallow = generator.encode(source, 0, half)
    handed = leaf(half_way)
    _, deep = generator.encode(handed, half)
    skips = [leaf(skip) for skip in (*shallow, *deep)]
    generated = generator.decode(skips, masks)
    fake = leaf(generated)

    with judging.beside():
        judged = leaf(generated)
        fake_logits = discriminator(source, judged)
        fooled = judgement_loss(fake_logits, 1.0)
        (by_judgement,) = grad(updates.scaled(fooled), judged, retain_graph=True)
    distance = l1_loss(fake.float(), target)
    (by_distance,) = grad(updates.scaled(lambda_l1 * distance), fake)
    judging.join()

    with judging.beside():
        fake_d_loss = judgement_loss(fake_logits, 0.0)
        of_discriminator, _ = gradients([updates.scaled(fake_d_loss)], into_discriminator)
        torch._foreach_add_(list(of_discriminator.values()), list(of_real.values()))
        updates.make(state.discriminator_optimizer, of_discriminator, running_statistics(discriminator))

    # Backwards in three parts: while the gradients of one are taken, the one before it is updated.
    of_decoder, by_skips = gradients([generated], into_decoder, skips, [by_judgement + by_distance])
    with updating.beside():
        updates.make(state.generator_optimizer, of_decoder, [])
    of_deep, by_handed = gradients(deep, into_deep, [handed], by_skips[half:])
    with updating.beside():
        updates.make(state.generator_optimizer, of_deep, [])
    of_shallow, _ = gradients([*shallow, half_way], into_shallow, [], [*by_skips[:half], *by_handed])
    with updating.beside():
        updates.make(state.generator_optimizer, of_shallow, running_statistics(generator))

    judging.join()
    updating.join()
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


def leaf(result: Tensor) -> Tensor:
    """Where one part of the computation ends and the next begins."""
    return result.detach().requires_grad_()


def gradients(
    results: Sequence[Tensor],
    parameters: Mapping[str, Tensor],
    leaves: Sequence[Tensor] = (),
    by_results: Sequence[Tensor] | None = None,
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Gradients by parameters, under their names, and by leaves; nothing is accumulated.

    Args:
        results: losses, or what later parts computed with.
        by_results: the gradients by those.
    """
    found = grad(results, [*parameters.values(), *leaves], by_results)
    return dict(zip(parameters, found, strict=False)), list(found[len(parameters) :])


def parts(generator: Generator, half: int) -> list[dict[str, Tensor]]:
    """The parameters of the encoder's levels above and below the half, and of the decoder."""
    shallow: dict[str, Tensor] = {}
    deep: dict[str, Tensor] = {}
    decoder: dict[str, Tensor] = {}
    for name, parameter in generator.named_parameters():
        kind, level = name.split(".")[:2]
        if kind != "down":
            decoder[name] = parameter
        else:
            (shallow if int(level) < half else deep)[name] = parameter
    return [shallow, deep, decoder]


def running_statistics(network: nn.Module) -> list[Tensor]:
    """The means and variances that batch norm keeps for eval mode."""
    return [buffer for buffer in network.buffers() if buffer.is_floating_point()]
