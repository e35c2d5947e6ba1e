"""The state of a training: all that is needed to go on from any step, bit for bit."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from gan.data.randomness import draw_weights
from gan.networks.model import ModelSettings
from gan.networks.precision import low_precision_copy, memory_format_of
from gan.training.losses import LOSS_NAMES
from gan.training.optimizer import Adam
from gan.training.settings import TrainingSettings


class TrainState:
    """Both networks, both optimizers, and the place in the run.

    Attributes:
        model: what the two networks are.
        generator, discriminator: with the master weights, in fp32.
        compute_generator, compute_discriminator: what the steps compute with, see
            `gan.networks.precision.low_precision_copy`; in fp32 they are the networks themselves.
        step: updates done.
        epoch: the epoch that the next step belongs to, from 1.
        epoch_step: steps done in that epoch.
        losses: (6,) float32 on the device: those of the last step, in the order of LOSS_NAMES.
        loss_sums: (7,) float64 on the device: each of the six losses summed over the epoch's pictures,
            and their number.
    """

    def __init__(self, model: ModelSettings, settings: TrainingSettings, device: torch.device) -> None:
        """The state before the first step, its weights drawn by the settings' seed."""
        precision = settings.precision
        self.model = model
        self.generator = model.new_generator()
        self.discriminator = model.new_discriminator()
        draw_weights(self.generator, settings.seed, 0)
        draw_weights(self.discriminator, settings.seed, 1)

        memory_format = memory_format_of(device, precision)
        self.generator.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
        self.discriminator.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]

        # In bf16 and fp16 the steps compute with copies of the weights, which the optimizers keep up to date.
        self.compute_generator = low_precision_copy(self.generator, precision)
        self.compute_discriminator = low_precision_copy(self.discriminator, precision)
        self.generator_optimizer = Adam(self.generator, self.compute_generator, settings.learning_rate)
        self.discriminator_optimizer = Adam(self.discriminator, self.compute_discriminator, settings.learning_rate)
        self.loss_scale = LossScale(device, enabled=precision == "fp16")
        self.device = device

        self.step = 0
        self.epoch = 1
        self.epoch_step = 0
        self.losses = torch.zeros(len(LOSS_NAMES), device=device)
        self.loss_sums = torch.zeros(len(LOSS_NAMES) + 1, dtype=torch.float64, device=device)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Named groups of named tensors; `progress` is the place in the run. Tensors are not copied."""
        return {
            "generator": dict(self.generator.state_dict()),
            "discriminator": dict(self.discriminator.state_dict()),
            "generator_optimizer": self.generator_optimizer.state_dict(),
            "discriminator_optimizer": self.discriminator_optimizer.state_dict(),
            "progress": {
                "place": torch.tensor([self.step, self.epoch, self.epoch_step]),
                "losses": self.losses,
                "loss_sums": self.loss_sums,
                "loss_scale": self.loss_scale.state,
            },
        }

    def load_state_dict(self, groups: dict[str, dict[str, Tensor]]) -> None:
        """Takes over what `state_dict` gave, from any device.

        Raises:
            KeyError, RuntimeError: a group or tensor is missing, too many, or of another shape.
        """
        self.generator.load_state_dict(groups["generator"])
        self.discriminator.load_state_dict(groups["discriminator"])
        self.generator_optimizer.load_state_dict(groups["generator_optimizer"])
        self.discriminator_optimizer.load_state_dict(groups["discriminator_optimizer"])

        progress = groups["progress"]
        self.step, self.epoch, self.epoch_step = (int(value) for value in progress["place"])
        self.losses.copy_(progress["losses"])
        self.loss_sums.copy_(progress["loss_sums"])
        self.loss_scale.state.copy_(progress["loss_scale"])

        # The low-precision copies are not saved: they follow from the weights.
        self.generator_optimizer.refresh_compute_copy()
        self.discriminator_optimizer.refresh_compute_copy()

    def start_from(self, generator: Mapping[str, Tensor]) -> None:
        """Takes over a generator's weights and statistics in place of the drawn ones, before the first step.

        Raises:
            RuntimeError: a tensor is missing, too many, or of another shape.
        """
        self.generator.load_state_dict(dict(generator))
        self.generator_optimizer.refresh_compute_copy()

    def set_learning_rates(self, generator: float, discriminator: float) -> None:
        """Sets the rates of the two optimizers."""
        self.generator_optimizer.learning_rate.fill_(generator)
        self.discriminator_optimizer.learning_rate.fill_(discriminator)

    def add_losses(self, losses: Tensor, num_pictures: int) -> None:
        """Takes in the losses of a step over so many pictures; nothing is read back from the device."""
        self.losses.copy_(losses)
        self.loss_sums[:-1].add_(losses, alpha=num_pictures)
        self.loss_sums[-1].add_(num_pictures)

    def epoch_means(self) -> dict[str, float]:
        """The means of the losses over the epoch's pictures so far, by LOSS_NAMES."""
        *sums, num_pictures = self.loss_sums.tolist()
        return {name: value / num_pictures for name, value in zip(LOSS_NAMES, sums, strict=True)}

    def begin_next_epoch(self) -> None:
        """Moves to the next epoch's first step."""
        self.epoch += 1
        self.epoch_step = 0
        self.loss_sums.zero_()

    @contextlib.contextmanager
    def preserved(self) -> Iterator[None]:
        """Undoes at the end whatever is done to the state inside."""
        groups = {name: {key: t.detach().clone() for key, t in g.items()} for name, g in self.state_dict().items()}
        try:
            yield
        finally:
            self.load_state_dict(groups)


class LossScale:
    """What fp16 losses are multiplied by, so that small gradients survive: halved after an overflow,
    whose update is left out, doubled after 2,000 steps without one (Micikevicius et al. 2018).

    Decided on the device: the host never waits for it.
    """

    INITIAL = 2.0**14
    SMALLEST, LARGEST = 1.0, 2.0**24
    GROWTH_INTERVAL = 2000.0

    def __init__(self, device: torch.device, *, enabled: bool) -> None:
        self.enabled = enabled
        # The factor, and the number of updates since the last overflow or doubling.
        self.state = torch.tensor([self.INITIAL if enabled else 1.0, 0.0], device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss, or a gradient of it, times the factor."""
        return loss * self.state[0] if self.enabled else loss

    @property
    def scale(self) -> Tensor | None:
        """The factor, a scalar on the device; None where losses are not scaled."""
        return self.state[0] if self.enabled else None

    def overflow(self, gradients: list[Tensor]) -> Tensor | None:
        """A scalar on the device: 1 where a number among the scaled gradients is not finite, 0 otherwise."""
        if not self.enabled:
            return None
        # A gradient's largest absolute value is infinite or NaN where one of its numbers is.
        largest = torch.stack([norm.float() for norm in torch._foreach_norm(gradients, float("inf"))])
        return (~largest.isfinite().all()).float()

    def update(self, overflow: Tensor | None) -> None:
        """Adjusts the scale after a step."""
        if overflow is None:
            return
        scale, streak = self.state.unbind()
        streak = (streak + 1) * (1 - overflow)

        grows = streak >= self.GROWTH_INTERVAL
        scale = torch.where(grows, scale * 2, torch.where(overflow > 0, scale / 2, scale))
        self.state.copy_(torch.stack([scale.clamp(self.SMALLEST, self.LARGEST), torch.where(grows, 0.0, streak)]))
