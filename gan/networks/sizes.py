"""How large the networks are, by arithmetic: to see whether a disk has room nobody has to load torch for it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from gan.networks.architecture import MAX_WIDTH, NUM_STRIDED_LAYERS
from gan.networks.model import ModelSettings

_BYTES_OF_FLOAT = 4
_BYTES_OF_COUNT = 8
KERNEL = 16  # 4x4
_UPSAMPLING_KERNELS = {"transposed": KERNEL, "resize": 9}


class NetworkSize(NamedTuple):
    """A network's parameters, and the bytes of all that its state holds, batch statistics included."""

    num_parameters: int
    num_bytes: int


class StateSize(NamedTuple):
    """Bytes on disk of a generator's weights and of a whole checkpoint."""

    weights: int
    checkpoint: int


def state_size(model: ModelSettings) -> StateSize:
    """What a training takes on disk: a checkpoint is both networks and two Adam moments of each parameter."""
    generator = generator_size(model.channels, model.patch_size, model.norm, model.upsampling)
    discriminator = discriminator_size(model.channels, model.receptive_field, model.norm)
    num_parameters = generator.num_parameters + discriminator.num_parameters
    num_bytes = generator.num_bytes + discriminator.num_bytes
    return StateSize(generator.num_bytes, num_bytes + 2 * num_parameters * _BYTES_OF_FLOAT)


def generator_size(channels: int, patch_size: int, norm: str = "batch", upsampling: str = "transposed") -> NetworkSize:
    """Of gan.networks.generator.Generator."""
    widths = [channels * min(2**level, MAX_WIDTH) for level in range(int(math.log2(patch_size)))]
    down = zip([3, *widths], widths, strict=False)
    up = zip([widths[-1], *(2 * width for width in widths[-2:0:-1])], widths[-2::-1], strict=True)
    weights = KERNEL * sum(inputs * outputs for inputs, outputs in down)
    weights += _UPSAMPLING_KERNELS[upsampling] * sum(i * o for i, o in [*up, (2 * widths[0], 3)])
    size = _network_size(weights, biases=3, norms=[*widths[1:-1], *widths[:-1]], norm=norm)
    # The two levels without a norm have constants that are not trained, see `gan.networks.norm.Bias`.
    constants = widths[0] + widths[-1] if norm == "instance" else 0
    return size._replace(num_bytes=size.num_bytes + constants * _BYTES_OF_FLOAT)


def discriminator_size(channels: int, receptive_field: int, norm: str = "batch") -> NetworkSize:
    """Of gan.networks.discriminator.Discriminator."""
    if receptive_field == 1:
        weights = 6 * channels + channels * 2 * channels + 2 * channels
        return _network_size(weights, biases=channels, norms=[2 * channels], norm=norm)
    widths = [channels * min(2**layer, MAX_WIDTH) for layer in range(NUM_STRIDED_LAYERS[receptive_field] + 1)]
    weights = sum(KERNEL * inputs * outputs for inputs, outputs in zip([6, *widths], [*widths, 1], strict=True))
    return _network_size(weights, biases=channels + 1, norms=widths[1:], norm=norm)


def _network_size(weights: int, biases: int, norms: Sequence[int], norm: str) -> NetworkSize:
    """Of a network with norms of these widths: each has two parameters a channel, and batch norm two statistics."""
    num_parameters = weights + biases + 2 * sum(norms)
    statistics = 2 * sum(norms) * _BYTES_OF_FLOAT + len(norms) * _BYTES_OF_COUNT
    return NetworkSize(num_parameters, num_parameters * _BYTES_OF_FLOAT + (statistics if norm == "batch" else 0))
