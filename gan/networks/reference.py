"""The generator under the names of the PyTorch reference implementation, pytorch-CycleGAN-and-pix2pix.

Its U-Net is one block inside another, ours two lists of blocks. Layer for layer they are the same, biases included:
one in the last layer, none elsewhere. Its dropout sits in other blocks, which has no weights and does nothing in eval
mode.

With instance norm each of its convolutions has a bias, and no norm a scale or shift. Ours has all that such a
generator computes with: a norm takes away what a bias before it adds, and the two levels without a norm have a `Bias`.
"""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

FIRST_LAYER = "model.model.0"
NAMED_SIZES = {128: "unet_128", 256: "unet_256"}  # what its option --netG offers; other sizes have to be built in code

Value = TypeVar("Value")


def _reference_layers(levels: int) -> dict[str, str]:
    """Its name of each layer of ours.

    Its outermost block is convolution, inner block, ReLU, transposed convolution; its innermost one LeakyReLU,
    convolution, ReLU, transposed convolution, norm; one between has LeakyReLU, convolution, norm, inner block, ReLU,
    transposed convolution, norm.

    Args:
        levels: log2 of the patch size.
    """
    innermost = levels - 1
    layers = {"down.0.conv": FIRST_LAYER, "down.0.norm": FIRST_LAYER, "last": "model.model.3"}
    block = "model.model.1.model"
    for level in range(1, innermost):
        up = innermost - level
        layers |= {
            f"down.{level}.conv": f"{block}.1",
            f"down.{level}.norm": f"{block}.2",
            f"up.{up}.conv": f"{block}.5",
            f"up.{up}.norm": f"{block}.6",
        }
        block += ".3.model"
    return layers | {
        f"down.{innermost}.conv": f"{block}.1",
        f"down.{innermost}.norm": f"{block}.1",  # only a `Bias`, which is the convolution's there
        "up.0.conv": f"{block}.3",
        "up.0.norm": f"{block}.4",
    }


def to_reference(state: Mapping[str, Value], levels: int) -> dict[str, Value]:
    """What is known by our tensors' names, by its names."""
    layers = _reference_layers(levels)
    places = {name: name.rpartition(".") for name in state}
    return {f"{layers[layer]}.{tensor}": state[name] for name, (layer, _, tensor) in places.items()}


def complete_instance_norms(tensors: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """A generator with instance norm of that implementation, with the tensors that ours has: it computes the same.

    Norms get a scale of 1 and a shift of 0, unless they have their own; biases that a norm takes away again are left
    out.

    Args:
        tensors: under its names; a layer that is missing stays missing.
    """
    layers = _reference_layers(levels)
    completed = dict(tensors)
    for layer, norm in layers.items():
        conv = layers[f"{layer.removesuffix('.norm')}.conv"] if layer.endswith(".norm") else norm
        weight = tensors.get(f"{conv}.weight")
        if conv == norm or weight is None or weight.dim() != 4:
            continue
        # A transposed convolution's weight has its outputs second.
        channels = weight.shape[1 if layer.startswith("up.") else 0]
        completed.pop(f"{conv}.bias", None)
        completed.setdefault(f"{norm}.weight", torch.ones(channels))
        completed.setdefault(f"{norm}.bias", torch.zeros(channels))
    return completed
