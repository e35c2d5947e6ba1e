"""The memory that a worker takes on a processor, to be compared with what machines have.

It is an estimate for which nothing is allocated: what gan.networks.footprint finds in the shapes (state, the snapshot
that is being saved, gradients, what autograd keeps), and what a process takes before it trains. Patches are mapped from
disk, and need not be in memory. Where a GPU trains, most of it is the GPU's own memory, which is not looked at.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from gan.networks.model import ModelSettings
from gan.networks.sizes import state_size
from runner.config.schema import Experiment

# Measured: a process takes 0.8 GB with a tiny network, its trial's driver 0.1 GB, and the process that begins ahead for
# the next trial 0.6 GB (0.4 GB beside others, with which it shares its libraries). The peak of trainings of 16 and 64
# channels lay between the footprint without 0.3 of the activations (not all of them are there at the same moment) and
# with 0.8 more (scratch memory of kernels, gradients of activations).
_PROCESS_BYTES = 1_500_000_000
_SCRATCH_SHARE = 0.3
_SURE_SHARE = 0.5

_BYTES_OF_FLOAT = 4
# What autograd keeps is less than so many numbers for each pixel of a batch: for each channel, and besides.
_MOST_KEPT_A_CHANNEL, _MOST_KEPT_BESIDES = 22, 60


class TrainingShape(NamedTuple):
    """What of a trial decides about its memory.

    Attributes:
        batch_size: a worker's share of a batch.
        precision: auto, fp32, bf16 or fp16.
    """

    model: ModelSettings
    batch_size: int
    precision: str

    def describe_model(self) -> str:
        """For an error: what could be lowered, under the names of the fields."""
        return f"model.channels {self.model.channels} and data.patch_size {self.model.patch_size}"


class WorkerMemory(NamedTuple):
    """Bytes that a worker takes.

    Attributes:
        expected: with its process.
        least: what it can't do without, whatever the machine computes in and however few pairs a batch has in the end,
            which has no more than there are patches. With less it is sure to be killed.
        shape: that of the trials which takes the most.
    """

    expected: int
    least: int
    shape: TrainingShape


def training_shapes(configs: Iterable[Experiment]) -> frozenset[TrainingShape]:
    """The different shapes of an experiment's trials."""
    return frozenset(
        TrainingShape(
            config.networks, config.training.batch_size // config.resources.workers, config.training.precision
        )
        for config in configs
    )


def most_expected(shapes: Collection[TrainingShape]) -> int:
    """More than a worker takes: by arithmetic, for which torch need not be loaded; 0 without shapes."""
    return max(map(_most_expected, shapes), default=0)


def worker_memory(shapes: Collection[TrainingShape]) -> WorkerMemory:
    """What a worker takes on a machine like this one: of the trial that takes the most."""
    return max((_worker_memory(shape) for shape in shapes), key=lambda memory: memory.expected)


def _most_expected(shape: TrainingShape) -> int:
    model = shape.model
    kept = _MOST_KEPT_A_CHANNEL * model.channels + _MOST_KEPT_BESIDES
    activations = kept * shape.batch_size * model.patch_size**2 * _BYTES_OF_FLOAT
    # A checkpoint is a weight and two moments; the state, its snapshot, a copy and a gradient are less than three.
    return _PROCESS_BYTES + 3 * state_size(model).checkpoint + int(activations * (1 + _SCRATCH_SHARE))


def _worker_memory(shape: TrainingShape) -> WorkerMemory:
    import torch

    from gan.networks.footprint import training_footprint
    from gan.networks.precision import resolve_precision

    # On a machine of another kind `auto` may be the other precision.
    possible = ("fp32", "bf16") if shape.precision == "auto" else (shape.precision,)
    here = resolve_precision(shape.precision, torch.device("cpu"))
    needed = training_footprint(shape.model, shape.batch_size, here)
    expected = _PROCESS_BYTES + needed.memory + int(needed.activations * _SCRATCH_SHARE)
    sure = [training_footprint(shape.model, 1, precision) for precision in possible]
    least = min(footprint.memory - footprint.activations * (1 - _SURE_SHARE) for footprint in sure)
    return WorkerMemory(expected, int(least), shape)
