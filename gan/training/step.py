"""One training step: both networks are updated from one forward pass."""

import functools
import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import functional_call
from torch.nn.functional import l1_loss

from gan.gpu.segmented_backward import SegmentedBackward, gradients_by, leaf
from gan.gpu.streams import SideStream
from gan.networks.generator import Generator
from gan.training.losses import GeneratorLoss, adversarial_loss, adversarial_loss_grad, discriminator_loss
from gan.training.optimizer import Adam
from gan.training.process_group import ProcessGroup
from gan.training.state import TrainState

# Gradients come from the last block to the first. Most of the weights are in the middle, at the bottleneck; what comes
# last is small, so that little is left to update when all gradients are there.
ENCODER_CUTS, DECODER_CUTS = (0, 2, 4), (0, 2, 4)


def train_step(
    state: TrainState, source: Tensor, target: Tensor, masks: Sequence[Tensor], lambda_l1: float, group: ProcessGroup
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
    generator, discriminator = state.compute_generator, state.compute_discriminator
    judging_real, judging_fake = state.judging_real, state.judging_fake
    weighing, updating = state.weighing, state.updating
    generator.train()
    discriminator.train()
    judges = dict(discriminator.named_parameters())
    updates = Updates(state, group)
    kind = generator.last.weight.dtype
    source, real = source.to(kind), target.to(kind)

    with judging_real.beside():
        of_its_own = {name: leaf(parameter) for name, parameter in judges.items()}  # a leaf belongs to one stream
        real_logits = functional_call(discriminator, of_its_own, (source, real))
        judged_real = judging_real.mark()
        of_real = gradients_by(of_its_own, real_logits, updates.scaled(adversarial_loss_grad(real_logits, 1.0)))

    pieces, generated = generate(generator, source, masks, weighing)
    fake = leaf(generated)

    with judging_fake.beside(judged_real):  # which changes running statistics first
        judged = leaf(generated)
        fake_logits = discriminator(source, judged)
        by_fooled = updates.scaled(adversarial_loss_grad(fake_logits, 1.0)).to(fake_logits.dtype)
        (by_judgement,) = grad(fake_logits, judged, by_fooled, retain_graph=True)
    distance = l1_loss(fake.float(), target)
    (by_distance,) = grad(updates.scaled(lambda_l1 * distance), fake)
    judging_fake.join()

    with judging_fake.beside(judging_real.mark()):
        of_discriminator = gradients_by(judges, fake_logits, updates.scaled(adversarial_loss_grad(fake_logits, 0.0)))
        torch._foreach_add_(list(of_discriminator.values()), list(of_real.values()))
        updates.make(state.discriminator_optimizer, of_discriminator)
    with judging_real.beside():
        losses = all_losses(real_logits, fake_logits, distance, lambda_l1)

    kept = []  # until all has been joined
    for of_piece in pieces.gradients([by_judgement + by_distance]):
        kept.append(of_piece)
        with updating.beside(weighing.mark()):
            updates.make(state.generator_optimizer, of_piece)

    for side in (judging_real, judging_fake, weighing, updating):
        side.join()
    group.all_reduce_mean_([losses, *running_statistics(generator), *running_statistics(discriminator)])
    updates.finish()
    return losses


class Updates:
    """The updates of a step: each as soon as its gradients are there, but in fp16, where they all wait until it is
    known that no gradient has overflowed."""

    def __init__(self, state: TrainState, group: ProcessGroup) -> None:
        self._loss_scale, self._team = state.loss_scale, group
        self._optimizers = state.generator_optimizer, state.discriminator_optimizer
        self._waiting: list[tuple[Adam, Mapping[str, Tensor]]] = []
        self._begun: set[Adam] = set()

    def scaled(self, loss: Tensor) -> Tensor:
        """A loss, or a gradient of it, as the backward passes have it."""
        scale = self._loss_scale.scale
        return loss if scale is None else loss * scale

    def make(self, optimizer: Adam, gradients: Mapping[str, Tensor]) -> None:
        """Averages gradients over the workers, and updates from them."""
        self._team.all_reduce_mean_(list(gradients.values()))
        if self._loss_scale.enabled:
            self._waiting.append((optimizer, gradients))
            return
        if optimizer not in self._begun:
            self._begun.add(optimizer)
            optimizer.begin_update()
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


def generate(
    generator: Generator, source: Tensor, masks: Sequence[Tensor], side: SideStream
) -> tuple[SegmentedBackward, Tensor]:  # fmt: skip
    """The fake, and the pieces that it was computed in, the encoder's and then the decoder's.

    Args:
        side: see `gan.networks.convolution.downsample`.
    """
    pieces, x, waiting = SegmentedBackward(), source, list[Tensor]()
    depth = len(generator.down)
    for start, stop in itertools.pairwise((*ENCODER_CUTS, depth)):
        encode = functools.partial(generator.encode, start=start, stop=stop, side=side)
        x, *skips = pieces.run(within(generator, "down", start, stop), encode, x)
        waiting += skips
    x = waiting.pop()
    for start, stop in itertools.pairwise((*DECODER_CUTS, depth)):
        decode = functools.partial(generator.decode, dropout_masks=masks, start=start, stop=stop, side=side)
        skips = [waiting.pop() for _ in generator.up[start:stop]]
        (x,) = pieces.run(within(generator, "up", start, stop), decode, x, *skips)
    return pieces, x


def within(generator: Generator, kind: str, start: int, stop: int) -> dict[str, Tensor]:
    """The parameters of some of the generator's blocks, under their names; with the last block up, those of `last`."""
    blocks = {f"{kind}.{level}": block for level, block in enumerate(getattr(generator, kind)) if start <= level < stop}
    if kind == "up" and stop > len(generator.up):
        blocks["last"] = generator.last
    return {name: p for prefix, block in blocks.items() for name, p in block.named_parameters(prefix)}


@torch.no_grad()
def all_losses(real_logits: Tensor, fake_logits: Tensor, distance: Tensor, lambda_l1: float) -> Tensor:
    """The six losses, in the order of LOSS_NAMES."""
    fooled = adversarial_loss(fake_logits, 1.0)
    for_generator = GeneratorLoss(fooled + lambda_l1 * distance, fooled, distance)
    return torch.stack([*for_generator, *discriminator_loss(real_logits, fake_logits)])


def running_statistics(network: nn.Module) -> list[Tensor]:
    """The means and variances that batch norm keeps for eval mode."""
    return [buffer for buffer in network.buffers() if buffer.is_floating_point()]
