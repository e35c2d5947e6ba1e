"""Metrics and pictures on validation patches, without touching the training state."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gan.generator import Generator
from gan.jitter import rescale
from gan.metrics import METRICS
from gan.patches import Patches
from gan.precision import autocast
from gan.randomness import Purpose, dropout_masks

MODES = ("study", "eval")


class Summary(NamedTuple):
    """One metric over the pictures; population standard deviation."""

    mean: float
    min: float
    max: float
    std: float


def fixed_sample(num_patches: int, size: int) -> NDArray[np.int64]:
    """`size` indices (fewer where there are fewer patches), evenly spaced, always the same ones."""
    return np.unique(np.linspace(0, num_patches - 1, min(size, num_patches)).round().astype(np.int64))


def evaluate(
    generator: Generator,
    patches: Patches,
    indices: Sequence[int] | NDArray[np.int64],
    mode: str,
    precision: str,
    device: torch.device,
    on_picture: Callable[[], None] = lambda: None,
) -> dict[str, Summary]:
    """Each metric over the patches, one picture at a time.

    Args:
        mode: `study` has batch statistics and dropout on, as the study evaluates; `eval` has neither.
        on_picture: called after each picture; what it raises breaks the evaluation off.
    """
    values: dict[str, list[float]] = {name: [] for name in METRICS}
    for generated, _, target in generate(generator, patches, indices, mode, precision, device):
        for name, metric in METRICS.items():
            values[name].append(float(metric(generated, target)))
        on_picture()
    return {name: summarise(np.asarray(column)) for name, column in values.items()}


def summarise(values: NDArray[np.float64]) -> Summary:
    """Mean, extremes and spread of one value a picture; infinite values stay infinite."""
    with np.errstate(invalid="ignore"):
        return Summary(*(float(f(values)) for f in (np.mean, np.min, np.max, np.std)))


@torch.no_grad()
def generate(
    generator: Generator,
    patches: Patches,
    indices: Sequence[int] | NDArray[np.int64],
    mode: str,
    precision: str,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(generated, source, target) of each patch in turn, each (1, 3, S, S) float32 in [-1, 1].

    In study mode a patch has the same dropout masks whenever it is looked at.
    """
    for index in indices:
        source, target = (rescale(picture.to(device)) for picture in patches[[int(index)]])
        masks: list[Tensor] = []
        if mode == "study":
            shapes = generator.dropout_shapes
            masks = dropout_masks(shapes, 1, slice(0, 1), 0, int(index), Purpose.EVALUATION)
            masks = [mask.to(device) for mask in masks]
        with inference_mode_of(generator, mode), autocast(precision, device):
            generated = generator(source, masks).float()
        yield generated, source, target


@contextlib.contextmanager
def inference_mode_of(network: nn.Module, mode: str) -> Iterator[None]:
    """Batch statistics (`study`) or running ones (`eval`); running statistics are never updated."""
    was_training = network.training
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    network.train(mode == "study")
    for norm in norms:
        norm.track_running_stats = mode != "study"
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        network.train(was_training)
