"""How a step's batch comes to the device."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gan.data.patches import Patches
from gan.data.randomness import EpochPlan

_RESIDENT_SHARE = 1 / 8
LOADED_AT_ONCE = 256


class Batch(NamedTuple):
    """What a worker learns from in one step.

    Attributes:
        source, target: (m, 3, S, S) uint8, the n patches of the batch, or all that stay on the device.
        places: (4, n) int64: which of them each picture is, and the tops, lefts and flips of
            `gan.data.jitter.jitter_pair`.
        dropout: (n, bytes) uint8, the bits of `gan.data.randomness.dropout_masks`.
    """

    source: Tensor
    target: Tensor
    places: Tensor
    dropout: Tensor

    @property
    def size(self) -> int:
        """Its number of pictures, n."""
        return self.places.shape[1]

    def on(self, device: torch.device) -> "Batch":
        """The same on a device; where it comes from pinned memory the host does not wait."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


def resident_limit(device: torch.device, share: float) -> int:
    """Bytes of patches that may stay on the device: an eighth of a GPU's memory, or of this worker's share of it.

    Args:
        share: 1 for a whole GPU, less where others use it too.
    """
    if device.type != "cuda":
        return 0
    return int(torch.cuda.get_device_properties(device).total_memory * min(share, 1.0) * _RESIDENT_SHARE)


class BatchLoader:
    """Gives the batches of an epoch's plan, for a GPU in pinned memory.

    Args:
        resident_bytes: patches that take no more than that are brought to the device once, for good.
    """

    def __init__(self, patches: Patches, device: torch.device, resident_bytes: int = 0) -> None:
        self._patches, self._pins = patches, device.type == "cuda"
        fits = 0 < len(patches) * bytes_of_pair(patches.patch_size) <= resident_bytes
        self._resident = resident(patches, device) if fits else None

    def batch(self, plan: EpochPlan, share: slice, dropout: NDArray[np.uint8]) -> Batch:
        """The patches at some places of the plan, and how to jitter them.

        Args:
            dropout: the bits for these pictures.
        """
        indices = plan.indices[share]
        source, target = self._resident or self._patches[indices]
        if self._resident is None:
            indices = np.arange(len(indices))
        places = np.stack([indices, plan.tops[share], plan.lefts[share], plan.flips[share]])
        tensors = source, target, torch.from_numpy(places), torch.from_numpy(dropout)
        return Batch(*(t.pin_memory() if self._pins and not t.is_cuda else t for t in tensors))


def resident(patches: Patches, device: torch.device) -> tuple[Tensor, Tensor]:
    """All patches on the device, sources and targets, as uint8."""
    shape = (len(patches), 3, patches.patch_size, patches.patch_size)
    source, target = (torch.empty(shape, dtype=torch.uint8, device=device) for _ in range(2))
    for start in range(0, len(patches), LOADED_AT_ONCE):
        places = np.arange(start, min(start + LOADED_AT_ONCE, len(patches)))
        for whole, part in zip((source, target), patches[places], strict=True):
            whole[start : start + len(places)].copy_(part)
    return source, target


def bytes_of_pair(patch_size: int) -> int:
    """Of a patch's source and target."""
    return 2 * 3 * patch_size**2
