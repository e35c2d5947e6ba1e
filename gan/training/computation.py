"""How a device computes a step: plainly on a processor, in another order on a GPU."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gan.data.batches import Batch
from gan.data.jitter import jitter_batch
from gan.data.randomness import dropout_masks
from gan.networks.convolution import MAX_PRODUCT_POSITIONS
from gan.networks.precision import memory_format_of
from gan.training.process_group import ProcessGroup
from gan.training.state import TrainState
from gan.training.step import train_step

# Updates both networks from source, target and dropout masks; the six losses.
Step = Callable[[Tensor, Tensor, Sequence[Tensor]], Tensor]


def batch_step(state: TrainState, lambda_l1: float, batch_size: int, group: ProcessGroup) -> Callable[[Batch], None]:
    """What takes a step over a batch: jitter, dropout masks, both updates, and the sums of the losses.

    Args:
        batch_size: pictures in all batches but the last, smaller one of an epoch.
    """
    step = _step_of(state, lambda_l1, group)

    def run_step(batch: Batch) -> None:
        batch = batch.on(state.device)
        source, target = jitter_batch(batch.source, batch.target, batch.places)
        losses = step(source, target, dropout_masks(batch.dropout, state.generator.dropout_shapes))
        # Losses are means over a batch. Weighted by its size, an epoch's smaller last batch counts for less.
        state.add_losses(losses, group.world_size * len(source))

    if state.device.type != "cuda":
        return run_step
    from gan.gpu.cuda_graph import CudaGraphStep, uses_cuda_graph  # a processor never needs it

    return CudaGraphStep(state, run_step, batch_size) if uses_cuda_graph(state.device, group) else run_step


def _step_of(state: TrainState, lambda_l1: float, group: ProcessGroup) -> Step:
    """The step as the state's device takes it."""
    if state.device.type != "cuda":
        return lambda source, target, masks: train_step(state, source, target, masks, lambda_l1, group)
    from gan.gpu.step import gpu_train_step
    from gan.gpu.streams import StepStreams

    streams = StepStreams.on(state.device)
    return lambda source, target, masks: gpu_train_step(state, streams, source, target, masks, lambda_l1, group)


def describe_computation(device: torch.device, precision: str, group: ProcessGroup) -> str:
    """What decides a trial's bits, next to threads and precision; recorded with it, and compared when it goes on."""
    order = "contiguous" if memory_format_of(device, precision) == torch.contiguous_format else "channels last"
    products = f"matrix products up to {MAX_PRODUCT_POSITIONS[device.type]} positions"
    if device.type == "cpu":
        return f"{order}; {products}; gradients of the losses by autograd"
    from gan.gpu.availability import has_kernels
    from gan.gpu.cuda_graph import uses_cuda_graph

    kernels = f"own kernels; {products}" if has_kernels(device) else "no own kernels"
    return f"{order}; {kernels}; {'one CUDA graph a step' if uses_cuda_graph(device, group) else 'no CUDA graph'}"
