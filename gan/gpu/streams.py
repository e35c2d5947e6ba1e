"""Work that a GPU does at the same time as other work: CUDA streams, which a processor does without."""

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

# Small kernels leave most of a GPU idle. Among those that wait, it takes the smaller number first.
HIGH_PRIORITY, LOW_PRIORITY = -1, 0

T = TypeVar("T")


class SideStream:
    """A second queue of a GPU's work. On a processor there is none: work is done at once, in order.

    The caller keeps what the work reads, and what of its results is used elsewhere, until `join`:
    memory that is freed earlier may be given to other work while it is still in use.

    Args:
        priority: HIGH_PRIORITY or LOW_PRIORITY.
    """

    def __init__(self, device: torch.device, priority: int) -> None:
        self._stream = new_stream(device, priority) if device.type == "cuda" else None

    @contextlib.contextmanager
    def fork(self, after: torch.cuda.Event | None = None) -> Iterator[None]:
        """The calls inside begin once all work given to the current stream so far is done; nothing waits for them.

        Args:
            after: an event of another stream, to be waited for as well.
        """
        if self._stream is None:
            yield
            return
        # The GPU does the waiting: the host goes on at once.
        self._stream.wait_stream(torch.cuda.current_stream())
        if after is not None:
            self._stream.wait_event(after)
        with torch.cuda.stream(self._stream):
            yield

    def compute(self, work: Callable[[], T], *reads: Tensor) -> T:
        """The result of some work in this stream; other streams wait for `record_event` or `join` before they read it.

        Args:
            reads: what the work reads. It need not be kept by the caller: its memory is not given to other work
                before this is done, and inside of a CUDA graph not at all.
        """
        with self.fork():
            result = work()
        if self._stream is not None:
            # PyTorch's allocator knows only the stream that a tensor was allocated in: record_stream adds this one.
            for tensor in reads:
                tensor.record_stream(self._stream)
        return result

    def record_event(self) -> torch.cuda.Event | None:
        """Stands for the end of the work given so far; None on a processor."""
        return None if self._stream is None else self._stream.record_event()

    def join(self) -> None:
        """Lets the current stream wait for all work of this one."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)


class StepStreams(NamedTuple):
    """The streams of a training step.

    Attributes:
        d_real, d_fake: the discriminator's work on the real and on the fake pair.
        weight_grad: gradients by the generator's weights.
        optimizer: updates of the generator.
    """

    d_real: SideStream
    d_fake: SideStream
    weight_grad: SideStream
    optimizer: SideStream

    @classmethod
    def on(cls, device: torch.device) -> "StepStreams":
        """Streams of a device."""
        # No further layer waits for weight gradients and updates: they fill what the others leave idle.
        priorities = (HIGH_PRIORITY, HIGH_PRIORITY, LOW_PRIORITY, LOW_PRIORITY)
        return cls(*(SideStream(device, priority) for priority in priorities))


def new_stream(device: torch.device, priority: int) -> torch.cuda.Stream:
    """A stream of a GPU."""
    return torch.cuda.Stream(device, priority=priority)  # type: ignore[no-untyped-call]
