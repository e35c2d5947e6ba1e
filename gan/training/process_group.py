"""The workers that train one model together, each on its slice of every batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

# How several workers compute a step; a trial's record has it. 1: as one worker would, but for rounding. Before, without
# a number, each worker normalised its own pictures, and a last batch that did not divide lost some.
WORKER_SEMANTICS = 1


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

    def all_reduce_sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces the tensors by their sums over the workers, by one all-reduce of a flat buffer."""
        if self.world_size == 1:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
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

    def share_of(self, batch: slice) -> "Share":
        """This worker's share of a batch of positions; shares differ by one picture at most."""
        num_pictures = batch.stop - batch.start
        start = batch.start + num_pictures * self.rank // self.world_size
        stop = batch.start + num_pictures * (self.rank + 1) // self.world_size
        # A worker without a picture computes along with one that does not count: the others wait for it.
        last = max(stop, start + 1)
        if last > batch.stop:
            start, last = batch.stop - 1, batch.stop
        return Share(slice(start, last), stop - batch.start - num_pictures * self.rank // self.world_size, num_pictures)


class Share(NamedTuple):
    """What a worker computes of a batch.

    Attributes:
        positions: of its pictures, one at least.
        num_counted: how many of them belong to its share: all, or none where workers outnumber the batch's pictures.
        num_pictures: of the whole batch.
    """

    positions: slice
    num_counted: int
    num_pictures: int

    @property
    def weight(self) -> float:
        """The share of the batch, from 0 to 1."""
        return self.num_counted / self.num_pictures
