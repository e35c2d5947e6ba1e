"""Metrics and pictures on validation patches, without touching the training state."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

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

MetricFunction = Callable[[Tensor, Tensor], Tensor]

# Resolved once, when the module is loaded: a wrong name in the table must not end a training after hours.
METRIC_FUNCTIONS: Mapping[str, MetricFunction] = {metric.key: metric.load() for metric in METRICS}
EPOCH_FUNCTIONS: Mapping[str, MetricFunction] = {
    metric.key: METRIC_FUNCTIONS[metric.key] for metric in METRICS if metric.every_epoch
}


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
    """The metrics of every epoch over some patches, one picture at a time.

    Args:
        generator: computes in the type of its weights.
        mode: `study` has batch statistics and dropout on, as the study evaluates; `eval` has neither.
        on_picture: called after each picture; an exception that it raises ends the evaluation.
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
        indices: of some patches instead: each has the values that it has among all.
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
    """(generated, source, target) of each patch in turn, each (1, 3, S, S) float32 in [-1, 1].

    In study mode a patch has the same dropout masks every time.
    """
    # One patch at a time: in study mode the batch statistics are those of the patch alone.
    for index in indices:
        source, target = (rescale(picture.to(device)) for picture in patches[[int(index)]])

        masks: list[Tensor] = []
        if mode == "study":
            shapes = generator.dropout_shapes
            # With seed 0, whatever the trial's seed is, so that trials are compared under the same masks.
            bits = dropout_bits(shapes, 1, slice(0, 1), 0, int(index), Purpose.EVALUATION)
            masks = dropout_masks(torch.from_numpy(bits).to(device), shapes)

        with inference_mode_of(generator, mode):
            generated = generator(source, masks).float()
        yield generated, source, target


@contextlib.contextmanager
def inference_mode_of(network: nn.Module, mode: str) -> Iterator[None]:
    """Batch statistics (`study`) or running ones (`eval`); running statistics are never updated."""
    was_training = network.training
    norms: list[Any] = [module for module in network.modules() if getattr(module, "track_running_stats", False)]
    network.train(mode == "study")

    # A norm in training mode updates its running statistics, unless it tracks none.
    for norm in norms:
        norm.track_running_stats = mode != "study"
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
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
    values = np.empty((len(indices), len(metrics)))
    for row, (generated, _, target) in zip(values, generate(generator, patches, indices, mode, device), strict=True):
        row[:] = [float(metric(generated, target)) for metric in metrics.values()]
        on_picture()
    return values
