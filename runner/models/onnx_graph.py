"""The generator as an ONNX model, for programs that have no torch.

The graph is built here layer by layer, not traced by torch's exporter. So it has the generator's names, is the same for
every version of torch, takes any batch size (gan.networks.convolution chooses its kernels by the batch size), and needs
no package but onnx. runner.models.onnx_check compares its output with the generator's.
"""

from collections.abc import Mapping
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from gan.networks.architecture import LEAK
from gan.networks.convolution import KERNEL, PADDING, STRIDE, Resize, Upsample
from gan.networks.generator import Generator
from gan.networks.norm import Bias
from runner.errors import DataError

SOURCE, FAKE = "source", "fake"
OPSET = 20
# What the model computes, by its norm: for the file's metadata and for the screen.
MODES = {
    "batch": "eval: running statistics of batch norm, no dropout",
    "instance": "eval: each picture's own statistics, no dropout",
}
_IR_VERSION = 9  # the oldest that has the opset: more programs read it than the newest
# ONNX has a padding for each of the four sides: top, left, bottom, right.
_GEOMETRY = {"kernel_shape": [KERNEL] * 2, "strides": [STRIDE] * 2, "pads": [PADDING] * 4}
_RESIZED_GEOMETRY = {"kernel_shape": [3] * 2, "pads": [1] * 4}


def onnx_model(generator: Generator, metadata: Mapping[str, str]) -> bytes:
    """The generator in eval mode, without dropout, batch norm by running statistics: (batch, 3, S, S) in [-1, 1], fp32.

    Args:
        generator: on the CPU.
        metadata: texts for the users of the file.

    Raises:
        DataError: the generator has a layer that is not known here.
    """
    size = generator.patch_size
    graph = Graph()
    graph.add_generator(generator)

    # A name instead of a number for the first axis: the model takes any batch size.
    source, fake = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, size, size]) for name in (SOURCE, FAKE)
    )
    model = helper.make_model(
        helper.make_graph(graph.nodes, "generator", [source], [fake], graph.weights),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="pix2pix-runner",
    )

    # Sorted and deterministic, so that the same generator gives the same bytes.
    helper.set_model_props(model, dict(sorted(metadata.items())))
    # full_check also infers all shapes, and fails where two layers do not fit.
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


class Graph:
    """The nodes in the order of computation, and their weights. A node is named after its output."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add_generator(self, generator: Generator) -> None:
        """Adds the layers in the order of Generator.forward, without dropout."""
        x, skips = SOURCE, []
        downs: list[Any] = list(generator.down)
        ups: list[Any] = list(generator.up)

        # Down to one pixel. All outputs but the innermost are inputs of the way up, too.
        for level, down in enumerate(downs):
            name = f"down.{level}"
            if level > 0:
                x = self.add("LeakyRelu", f"{name}.relu", x, alpha=LEAK)
            x = self.add("Conv", f"{name}.conv", x, self.weight(f"{name}.conv.weight", down.conv.weight), **_GEOMETRY)
            x = self.add_norm(f"{name}.norm", x, down.norm)
            skips.append(x)
        # The innermost output is `x` itself: the way up starts from it.
        skips.pop()

        # Up again.
        for block, up in enumerate(ups):
            name = f"up.{block}"
            x = self.add("Relu", f"{name}.relu", x)
            x = self.add_upsampling(f"{name}.conv", x, up.conv)
            x = self.add_norm(f"{name}.norm", x, up.norm)
            # The skip comes first, as in Generator.forward: the next layer's weights expect this order of channels.
            x = self.add("Concat", f"{name}.concat", skips.pop(), x, axis=1)

        # To a picture.
        x = self.add("Relu", "last.relu", x)
        x = self.add_upsampling("last", x, generator.last)
        self.add("Tanh", FAKE, x)

    def add_upsampling(self, name: str, x: str, conv: Upsample | Resize) -> str:
        """Adds a convolution to twice the side; returns the output's name."""
        weights = [self.weight(f"{name}.weight", conv.weight)]
        if conv.bias is not None:
            weights.append(self.weight(f"{name}.bias", conv.bias))
        if isinstance(conv, Upsample):
            return self.add("ConvTranspose", name, x, *weights, **_GEOMETRY)

        # ONNX's second input of Resize is a region that only some modes have: "" leaves it out.
        scales = self.weight(f"{name}.scales", torch.tensor([1.0, 1.0, 2.0, 2.0]))
        x = self.add(
            "Resize", f"{name}.resize", x, "", scales,
            mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric",
        )  # fmt: skip
        return self.add("Conv", name, x, *weights, **_RESIZED_GEOMETRY)

    def add_norm(self, name: str, x: str, norm: nn.Module) -> str:
        """Adds batch norm with running statistics, instance norm, or what stands in place of a norm; returns the
        output's name.

        Raises:
            DataError: it is another norm.
        """
        if isinstance(norm, nn.Identity):
            return x
        if isinstance(norm, Bias):
            return self.add("Add", name, x, self.weight(f"{name}.bias", norm.bias[:, None, None]))
        if isinstance(norm, nn.InstanceNorm2d):
            weights = [self.weight(f"{name}.{part}", getattr(norm, part)) for part in ("weight", "bias")]
            return self.add("InstanceNormalization", name, x, *weights, epsilon=norm.eps)
        if not isinstance(norm, nn.BatchNorm2d):
            kind = type(norm).__name__
            raise DataError(
                f"--format onnx: the generator has {kind}, and only batch and instance norm can be written to ONNX"
            )

        # ONNX knows inputs by their position: scale, bias, mean, variance.
        parts = ("weight", "bias", "running_mean", "running_var")
        weights = [self.weight(f"{name}.{part}", getattr(norm, part)) for part in parts]
        return self.add("BatchNormalization", name, x, *weights, epsilon=norm.eps)

    def add(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node; returns the name of its output."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def weight(self, name: str, tensor: Tensor) -> str:
        """Adds a constant; returns its name."""
        self.weights.append(numpy_helper.from_array(tensor.detach().contiguous().numpy(), name))
        return name
