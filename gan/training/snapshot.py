"""A copy of a training's state on the host, so that it can be written while training goes on."""

import torch
from torch import Tensor

Groups = dict[str, dict[str, Tensor]]


class Snapshot:
    """Host tensors that are allocated once and filled again for each save: 0.05 s instead of 0.5 s for 0.69 GB.

    From a GPU the copies are asynchronous, into pinned memory; they are ordered before whatever is
    launched next, so that training need not wait for them.
    """

    def __init__(self) -> None:
        self._groups: Groups = {}
        self._copied: torch.cuda.Event | None = None

    def take(self, groups: Groups) -> None:
        """Copies named groups of named tensors, which have the same shapes each time."""
        tensors = [tensor.detach() for group in groups.values() for tensor in group.values()]
        on_gpu = any(tensor.is_cuda for tensor in tensors)
        if not self._groups:
            self._groups = {
                name: {key: _host_tensor(tensor, pinned=on_gpu) for key, tensor in group.items()}
                for name, group in groups.items()
            }
        copies = [tensor for group in self._groups.values() for tensor in group.values()]
        torch._foreach_copy_(copies, tensors, non_blocking=on_gpu)
        if on_gpu:
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def groups(self) -> Groups:
        """The copies, on the host; waits until they are whole. They hold until the next `take`."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._groups


def _host_tensor(tensor: Tensor, *, pinned: bool) -> Tensor:
    """A tensor of the same shape, type and memory format on the host: it is copied into as fast as memory allows."""
    return torch.empty_like(tensor, device="cpu", pin_memory=pinned)


def is_finite(groups: Groups) -> bool:
    """True where every number of the host tensors is finite.

    A sum is finite only if all its terms are, and takes a seventh of the time of looking at each; where
    it is not, the terms are looked at, for finite ones may add up to more than the type holds.
    """
    return all(
        bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())
        for group in groups.values()
        for tensor in group.values()
        if tensor.is_floating_point()
    )
