"""Which two networks a training has. Reading it loads no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gan.networks.discriminator import Discriminator
    from gan.networks.generator import Generator


@dataclass(frozen=True)
class ModelSettings:
    """What the two networks are: see Generator and Discriminator.

    All that builds networks or counts their bytes takes this: a new field goes here and into the network that has it.
    """

    channels: int = 64
    receptive_field: int = 70
    patch_size: int = 256
    norm: str = "batch"
    upsampling: str = "transposed"

    # The networks are imported here: an experiment file is checked, and its disk counted, without waiting for torch.
    def new_generator(self) -> "Generator":
        """A generator, its weights not drawn yet."""
        from gan.networks.generator import Generator

        return Generator(self.channels, self.patch_size, self.norm, self.upsampling)

    def new_discriminator(self) -> "Discriminator":
        """A discriminator, its weights not drawn yet."""
        from gan.networks.discriminator import Discriminator

        return Discriminator(self.channels, self.receptive_field, self.norm)
