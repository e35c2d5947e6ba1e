"""Weights from elsewhere as a generator's state, or what keeps them from being one."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from gan.networks.convolution import UPSAMPLINGS
from gan.networks.model import ModelSettings
from gan.networks.norm import NORMS
from gan.networks.reference import FIRST_LAYER, complete_instance_norms, to_reference

SMALLEST_SIZE, LARGEST_SIZE = 64, 1024
# Theirs and ours.
_FIRST_LAYERS = (f"{FIRST_LAYER}.weight", "down.0.conv.weight")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# The end of a batch norm's count of updates: nothing depends on it, and files of old versions of torch have none.
_UPDATES = ".num_batches_tracked"


class _Wanted(NamedTuple):
    """A tensor of the generator: its name there, and its shape."""

    name: str
    shape: tuple[int, ...]


def fitted(tensors: Mapping[str, Tensor], model: ModelSettings) -> dict[str, Tensor]:
    """The state of the model's generator that is in some tensors.

    Args:
        tensors: under our names, or under those of the reference implementation; all of them may begin with the
            name of what the generator was wrapped in, such as `module.`, as DataParallel writes them.

    Raises:
        ValueError: a layer is missing, too many, of another shape or type, or not finite. The text names the first
            one and the sizes that the tensors are for.
    """
    unwrapped = _unwrapped(tensors)
    tensors = _completed(unwrapped, model)
    wanted = _wanted_tensors(tensors, model)
    if problem := _first_misfit(tensors, wanted):
        raise ValueError(f"{problem} ({_shown(model)}); {remedy(unwrapped, model)}")
    return {name: tensors[theirs] if theirs in tensors else torch.tensor(0) for theirs, (name, _) in wanted.items()}


def _unwrapped(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors without what all of their names begin with before the first layer's own name."""
    for first in _FIRST_LAYERS:
        for name in tensors:
            wrapper = name.removesuffix(first)
            if wrapper != name and all(other.startswith(wrapper) for other in tensors):
                return {other.removeprefix(wrapper): tensor for other, tensor in tensors.items()}
    return tensors


def _completed(tensors: Mapping[str, Tensor], model: ModelSettings) -> Mapping[str, Tensor]:
    """The tensors, or those that do for a generator with instance norm of the reference implementation."""
    if model.norm != "instance" or f"{FIRST_LAYER}.weight" not in tensors:
        return tensors
    return complete_instance_norms(tensors, int(math.log2(model.patch_size)))


def _shown(model: ModelSettings) -> str:
    """The sizes of a model's generator, and what else of it is not as by default."""
    kinds = {"norm": model.norm, "upsampling": model.upsampling}
    defaults = ModelSettings()
    others = [f", model.{name} {value}" for name, value in kinds.items() if value != getattr(defaults, name)]
    return f"model.channels {model.channels}, data.patch_size {model.patch_size}{''.join(others)}"


def _wanted_tensors(tensors: Mapping[str, Tensor], model: ModelSettings) -> dict[str, _Wanted]:
    """What must be in a file for the model's generator, under the names that the file uses."""
    with torch.device("meta"):
        state = model.new_generator().state_dict()
    wanted = {name: _Wanted(name, tuple(tensor.shape)) for name, tensor in state.items()}
    return to_reference(wanted, int(math.log2(model.patch_size))) if f"{FIRST_LAYER}.weight" in tensors else wanted


def _first_misfit(tensors: Mapping[str, Tensor], wanted: Mapping[str, _Wanted]) -> str:
    """What is wrong with the first layer, from the picture on, that is not as it is wanted; "" where all are."""
    if tensors and not tensors.keys() & wanted.keys():
        return f"its layers have other names, such as {next(iter(tensors))}"
    for name, (_, shape) in wanted.items():
        if name not in tensors:
            if not name.endswith(_UPDATES):
                return f"its layer {name} is missing"
        elif tensors[name].shape != shape:
            return f"its layer {name} is {by(tensors[name].shape)}, not {by(shape)}"
        elif not name.endswith(_UPDATES) and tensors[name].dtype not in _FLOATS:
            return f"its layer {name} is of {tensors[name].dtype}, not of floats of 16, 32 or 64 bits"
        elif not torch.isfinite(tensors[name].float()).all():
            return f"its layer {name} is not finite in fp32"
    return next((f"its layer {name} is none of this U-Net's" for name in tensors if name not in wanted), "")


def remedy(tensors: Mapping[str, Tensor], model: ModelSettings) -> str:
    """The sizes that the tensors are for, where they are a U-Net's."""
    first = next((tensors[name] for name in _FIRST_LAYERS if name in tensors), None)
    num_convolutions = sum(tensor.dim() == 4 for tensor in tensors.values())
    # A U-Net has two convolutions a level, one down and one up, and a side of 2^levels pixels.
    patch_size = 2 ** (num_convolutions // 2)
    if first is not None and first.dim() == 4 and SMALLEST_SIZE <= patch_size <= LARGEST_SIZE:
        channels = len(first)
        for norm, upsampling in itertools.product(NORMS, UPSAMPLINGS):
            other = dataclasses.replace(
                model, channels=channels, patch_size=patch_size, norm=norm, upsampling=upsampling
            )
            completed = _completed(tensors, other)
            if channels and not _first_misfit(completed, _wanted_tensors(completed, other)):
                return f"these weights need {_needed(other, model)}"
    return "use the weights of a pix2pix U-Net with batch norm or instance norm, of pictures of three colours"


def _needed(other: ModelSettings, model: ModelSettings) -> str:
    """The settings of another model, in words: its sizes, and whatever else differs from the model given."""
    kinds = {"norm": (other.norm, model.norm), "upsampling": (other.upsampling, model.upsampling)}
    needed = [f"model.channels {other.channels}", f"data.patch_size {other.patch_size}"]
    needed += [f"model.{name} {value}" for name, (value, given) in kinds.items() if value != given]
    return f"{', '.join(needed[:-1])} and {needed[-1]}"


def by(shape: tuple[int, ...]) -> str:
    """64x3x4x4."""
    return "x".join(map(str, shape)) or "a single number"
