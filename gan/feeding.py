"""How a step's batch comes to the device."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gan.patches import Patches
from gan.randomness import EpochPlan

RESIDENT_SHARE = 1 / 8
LOADED_AT_ONCE = 256


class Batch(NamedTuple):
    """What a worker learns from in one step, on its device.

    Attributes:
        source, target: (n, 3, S, S) uint8.
        jitter: (3, n) int64, the tops, lefts and flips of `gan.jitter.jitter_pair`.
        dropout: (n, bytes) uint8, the bits of `gan.randomness.dropout_masks`.
    """

    source: Tensor
    target: Tensor
    jitter: Tensor
    dropout: Tensor


def resident_limit(device: torch.device, share: float) -> int:
    """Bytes of patches that may stay on the device: an eighth of a GPU's memory, or of this worker's share of it.

    Args:
        share: 1 for a whole GPU, less where others use it too.
    """
    if device.type != "cuda":
        return 0
    return int(torch.cuda.get_device_properties(device).total_memory * min(share, 1.0) * RESIDENT_SHARE)


class Feed:
    """Gives the batches of an epoch's plan. On a GPU nothing here waits for what it computes.

    Args:
        resident_bytes: patches that take no more than that are brought to the device once, for good.
    """

    def __init__(self, patches: Patches, device: torch.device, resident_bytes: int = 0) -> None:
        self._device = device
        self._read: Callable[[NDArray[np.int64]], tuple[Tensor, Tensor]] = patches.__getitem__
        if 0 < len(patches) * bytes_of_pair(patches.patch_size) <= resident_bytes:
            self._read = Resident(patches, device).__getitem__

    def batch(self, plan: EpochPlan, share: slice, dropout: NDArray[np.uint8]) -> Batch:
        """The patches at some places of the plan, and how to jitter them.

        Args:
            dropout: the bits for these pictures.
        """
        source, target = self._read(plan.indices[share])
        jitter = np.stack([plan.tops[share], plan.lefts[share], plan.flips[share]])
        tensors = source, target, torch.from_numpy(jitter), torch.from_numpy(dropout)
        return Batch(*(to_device(tensor, self._device) for tensor in tensors))


class Resident:
    """All patches on the device, as uint8."""

    def __init__(self, patches: Patches, device: torch.device) -> None:
        shape = (len(patches), 3, patches.patch_size, patches.patch_size)
        self._pair = [torch.empty(shape, dtype=torch.uint8, device=device) for _ in range(2)]
        for start in range(0, len(patches), LOADED_AT_ONCE):
            places = np.arange(start, min(start + LOADED_AT_ONCE, len(patches)))
            for whole, part in zip(self._pair, patches[places], strict=True):
                whole[start : start + len(places)].copy_(part)

    def __getitem__(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """As Patches', on the device."""
        places = to_device(torch.from_numpy(indices), self._pair[0].device)
        source, target = (whole.index_select(0, places) for whole in self._pair)
        return source, target


def bytes_of_pair(patch_size: int) -> int:
    """Of a patch's source and target."""
    return 2 * 3 * patch_size**2


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """From the processor to the device; to a GPU from pinned memory, so that the host need not wait."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
