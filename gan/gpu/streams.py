"""Work that a GPU does beside other work."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

# Small kernels leave most of a GPU idle. Among those that wait, it takes the smaller number first.
FIRST, LAST = -1, 0

T = TypeVar("T")


class SideStream:
    """A second queue of a GPU's work; on a processor its work is done where it stands.

    Whoever gives work to it keeps what that work reads, and what of its results is used elsewhere, until `join`:
    memory that is freed earlier may be taken by others while it is still in use.

    Args:
        priority: FIRST or LAST.
    """

    def __init__(self, device: torch.device, priority: int) -> None:
        self._stream = new_stream(device, priority) if device.type == "cuda" else None

    @contextlib.contextmanager
    def beside(self, mark: torch.cuda.Event | None = None) -> Iterator[None]:
        """What is called inside begins when all work given so far is done, and nobody waits for it.

        Args:
            mark: another stream's, to be waited for.
        """
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        if mark is not None:
            self._stream.wait_event(mark)
        with torch.cuda.stream(self._stream):
            yield

    def compute(self, work: Callable[[], T], *reads: Tensor) -> T:
        """What some work done beside results in; other streams wait for `mark` or `join` before they read it.

        Args:
            reads: what the work reads, which need not be kept: its memory is not given to others before that is done,
                and inside of a CUDA graph not at all.
        """
        with self.beside():
            result = work()
        if self._stream is not None:
            for tensor in reads:
                tensor.record_stream(self._stream)
        return result

    def mark(self) -> torch.cuda.Event | None:
        """Stands for the end of the work given so far."""
        return None if self._stream is None else self._stream.record_event()

    def join(self) -> None:
        """What is called next waits for this stream's work."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)


def new_stream(device: torch.device, priority: int) -> torch.cuda.Stream:
    """A stream of a GPU."""
    return torch.cuda.Stream(device, priority=priority)  # type: ignore[no-untyped-call]
