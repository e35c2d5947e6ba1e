"""One training step: both networks are updated from one forward pass."""

import functools
import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn.functional import l1_loss

from gan.adam import Adam
from gan.generator import Generator
from gan.losses import DiscriminatorLoss, GeneratorLoss, judgement_loss
from gan.pieces import Pieces, gradients_by, leaf
from gan.state import TrainState
from gan.team import Team

# Most of the decoder's weights are in its first blocks, whose gradients come last: cut there, they are updated in time.
DECODER_CUTS = (0, 2, 4)


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
    judges = dict(discriminator.named_parameters())
    updates = Updates(state, team)
    kind = generator.last.weight.dtype
    source, real = source.to(kind), target.to(kind)

    with judging.beside():
        real_d_loss = judgement_loss(discriminator(source, real), 1.0)
        of_real = gradients_by(judges, updates.scaled(real_d_loss))

    pieces, generated = generate(generator, source, masks)
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
        of_discriminator = gradients_by(judges, updates.scaled(fake_d_loss))
        torch._foreach_add_(list(of_discriminator.values()), list(of_real.values()))
        updates.make(state.discriminator_optimizer, of_discriminator)

    kept = []  # until all has been joined
    for of_piece in pieces.gradients([by_judgement + by_distance]):
        kept.append(of_piece)
        with updating.beside():
            updates.make(state.generator_optimizer, of_piece)

    judging.join()
    updating.join()
    for_generator = GeneratorLoss(fooled + lambda_l1 * distance, fooled, distance)
    for_discriminator = DiscriminatorLoss(real_d_loss + fake_d_loss, real_d_loss, fake_d_loss)
    losses = torch.stack([loss.detach() for loss in (*for_generator, *for_discriminator)])
    team.average_([losses, *running_statistics(generator), *running_statistics(discriminator)])
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

    def make(self, optimizer: Adam, gradients: Mapping[str, Tensor]) -> None:
        """Averages gradients over the workers, and updates from them."""
        self._team.average_(list(gradients.values()))
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


def generate(generator: Generator, source: Tensor, masks: Sequence[Tensor]) -> tuple[Pieces, Tensor]:
    """The fake, and the pieces that it was computed in: the levels above and below half the depth, then the decoder."""
    pieces, x, waiting = Pieces(), source, list[Tensor]()
    depth = len(generator.down)
    for start, stop in ((0, depth // 2), (depth // 2, depth)):
        encode = functools.partial(generator.encode, start=start, stop=stop)
        x, *skips = pieces.run(within(generator, "down", start, stop), encode, x)
        waiting += skips
    x = waiting.pop()
    for start, stop in itertools.pairwise((*DECODER_CUTS, depth)):
        decode = functools.partial(generator.decode, dropout_masks=masks, start=start, stop=stop)
        skips = [waiting.pop() for _ in generator.up[start:stop]]
        (x,) = pieces.run(within(generator, "up", start, stop), decode, x, *skips)
    return pieces, x


def within(generator: Generator, kind: str, start: int, stop: int) -> dict[str, Tensor]:
    """The parameters of some of the generator's blocks, under their names; with the last block up, those of `last`."""
    blocks = {f"{kind}.{level}": block for level, block in enumerate(getattr(generator, kind)) if start <= level < stop}
    if kind == "up" and stop > len(generator.up):
        blocks["last"] = generator.last
    return {name: p for prefix, block in blocks.items() for name, p in block.named_parameters(prefix)}


def running_statistics(network: nn.Module) -> list[Tensor]:
    """The means and variances that batch norm keeps for eval mode."""
    return [buffer for buffer in network.buffers() if buffer.is_floating_point()]
