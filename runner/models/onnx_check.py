"""Compares an exported ONNX model with its generator, before the file is written."""

from collections.abc import Sequence
from typing import Any

import onnxruntime
import torch
from torch import Tensor

from gan.data.jitter import rescale
from gan.data.patches import Patches
from gan.evaluation.evaluate import fixed_sample
from gan.networks.generator import Generator
from runner.data.patch_store import find_store, local_patches
from runner.errors import DataError
from runner.models.onnx_graph import FAKE, SOURCE
from runner.models.trained import TrainedModel
from runner.trial.job import first_line

# One alone, then all as a batch: a model that used the statistics of the batch would give two different pictures.
_NUM_PICTURES = 3
# For values in [-1, 1]. One grey level of an 8-bit picture is 0.0078.
_TOLERANCE = 1e-4
# onnxruntime's levels: 0 verbose, 1 info, 2 warning (the default), 3 error, 4 fatal.
_ERRORS_ONLY = 3


def check_agreement(model: bytes, trained: TrainedModel) -> str:
    """A sentence on how well onnxruntime agrees with torch.

    Raises:
        DataError: they don't agree, or onnxruntime can't run the model.
    """
    pictures, what = _check_pictures(trained)
    batches = [pictures[:1], pictures]
    try:
        fakes = _run_model(model, batches)
    except Exception as error:  # onnxruntime's errors have no class in common
        raise DataError(
            f"--format onnx: onnxruntime {onnxruntime.__version__} can't run the model ({first_line(error)}). "
            "Nothing was written; try another version of onnxruntime."
        ) from error

    difference = _largest_difference(trained.generator, batches, fakes)
    if not difference <= _TOLERANCE:  # NaN is refused, too
        raise DataError(
            f"--format onnx: onnxruntime {onnxruntime.__version__} gives other pictures than torch: values differ by "
            f"up to {difference:.2g} on {what}, {_TOLERANCE:g} is allowed. Nothing was written. Are the weights finite "
            "(python -m runner.evaluate)? Else try another version of onnxruntime."
        )
    return f"onnxruntime agrees with torch: values differ by at most {difference:.2g} on {what}"


def _run_model(model: bytes, batches: Sequence[Tensor]) -> list[Tensor]:
    """The model's outputs for batches of (N, 3, S, S) in [-1, 1], computed on the CPU."""
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(session.run([FAKE], {SOURCE: batch.numpy()})[0]) for batch in batches]


@torch.no_grad()
def _largest_difference(generator: Generator, batches: Sequence[Tensor], fakes: Sequence[Tensor]) -> float:
    """The largest absolute difference between fakes and the generator's own in eval mode; NaN where one is NaN."""
    differences = [(generator(batch) - fake).abs().max() for batch, fake in zip(batches, fakes, strict=True)]
    return float(torch.stack(differences).max())


def _check_pictures(trained: TrainedModel) -> tuple[Tensor, str]:
    """Three sources, (3, 3, S, S) in [-1, 1], and their name: validation patches of the trial, or drawn waves."""
    # Patches of the kind that it was trained on give activations of the usual size; waves are for lost patches.
    store, _ = find_store(trained.stores, trained.fingerprints.data)
    if store is None:
        return _waves(trained.config.data.patch_size), "drawn pictures (the trial's patches are gone)"
    patches = Patches.open(local_patches(store.folder), "val", trained.config.data.direction)
    sources, _ = patches[fixed_sample(len(patches), _NUM_PICTURES)]
    # Where the store has fewer patches, some of them are used twice.
    return rescale(sources)[torch.arange(_NUM_PICTURES) % len(sources)], "validation patches"


def _waves(size: int) -> Tensor:
    """Three pictures of waves of many lengths, the same on every machine: (3, 3, size, size) in [-1, 1]."""
    # Nine channels with 1 to 9 periods each: three channels make one picture.
    angle = torch.linspace(0, 2 * torch.pi, size)
    channels = [torch.outer(torch.sin(k * angle), torch.cos(k * angle)) for k in range(1, 3 * _NUM_PICTURES + 1)]
    return torch.stack(channels).view(_NUM_PICTURES, 3, size, size)
