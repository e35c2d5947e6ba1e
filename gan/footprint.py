"""How much memory a training needs, from the shapes alone: nothing is allocated."""

import functools
from typing import NamedTuple

import torch
from torch import nn

from gan.discriminator import Discriminator
from gan.generator import Generator
from gan.state import ModelSettings

BYTES_OF_FLOAT = 4


class Footprint(NamedTuple):
    """Bytes of a training: `checkpoint` on disk, `weights` of the generator, `memory` while it runs."""

    weights: int
    checkpoint: int
    memory: int


@functools.cache
def training_footprint(model: ModelSettings, batch_size: int) -> Footprint:
    """Estimates from a forward pass without data, in fp32.

    A checkpoint is both networks and two Adam moments of each parameter. In memory there are the
    gradients besides, what autograd keeps of the forward passes, and the snapshot that is being saved.
    """
    with torch.device("meta"):
        generator = Generator(model.channels, model.patch_size)
        discriminator = Discriminator(model.channels, model.receptive_field)
        source = torch.empty(batch_size, 3, model.patch_size, model.patch_size)
    networks = (generator, discriminator)
    num_parameters = sum(parameter.numel() for network in networks for parameter in network.parameters())
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[id(tensor)] = tensor.numel() * tensor.element_size()
        alive.append(tensor)
        return tensor

    alive: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        fake = generator(source)
        discriminator(source, fake)
        discriminator(source, source)
    activations = sum(kept.values()) - num_parameters * BYTES_OF_FLOAT
    checkpoint = sum(map(num_bytes, networks)) + 2 * num_parameters * BYTES_OF_FLOAT
    return Footprint(
        weights=num_bytes(generator),
        checkpoint=checkpoint,
        memory=2 * checkpoint + num_parameters * BYTES_OF_FLOAT + max(activations, 0),
    )


def num_bytes(network: nn.Module) -> int:
    """Bytes of a network's parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
