"""The state of a training: all that is needed to go on from any step, bit for bit."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan.discriminator import Discriminator
from gan.generator import Generator
from gan.losses import LOSS_NAMES
from gan.randomness import draw_weights

ADAM_BETAS = (0.5, 0.999)
ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class ModelSettings:
    """What the two networks are: see Generator and Discriminator."""

    channels: int = 64
    receptive_field: int = 70
    patch_size: int = 256


class TrainState:
    """Both networks, both optimizers, and the place in the run.

    Attributes:
        step: updates done.
        epoch: the epoch that the next step belongs to, from 1.
        epoch_step: steps done in that epoch.
        losses: (6,) float32 on the device: those of the last step, in the order of LOSS_NAMES.
        loss_sums: (7,) float64 on the device: each of the six losses summed over the epoch's pictures,
            and their number.
    """

    def __init__(self, model: ModelSettings, seed: int, learning_rate: float, precision: str, device: torch.device):
        self.generator = Generator(model.channels, model.patch_size)
        self.discriminator = Discriminator(model.channels, model.receptive_field)
        draw_weights(self.generator, seed, 0)
        draw_weights(self.discriminator, seed, 1)
        memory_format = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self.generator.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
        self.discriminator.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
        self.generator_optimizer = make_adam(self.generator, learning_rate)
        self.discriminator_optimizer = make_adam(self.discriminator, learning_rate)
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
            "generator_optimizer": adam_state(self.generator, self.generator_optimizer),
            "discriminator_optimizer": adam_state(self.discriminator, self.discriminator_optimizer),
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
        load_adam_state(self.generator, self.generator_optimizer, groups["generator_optimizer"])
        load_adam_state(self.discriminator, self.discriminator_optimizer, groups["discriminator_optimizer"])
        progress = groups["progress"]
        self.step, self.epoch, self.epoch_step = (int(value) for value in progress["place"])
        self.losses.copy_(progress["losses"])
        self.loss_sums.copy_(progress["loss_sums"])
        self.loss_scale.state.copy_(progress["loss_scale"])

    def begin_next_epoch(self) -> None:
        """Moves to the next epoch's first step."""
        self.epoch += 1
        self.epoch_step = 0
        self.loss_sums.zero_()


class LossScale:
    """What fp16 losses are multiplied by, so that small gradients survive: halved after an overflow,
    whose update is left out, doubled after 2,000 steps without one (Micikevicius et al. 2018)."""

    INITIAL = 2.0**14
    GROWTH_INTERVAL = 2000.0

    def __init__(self, device: torch.device, *, enabled: bool) -> None:
        self.enabled = enabled
        self.state = torch.tensor([self.INITIAL if enabled else 1.0, 0.0], device=device)

    @property
    def scale(self) -> Tensor:
        """The factor, a scalar on the device."""
        return self.state[0]

    def unscale_(self, gradients: list[Tensor]) -> bool:
        """Divides the gradients by the scale; False where one of them is not finite."""
        if not self.enabled:
            return True
        torch._foreach_div_(gradients, self.scale)
        return all(bool(torch.isfinite(gradient).all()) for gradient in gradients)

    def update(self, *, finite: bool) -> None:
        """Adjusts the scale after a step."""
        if not self.enabled:
            return
        scale, streak = (float(value) for value in self.state)
        if not finite:
            scale, streak = max(scale / 2, 1.0), 0.0
        elif streak + 1 >= self.GROWTH_INTERVAL:
            scale, streak = min(scale * 2, 2.0**24), 0.0
        else:
            streak += 1
        self.state.copy_(torch.tensor([scale, streak]))


def make_adam(network: nn.Module, learning_rate: float) -> torch.optim.Adam:
    """Adam with the paper's betas, as one fused pass, its moments there from the start."""
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, betas=ADAM_BETAS, fused=True)
    for parameter in network.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            **{moment: torch.zeros_like(parameter) for moment in ADAM_MOMENTS},
        }
    return optimizer


def adam_state(network: nn.Module, optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    """Adam's step and moments by the names of the parameters they belong to."""
    return {
        f"{name}.{key}": value
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def load_adam_state(network: nn.Module, optimizer: torch.optim.Adam, tensors: dict[str, Tensor]) -> None:
    """Takes over what `adam_state` gave; raises KeyError or RuntimeError where it does not fit."""
    own = adam_state(network, optimizer)
    if own.keys() != tensors.keys():
        raise KeyError(f"optimizer state: {sorted(own.keys() ^ tensors.keys())[:3]} do not fit")
    for name, value in own.items():
        if value.shape != tensors[name].shape:
            raise RuntimeError(f"optimizer state {name}: {tuple(tensors[name].shape)} for {tuple(value.shape)}")
        value.copy_(tensors[name])
