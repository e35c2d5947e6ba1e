"""Which two networks a training has."""

from dataclasses import dataclass

from gan.networks.discriminator import Discriminator
from gan.networks.generator import Generator


@dataclass(frozen=True)
class ModelSettings:
    """What the two networks are: see Generator and Discriminator."""

    channels: int = 64
    receptive_field: int = 70
    patch_size: int = 256

    def new_generator(self) -> Generator:
        """A generator, its weights not drawn yet."""
        return Generator(self.channels, self.patch_size)

    def new_discriminator(self) -> Discriminator:
        """A discriminator, its weights not drawn yet."""
        return Discriminator(self.channels, self.receptive_field)
