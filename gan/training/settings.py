"""How a training learns: the numbers that its loop, its state and its steps go by."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingSettings:
    """How a training learns; every value is checked and resolved before it comes here.

    Attributes:
        epochs: the last epoch.
        batch_size: pairs a step over all workers; a multiple of their number.
        lambda_l1: weight of the L1 loss.
        learning_rate: of both Adams, or where the discriminator has its own the generator's; constant up to
            decay_start_epoch (or throughout, where that is None), then falling along a line that would reach 0 after
            decay_end_epoch.
        precision: fp32, bf16 or fp16.
        log_every_n_steps: how often `fit` yields a LoggedStep.
        gan_loss: one of `gan.training.losses.GAN_LOSSES`.
        discriminator_learning_rate: falls with learning_rate; None: the same as that.
    """

    epochs: int
    batch_size: int
    lambda_l1: float
    learning_rate: float
    seed: int
    precision: str
    log_every_n_steps: int
    decay_start_epoch: int | None = None
    decay_end_epoch: int | None = None
    gan_loss: str = "bce"
    discriminator_learning_rate: float | None = None

    def learning_rate_at(self, epoch: int) -> float:
        """The generator's learning rate in an epoch, counted from 1."""
        return self._decayed(self.learning_rate, epoch)

    def discriminator_learning_rate_at(self, epoch: int) -> float:
        """The discriminator's learning rate in an epoch, counted from 1."""
        own = self.discriminator_learning_rate
        return self._decayed(self.learning_rate if own is None else own, epoch)

    def _decayed(self, learning_rate: float, epoch: int) -> float:
        """What is left of a learning rate in an epoch."""
        if self.decay_start_epoch is None or self.decay_end_epoch is None:
            return learning_rate
        # 1 in decay_start_epoch, and 0 in the epoch after decay_end_epoch.
        remaining = (self.decay_end_epoch + 1 - epoch) / (self.decay_end_epoch + 1 - self.decay_start_epoch)
        return learning_rate * min(max(remaining, 0.0), 1.0)
