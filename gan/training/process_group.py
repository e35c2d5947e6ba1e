"""The workers that train one model together, each on its slice of every batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class ProcessGroup:
    """This worker's place among `size` workers; alone by default, when no method communicates.

    With more than one, torch.distributed is initialised, and `control` is a gloo group for the few
    numbers that all must agree on, so that deciding never waits for a GPU.
    """

    rank: int = 0
    world_size: int = 1
    control: Any = None

    @property
    def is_rank_zero(self) -> bool:
        """True on the worker that decides, logs and saves."""
        return self.rank == 0

    def all_reduce_mean_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces the tensors by their means over the workers, by one all-reduce of a flat buffer."""
        if self.world_size == 1:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.world_size
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        with torch.no_grad():
            torch._foreach_copy_(list(tensors), [part.reshape(t.shape) for part, t in zip(parts, tensors, strict=True)])

    def broadcast(self, value: int) -> int:
        """The first worker's value, on every worker."""
        if self.world_size == 1:
            return value
        message = torch.tensor([value])
        dist.broadcast(message, src=0, group=self.control)
        return int(message)

    def local_slice(self, batch: slice) -> slice:
        """This worker's slice of a batch of positions; what does not divide among the workers is left out."""
        each = (batch.stop - batch.start) // self.world_size
        start = batch.start + self.rank * each
        return slice(start, start + each)
