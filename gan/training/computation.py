"""How a device computes a step: plainly on a processor, in another order on a GPU."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gan.data.batches import Batch
from gan.data.jitter import jitter_batch
from gan.data.randomness import dropout_masks
from gan.networks.convolution import MAX_PRODUCT_POSITIONS
from gan.networks.model import ModelSettings
from gan.networks.precision import memory_format_of
from gan.training.process_group import ProcessGroup, Share
from gan.training.state import TrainState
from gan.training.step import train_step

# Updates both networks from source, target, dropout masks and this worker's share of the batch; the six losses.
Step = Callable[[Tensor, Tensor, Sequence[Tensor], Share], Tensor]
RunStep = Callable[[Batch, Share], None]

# What the GPU's own order of the step, its kernels and its graph were made for.
_GPU_STEP_COMPUTES = {"norm": "batch", "upsampling": "transposed", "gan_loss": "bce"}


def batch_step(
    state: TrainState, lambda_l1: float, batch_size: int, group: ProcessGroup, gan_loss: str = "bce"
) -> RunStep:
    """What takes a step over a batch: jitter, dropout masks, both updates, and the sums of the losses.

    Args:
        batch_size: pictures in all batches but the last, smaller one of an epoch.
        gan_loss: one of `gan.training.losses.GAN_LOSSES`.
    """
    obstacles = _obstacles(state.model, gan_loss, group)
    step = _step_of(state, lambda_l1, group, gan_loss, plain=bool(obstacles))

    def run_step(batch: Batch, share: Share) -> None:
        batch = batch.on(state.device)
        source, target = jitter_batch(batch.source, batch.target, batch.places)
        losses = step(source, target, dropout_masks(batch.dropout, state.generator.dropout_shapes), share)
        # Losses are means over a batch. Weighted by its size, an epoch's smaller last batch counts for less.
        state.add_losses(losses, share.num_pictures)

    if state.device.type != "cuda" or obstacles:
        return run_step
    from gan.gpu.cuda_graph import CudaGraphStep, uses_cuda_graph  # a processor never needs it

    return CudaGraphStep(state, run_step, batch_size) if uses_cuda_graph(state.device, group) else run_step


def _obstacles(model: ModelSettings, gan_loss: str, group: ProcessGroup) -> list[str]:
    """What `gan.gpu.step` does not compute; where there is any, a GPU takes the plain step."""
    values = {"norm": model.norm, "upsampling": model.upsampling, "gan_loss": gan_loss}
    obstacles = [f"{name} {value}" for name, value in values.items() if value != _GPU_STEP_COMPUTES[name]]
    return [*obstacles, "several workers"] if group.world_size > 1 else obstacles


def _step_of(state: TrainState, lambda_l1: float, group: ProcessGroup, gan_loss: str, *, plain: bool) -> Step:
    """The step as the state's device takes it; `plain`: as a processor does."""
    if state.device.type != "cuda" or plain:
        return lambda source, target, masks, share: train_step(
            state, source, target, masks, lambda_l1, group, gan_loss, share
        )
    from gan.gpu.step import gpu_train_step
    from gan.gpu.streams import StepStreams

    streams = StepStreams.on(state.device)
    return lambda source, target, masks, _: gpu_train_step(state, streams, source, target, masks, lambda_l1, group)


def describe_computation(
    device: torch.device, precision: str, group: ProcessGroup, model: ModelSettings, gan_loss: str
) -> str:
    """What decides a trial's bits, next to threads and precision; recorded with it, and compared when it goes on."""
    order = "contiguous" if memory_format_of(device, precision) == torch.contiguous_format else "channels last"
    products = f"matrix products up to {MAX_PRODUCT_POSITIONS[device.type]} positions"
    if device.type == "cpu":
        return f"{order}; {products}; gradients of the losses by autograd"
    if obstacles := _obstacles(model, gan_loss, group):
        return f"{order}; {products}; the plain step, for {', '.join(obstacles)}; no CUDA graph"
    from gan.gpu.availability import has_kernels
    from gan.gpu.cuda_graph import uses_cuda_graph

    kernels = f"own kernels; {products}" if has_kernels(device) else "no own kernels"
    return f"{order}; {kernels}; {'one CUDA graph a step' if uses_cuda_graph(device, group) else 'no CUDA graph'}"
