"""The training step as a GPU computes it: `gan.training.step.train_step` in another order.

A GPU's time at small batches is a chain of some hundred short kernels, so that what needs not wait does not: the
discriminator works on the real pair while the generator computes the fake; gradients come in segments, from the last
block to the first, and a segment's weights are updated while the next segment's gradients are computed; gradients of
the losses by the logits are closed forms. Nothing is read back to the host, so that a CUDA graph can hold the step.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.autograd import grad
from torch.func import functional_call
from torch.nn.functional import l1_loss

from gan.gpu.networks import FusedDiscriminator, decode, encode
from gan.gpu.segmented_backward import SegmentedBackward, gradients_by, leaf
from gan.gpu.streams import SideStream, StepStreams
from gan.networks.generator import Generator
from gan.training.losses import FAKE, REAL, GeneratorLoss, adversarial_loss, discriminator_loss
from gan.training.optimizer import Adam
from gan.training.process_group import ProcessGroup
from gan.training.state import TrainState

# Levels at which the generator is cut. Most of the weights are in the middle, at the bottleneck; what comes last in
# the backward pass is small, so that little is left to update when all gradients are there.
ENCODER_CUTS, DECODER_CUTS = (0, 2, 4), (0, 2, 4)


def gpu_train_step(
    state: TrainState,
    streams: StepStreams,
    source: Tensor,
    target: Tensor,
    dropout_masks: Sequence[Tensor],
    lambda_l1: float,
    group: ProcessGroup,
) -> Tensor:
    """As `gan.training.step.train_step`, for a worker that trains alone; the losses may be read once the current
    stream's work is done."""
    generator, discriminator = state.compute_generator, state.compute_discriminator
    d_real_stream, d_fake_stream, weight_grad_stream, optimizer_stream = streams
    generator.train()
    discriminator.train()
    fused_discriminator, d_parameters = FusedDiscriminator(discriminator), dict(discriminator.named_parameters())
    updates = _Updates(state)
    dtype = generator.last.weight.dtype
    source, real = source.to(dtype), target.to(dtype)

    # The discriminator on the real pair, forward and backward. A leaf belongs to one stream: it has leaves of its own.
    with d_real_stream.fork():
        d_leaves = {name: leaf(parameter) for name, parameter in d_parameters.items()}
        real_logits = functional_call(fused_discriminator, d_leaves, (source, real))
        real_forward = d_real_stream.record_event()
        grad_real = updates.scaled(adversarial_loss_grad(real_logits, REAL))
        d_real_grads = gradients_by(d_leaves, real_logits, grad_real)

    # The generator runs in the current stream at the same time.
    segments, generated = generate(generator, source, dropout_masks, weight_grad_stream)
    fake = leaf(generated)

    # The discriminator on the fake pair, after the real one, whose forward pass changes running statistics first.
    with d_fake_stream.fork(after=real_forward):
        d_input = leaf(generated)
        fake_logits = fused_discriminator(source, d_input)
        grad_fooled = updates.scaled(adversarial_loss_grad(fake_logits, REAL)).to(fake_logits.dtype)
        # The graph is kept: the discriminator's own gradients go through it again.
        (grad_adversarial,) = grad(fake_logits, d_input, grad_fooled, retain_graph=True)
    l1 = l1_loss(fake.float(), target)
    (grad_l1,) = grad(updates.scaled(lambda_l1 * l1), fake)
    d_fake_stream.join()

    # The discriminator's gradients are the sum over both pairs: this waits for those of the real one.
    with d_fake_stream.fork(after=d_real_stream.record_event()):
        grad_fake = updates.scaled(adversarial_loss_grad(fake_logits, FAKE))
        d_grads = gradients_by(d_parameters, fake_logits, grad_fake)
        torch._foreach_add_(list(d_grads.values()), list(d_real_grads.values()))
        updates.make(state.discriminator_optimizer, d_grads)
    # The losses are only logged, so they are computed beside the generator's backward pass.
    with d_real_stream.fork():
        losses = all_losses(real_logits, fake_logits, l1, lambda_l1)

    # The generator's gradients, segment by segment. They are kept until all streams have been joined.
    kept = []
    for segment_grads in segments.gradients([grad_adversarial + grad_l1]):
        kept.append(segment_grads)
        # The event stands for this segment's weight gradients, not for those of the segments to come.
        with optimizer_stream.fork(after=weight_grad_stream.record_event()):
            updates.make(state.generator_optimizer, segment_grads)

    # CUDA ends a capture only if all forked streams have been joined.
    for stream in streams:
        stream.join()
    updates.finish()
    return losses


def adversarial_loss_grad(logits: Tensor, label: float) -> Tensor:
    """The gradient of `gan.training.losses.adversarial_loss` by the logits, float32 of their shape."""
    # The derivative of the cross-entropy by a logit is sigmoid - label; the loss is a mean over all logits.
    return (torch.sigmoid(logits.float()) - label) / logits.numel()


@torch.no_grad()
def all_losses(real_logits: Tensor, fake_logits: Tensor, l1: Tensor, lambda_l1: float) -> Tensor:
    """The six losses, in the order of LOSS_NAMES, with the L1 distance that has been computed already."""
    fooled = adversarial_loss(fake_logits, REAL)
    for_generator = GeneratorLoss(fooled + lambda_l1 * l1, fooled, l1)
    return torch.stack([*for_generator, *discriminator_loss(real_logits, fake_logits)])


def generate(
    generator: Generator, source: Tensor, dropout_masks: Sequence[Tensor], weight_grad_stream: SideStream
) -> tuple[SegmentedBackward, Tensor]:  # fmt: skip
    """The generator's forward pass in segments, the encoder's and then the decoder's, and the fake that it gives."""
    segments, x, skips = SegmentedBackward(), source, list[Tensor]()
    depth = len(generator.down)

    for start, stop in itertools.pairwise((*ENCODER_CUTS, depth)):
        run_levels = functools.partial(encode, generator, start=start, stop=stop, stream=weight_grad_stream)
        x, *new_skips = segments.run(_parameters(generator, "down", start, stop), run_levels, x)
        skips += new_skips

    # The decoder starts from the bottleneck's plain ReLU. The leaky one has no further use.
    x = skips.pop()
    for start, stop in itertools.pairwise((*DECODER_CUTS, depth)):
        run_blocks = functools.partial(
            decode, generator, dropout_masks=dropout_masks, start=start, stop=stop, stream=weight_grad_stream
        )
        used = [skips.pop() for _ in generator.up[start:stop]]
        (x,) = segments.run(_parameters(generator, "up", start, stop), run_blocks, x, *used)
    return segments, x


def _parameters(generator: Generator, kind: str, start: int, stop: int) -> dict[str, Tensor]:
    """The parameters of some of the generator's blocks, under their names; with the last block up, those of `last`."""
    blocks = {f"{kind}.{level}": block for level, block in enumerate(getattr(generator, kind)) if start <= level < stop}
    if kind == "up" and stop > len(generator.up):
        blocks["last"] = generator.last
    return {name: p for prefix, block in blocks.items() for name, p in block.named_parameters(prefix)}


class _Updates:
    """The updates of a step: each as soon as its gradients are there, but in fp16, where all wait until it is known
    that no gradient has overflowed."""

    def __init__(self, state: TrainState) -> None:
        self._loss_scale = state.loss_scale
        self._optimizers = state.generator_optimizer, state.discriminator_optimizer
        self._waiting: list[tuple[Adam, Mapping[str, Tensor]]] = []
        self._begun: set[Adam] = set()

    def scaled(self, loss: Tensor) -> Tensor:
        """A loss, or a gradient of it, as the backward passes have it."""
        return self._loss_scale.scaled(loss)

    def make(self, optimizer: Adam, gradients: Mapping[str, Tensor]) -> None:
        """Updates from gradients."""
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
        gradients = [gradient for _, named in self._waiting for gradient in named.values()]
        overflow = self._loss_scale.overflow(gradients)

        for optimizer in self._optimizers:
            optimizer.begin_update(overflow)
        for optimizer, named in self._waiting:
            optimizer.update(named, self._loss_scale.scale, overflow)
        self._loss_scale.update(overflow)
