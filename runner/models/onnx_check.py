"""An ONNX model held against the generator that it is to be, before anybody gets it."""

from collections.abc import Sequence
from typing import Any

import onnxruntime
import torch
from torch import Tensor

from gan.data.jitter import rescale
from gan.data.patches import Patches
from gan.evaluation.evaluate import fixed_sample
from gan.networks.generator import Generator
from runner.data.patch_store import find_store
from runner.errors import DataError
from runner.models.onnx_graph import FAKE, SOURCE
from runner.models.trained import TrainedModel
from runner.trial.job import first_line

NUM_PICTURES = 3  # one at a time and all at once: by the statistics of a batch a picture would not look the same twice
TOLERANCE = 1e-4
ERRORS_ONLY = 3


def check_agreement(model: bytes, trained: TrainedModel) -> str:
    """How well onnxruntime agrees with torch, in words.

    Raises:
        DataError: it does not, or can't run the model.
    """
    pictures, what = check_pictures(trained)
    batches = [pictures[:1], pictures]
    try:
        fakes = run_model(model, batches)
    except Exception as error:  # onnxruntime's errors have no class in common
        raise DataError(
            f"--format onnx: onnxruntime {onnxruntime.__version__} can't run the model ({first_line(error)}). "
            "Nothing was written; try another version of onnxruntime."
        ) from error
    difference = largest_difference(trained.generator, batches, fakes)
    if not difference <= TOLERANCE:  # so that NaN is refused, too
        raise DataError(
            f"--format onnx: onnxruntime {onnxruntime.__version__} gives other pictures than torch: values differ by "
            f"up to {difference:.2g} on {what}, {TOLERANCE:g} is allowed. Nothing was written. Are the weights finite "
            "(python -m runner.evaluate)? Else try another version of onnxruntime."
        )
    return f"onnxruntime agrees with torch: values differ by at most {difference:.2g} on {what}"


def run_model(model: bytes, batches: Sequence[Tensor]) -> list[Tensor]:
    """What onnxruntime makes of batches of (N, 3, S, S) in [-1, 1], on the processor."""
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(session.run([FAKE], {SOURCE: batch.numpy()})[0]) for batch in batches]


@torch.no_grad()
def largest_difference(generator: Generator, batches: Sequence[Tensor], fakes: Sequence[Tensor]) -> float:
    """The largest absolute difference of some fakes from the generator's own in eval mode; NaN where either has one."""
    differences = [(generator(batch) - fake).abs().max() for batch, fake in zip(batches, fakes, strict=True)]
    return float(torch.stack(differences).max())


def check_pictures(trained: TrainedModel) -> tuple[Tensor, str]:
    """Three sources, (3, 3, S, S) in [-1, 1], and what they are: validation patches of the trial, else waves."""
    store, _ = find_store(trained.stores, trained.fingerprints.data)
    if store is None:
        return waves(trained.config.data.patch_size), "drawn pictures (the trial's patches are gone)"
    patches = Patches.open(store.folder.local_path, "val", trained.config.data.direction)
    sources, _ = patches[fixed_sample(len(patches), NUM_PICTURES)]
    return rescale(sources)[torch.arange(NUM_PICTURES) % len(sources)], "validation patches"


def waves(size: int) -> Tensor:
    """Three pictures of waves of many lengths, the same ones on every machine: (3, 3, size, size) in [-1, 1]."""
    place = torch.linspace(0, 2 * torch.pi, size)
    channels = [torch.outer(torch.sin(k * place), torch.cos(k * place)) for k in range(1, 3 * NUM_PICTURES + 1)]
    return torch.stack(channels).view(NUM_PICTURES, 3, size, size)
