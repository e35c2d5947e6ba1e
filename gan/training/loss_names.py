"""The table of the six losses that are logged. Reading it loads no torch."""

from typing import NamedTuple


class Loss(NamedTuple):
    """What there is to know of one loss.

    Attributes:
        name: its column in metrics.jsonl; a field of GeneratorLoss or DiscriminatorLoss.
        meaning: for the page and for Ray's metrics, in half a sentence.
    """

    name: str
    meaning: str


LOSSES = (
    Loss("total_gen_loss", "generator, in all"),
    Loss("fake_d_real_class_loss", "generator: how well it fools the discriminator"),
    Loss("l1_loss", "generator: distance to the target"),
    Loss("total_disc_loss", "discriminator, in all"),
    Loss("real_d_loss", "discriminator, on real pairs"),
    Loss("fake_d_loss", "discriminator, on generated pairs"),
)
