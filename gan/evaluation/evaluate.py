"""Metrics and pictures on validation patches, without touching the training state."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gan.data.jitter import rescale
from gan.data.patches import Patches, PatchOrigin
from gan.data.randomness import Purpose, dropout_bits, dropout_masks
from gan.evaluation.bootstrap import Interval, mean_intervals
from gan.evaluation.metrics import METRICS, MODES
from gan.networks.generator import Generator
from gan.networks.norm import BatchNorm

MetricFunction = Callable[[Tensor, Tensor], Tensor]

# Resolved once, when the module is loaded: a wrong name in the table must not end a training after hours.
METRIC_FUNCTIONS: Mapping[str, MetricFunction] = {metric.key: metric.load() for metric in METRICS}
EPOCH_FUNCTIONS: Mapping[str, MetricFunction] = {
    metric.key: METRIC_FUNCTIONS[metric.key] for metric in METRICS if metric.every_epoch
}

# Enough that a GPU is busy and a processor reads the deep layers' weights once for several pictures.
_PIXELS_AT_ONCE = 8 * 256**2


class Summary(NamedTuple):
    """One metric over the pictures; population standard deviation."""

    mean: float
    min: float
    max: float
    std: float


class Scores(NamedTuple):
    """Every metric of every patch that was measured, in each mode.

    Attributes:
        metrics: their keys.
        origins: the picture of each of the n patches, and the patch's row and column in it.
        values: (n, m) for each mode.
    """

    metrics: Sequence[str]
    origins: Sequence[PatchOrigin]
    values: Mapping[str, NDArray[np.float64]]

    def summaries(self, mode: str) -> dict[str, tuple[Summary, Interval]]:
        """Each metric over the patches, and the 95 % interval of its mean."""
        values = self.values[mode]
        intervals = mean_intervals(values, [origin.name for origin in self.origins])
        columns = zip(self.metrics, values.T, intervals, strict=True)
        return {name: (summarise(column), interval) for name, column, interval in columns}


def fixed_sample(num_patches: int, size: int) -> NDArray[np.int64]:
    """`size` indices (fewer where there are fewer patches), evenly spaced, always the same ones."""
    # Neighbours in a store are tiles of one picture: evenly spaced patches are of many pictures.
    return np.unique(np.linspace(0, num_patches - 1, min(size, num_patches)).round().astype(np.int64))


def evaluate(
    generator: Generator,
    patches: Patches,
    indices: Sequence[int] | NDArray[np.int64],
    mode: str,
    device: torch.device,
    on_picture: Callable[[], None] = lambda: None,
) -> dict[str, Summary]:
    """The metrics of every epoch over some patches.

    Args:
        generator: computes in the type of its weights.
        mode: `study` has batch statistics and dropout on, as the study evaluates; `eval` has neither.
        on_picture: called for each picture that is measured; an exception that it raises ends the evaluation.
    """
    values = _measure(generator, patches, indices, mode, device, EPOCH_FUNCTIONS, on_picture)
    return {name: summarise(column) for name, column in zip(EPOCH_FUNCTIONS, values.T, strict=True)}


def score(
    generator: Generator,
    patches: Patches,
    device: torch.device,
    on_picture: Callable[[], None] = lambda: None,
    metrics: Mapping[str, MetricFunction] = METRIC_FUNCTIONS,
    *,
    indices: Sequence[int] | None = None,
    modes: Sequence[str] = MODES,
) -> Scores:
    """All metrics of all patches, in one pass for each mode.

    Args:
        indices: of some patches instead: each has the values that it has among all, but for rounding.
    """
    indices = range(len(patches)) if indices is None else indices
    values = {mode: _measure(generator, patches, indices, mode, device, metrics, on_picture) for mode in modes}
    return Scores(tuple(metrics), [patches.origin(index) for index in indices], values)


def summarise(values: NDArray[np.float64]) -> Summary:
    """Mean, extremes and standard deviation of one value per picture; infinite values stay infinite."""
    # PSNR is infinite for equal pictures: the standard deviation is NaN then, which needs no warning.
    with np.errstate(invalid="ignore"):
        return Summary(*(float(f(values)) for f in (np.mean, np.min, np.max, np.std)))


@torch.no_grad()
def generate(
    generator: Generator,
    patches: Patches,
    indices: Sequence[int] | NDArray[np.int64],
    mode: str,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(generated, source, target) of the patches in turn, some at once: each (n, 3, S, S) float32 in [-1, 1].

    What a patch becomes does not depend on the others, but for rounding: in study mode it has the batch statistics of
    itself alone, and the same dropout masks every time.
    """
    at_once = patches_at_once(patches.patch_size)
    for start in range(0, len(indices), at_once):
        batch = [int(index) for index in indices[start : start + at_once]]
        source, target = (rescale(pictures.to(device)) for pictures in patches[batch])

        masks = fixed_masks(generator, batch, Purpose.EVALUATION) if mode == "study" else []
        with inference_mode_of(generator, mode):
            generated = generator(source, masks).float()
        yield generated, source, target


def fixed_masks(generator: Generator, positions: Sequence[int], purpose: Purpose) -> list[Tensor]:
    """The dropout masks of the pictures at some positions, on the generator's device: always the same ones."""
    shapes = generator.dropout_shapes
    # With seed 0, whatever the trial's seed is, so that trials are compared under the same masks.
    bits = [dropout_bits(shapes, 1, slice(0, 1), 0, position, purpose) for position in positions]
    return dropout_masks(torch.from_numpy(np.concatenate(bits)).to(generator.last.weight.device), shapes)


def patches_at_once(patch_size: int) -> int:
    """How many patches an evaluation computes at once: 8 of 256 pixels, fewer larger ones."""
    return max(_PIXELS_AT_ONCE // patch_size**2, 1)


@contextlib.contextmanager
def inference_mode_of(network: nn.Module, mode: str) -> Iterator[None]:
    """Each picture's own statistics, as those of a batch of one (`study`), or running ones (`eval`).

    Running statistics are never updated.
    """
    was_training = network.training
    norms = [module for module in network.modules() if isinstance(module, BatchNorm)]
    network.train(mode == "study")
    for norm in norms:
        norm.per_picture = mode == "study"
    try:
        yield
    finally:
        for norm in norms:
            norm.per_picture = False
        network.train(was_training)


def _measure(
    generator: Generator,
    patches: Patches,
    indices: Sequence[int] | NDArray[np.int64],
    mode: str,
    device: torch.device,
    metrics: Mapping[str, MetricFunction],
    on_picture: Callable[[], None],
) -> NDArray[np.float64]:
    """(n, m): a row for each patch and a column for each metric."""
    columns: list[Tensor] = []
    for generated, _, target in generate(generator, patches, indices, mode, device):
        columns.append(torch.stack([metric(generated, target) for metric in metrics.values()]))
        for _ in range(len(generated)):
            on_picture()

    # The values stay on the device until all are there: the host waits for them once.
    return torch.cat(columns, dim=1).t().double().cpu().numpy()
