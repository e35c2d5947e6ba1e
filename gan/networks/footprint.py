"""How much memory a training needs, from the shapes alone: nothing is allocated."""

import functools
from typing import NamedTuple

import torch
from torch import nn

from gan.networks.model import ModelSettings
from gan.networks.precision import low_precision_copy


class Footprint(NamedTuple):
    """Bytes of a training.

    Attributes:
        weights: of the generator, on disk.
        checkpoint: on disk: both networks and two Adam moments of each parameter.
        compute_copies: the copies of the weights in bf16 or fp16 that the steps compute with; 0 in fp32.
        gradients: of both networks, each in the type of the weight that the steps compute with.
        activations: what autograd keeps of the forward passes, weights aside.
        memory: all that is there at once while it runs: what a checkpoint holds, the snapshot of it that is being
            saved, copies of the weights, gradients and activations.
    """

    weights: int
    checkpoint: int
    compute_copies: int
    gradients: int
    activations: int
    memory: int


@functools.cache
def training_footprint(model: ModelSettings, batch_size: int, precision: str) -> Footprint:
    """From a forward pass without data.

    Args:
        precision: fp32, bf16 or fp16.
    """
    # Tensors on the meta device have shapes and types, and no memory.
    with torch.device("meta"):
        generator = model.new_generator()
        discriminator = model.new_discriminator()
        source = torch.empty(batch_size, 3, model.patch_size, model.patch_size)
    compute_generator = low_precision_copy(generator, precision)
    compute_discriminator = low_precision_copy(discriminator, precision)

    # What there is for each parameter: the weight, two moments, perhaps a copy, and a gradient like what computes.
    masters = [*generator.parameters(), *discriminator.parameters()]
    computing = [*compute_generator.parameters(), *compute_discriminator.parameters()]
    copies = sum(copy.nbytes for weight, copy in zip(masters, computing, strict=True) if copy is not weight)
    gradients = sum(weight.nbytes for weight in computing)
    checkpoint = num_bytes(generator) + num_bytes(discriminator) + 2 * sum(weight.nbytes for weight in masters)

    # What autograd keeps for the backward passes, weights aside.
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        # Operations may save the same tensor twice. Held here, no other tensor gets its id.
        kept[id(tensor)] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        fake = compute_generator(source)
        compute_discriminator(source, fake)
        compute_discriminator(source, source)
    weights = set(map(id, computing))
    activations = sum(tensor.nbytes for key, tensor in kept.items() if key not in weights)

    return Footprint(
        weights=num_bytes(generator),
        checkpoint=checkpoint,
        compute_copies=copies,
        gradients=gradients,
        activations=activations,
        memory=2 * checkpoint + copies + gradients + activations,
    )


def num_bytes(network: nn.Module) -> int:
    """Bytes of a network's parameters and buffers."""
    return sum(tensor.nbytes for tensor in network.state_dict().values())
