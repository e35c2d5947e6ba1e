"""Everything random in training, as a function of seed and position: nothing of it needs saving.

Counter-based Philox words are the only source. They are the same on every machine and, being raw bits
of the generator, do not depend on how a library turns bits into distributions.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Purpose(IntEnum):
    """What the words are for: no two purposes ever share a stream."""

    WEIGHTS = 0
    ORDER = 1
    JITTER = 2
    DROPOUT = 3
    EVALUATION = 4
    TRANSLATION = 5


def random_words(count: int, seed: int, purpose: Purpose, position: int) -> NDArray[np.uint64]:
    """`count` independent 64-bit words of the stream (seed, purpose, position)."""
    return np.random.Philox(np.random.SeedSequence((seed, int(purpose), position))).random_raw(count)


class EpochPlan(NamedTuple):
    """What happens to which patch in one epoch: four arrays of one value a position."""

    indices: NDArray[np.int64]
    tops: NDArray[np.int64]
    lefts: NDArray[np.int64]
    flips: NDArray[np.bool_]


def plan_epoch(seed: int, epoch: int, num_patches: int, margin: int) -> EpochPlan:
    """The order of the patches in an epoch, and the jitter of each position.

    Args:
        epoch: counted from 1.
        margin: the jitter's crops start at 0 to margin, both included.
    """
    order = random_words(num_patches, seed, Purpose.ORDER, epoch)
    tops, lefts, flips = random_words(3 * num_patches, seed, Purpose.JITTER, epoch).reshape(3, -1)
    # Sorting random numbers shuffles. The remainders' bias is negligible for words of 64 bits.
    return EpochPlan(
        indices=np.argsort(order, kind="stable"),
        tops=(tops % np.uint64(margin + 1)).astype(np.int64),
        lefts=(lefts % np.uint64(margin + 1)).astype(np.int64),
        flips=(flips & np.uint64(1)).astype(np.bool_),
    )


def dropout_bits(
    shapes: Sequence[tuple[int, int, int]],
    batch_size: int,
    part: slice,
    seed: int,
    position: int,
    purpose: Purpose = Purpose.DROPOUT,
) -> NDArray[np.uint8]:
    """One bit for each value that dropout may drop, drawn for the whole batch, cut to a part of it.

    Args:
        shapes: (channels, height, width) of each mask; their sizes add up to a multiple of 8.
        batch_size: pictures in the global batch.
        part: this worker's pictures among them.
        position: the step.

    Returns:
        (n, bytes of a picture's masks, one mask after the other).
    """
    num_bytes = sum(int(np.prod(shape)) for shape in shapes) // 8
    words = random_words(-(-batch_size * num_bytes // 8), seed, purpose, position)
    return words.astype("<u8").view(np.uint8)[: batch_size * num_bytes].reshape(batch_size, -1)[part]


def dropout_masks(bits: Tensor, shapes: Sequence[tuple[int, int, int]]) -> list[Tensor]:
    """Masks of dropout 0.5: uint8 tensors (n, *shape) of 0 and 2, on the device of the bits.

    Args:
        bits: as `dropout_bits` draws them.
    """
    # The highest bit of a byte comes first. 2 for kept values leaves their expectation as it is.
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    doubled = ((bits[:, :, None] >> shifts) & 1).flatten(1) * 2
    columns = torch.split(doubled, [int(np.prod(shape)) for shape in shapes], dim=1)
    return [column.reshape(-1, *shape) for column, shape in zip(columns, shapes, strict=True)]


def draw_weights(network: torch.nn.Module, seed: int, position: int) -> None:
    """Convolution weights from N(0, 0.02), biases 0; batch norm starts as gamma 1 and beta 0.

    Drawn on the processor, so that a trial starts from the same weights on any device.
    """
    word = int(random_words(1, seed, Purpose.WEIGHTS, position)[0])
    generator = torch.Generator().manual_seed(word & (2**63 - 1))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
                weight = torch.empty(module.weight.shape).normal_(0.0, 0.02, generator=generator)
                module.weight.copy_(weight)
                if module.bias is not None:
                    module.bias.zero_()
