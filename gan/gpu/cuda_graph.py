"""A step's computation on a GPU as one CUDA graph: one launch instead of a thousand."""

from collections.abc import Callable

import torch

from gan.data.batches import Batch
from gan.gpu.streams import HIGH_PRIORITY, new_stream
from gan.training.process_group import ProcessGroup, Share
from gan.training.state import TrainState

# As in the examples of PyTorch's documentation of CUDA graphs.
_NUM_WARM_UP_STEPS = 3


def uses_cuda_graph(device: torch.device, group: ProcessGroup) -> bool:
    """True on a GPU for a worker that trains alone; the steps of several workers are launched kernel by kernel."""
    return device.type == "cuda" and group.world_size == 1


class CudaGraphStep:
    """Takes steps over batches of one size by a graph, over smaller ones without.

    Args:
        run_step: the step's computation; it changes the state's tensors in place and reads nothing back.
        batch_size: pictures in the batches that the graph is for.
    """

    def __init__(self, state: TrainState, run_step: Callable[[Batch, Share], None], batch_size: int) -> None:
        self._state, self._run_step, self._batch_size = state, run_step, batch_size
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: Batch | None = None

    def __call__(self, batch: Batch, share: Share) -> None:
        """One step."""
        # A graph has fixed shapes: the last, smaller batch of an epoch is launched kernel by kernel.
        if batch.size != self._batch_size:
            self._run_step(batch, share)
            return

        # A graph reads the addresses of its capture: each later batch is copied into the first one's tensors.
        if self._graph is None or self._batch is None:
            self._batch = batch.on(self._state.device)
            self._graph = self._capture(self._batch, share)
        for static, tensor in zip(self._batch, batch, strict=True):
            if static is not tensor:  # patches that stay on the device are read where they are
                static.copy_(tensor, non_blocking=True)
        self._graph.replay()

    def _capture(self, batch: Batch, share: Share) -> torch.cuda.CUDAGraph:
        """The graph that steps over whatever the batch's tensors hold; the state stays as it is."""
        warm_up(self._state, self._run_step, batch, share)
        graph = torch.cuda.CUDAGraph()
        # A capture records the launches and runs none. Streams that fork and join inside become branches of the graph.
        with torch.cuda.graph(graph, stream=new_stream(self._state.device, HIGH_PRIORITY)):
            self._run_step(batch, share)
        return graph


def warm_up(state: TrainState, run_step: Callable[[Batch, Share], None], batch: Batch, share: Share) -> None:
    """Lets the libraries choose and load what they need, which a capture may not do; the state stays as it is."""
    # PyTorch asks for a warm-up in a side stream, like the capture itself.
    stream = new_stream(state.device, HIGH_PRIORITY) if state.device.type == "cuda" else None
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream())
    with state.preserved(), torch.cuda.stream(stream):  # no stream, no effect
        for _ in range(_NUM_WARM_UP_STEPS):
            run_step(batch, share)
    if stream is not None:
        torch.cuda.current_stream().wait_stream(stream)
