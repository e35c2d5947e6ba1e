"""The generator as an ONNX model, for programs that have no torch.

The graph is written down here, layer by layer, instead of being traced by torch's exporter: it then has the generator's
own names, is the same whichever torch wrote it, takes any batch size, though gan.networks.convolution computes by it,
and needs no package but onnx. That it gives what the generator gives is not believed but looked at: see
runner.models.onnx_check.
"""

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from gan.networks.convolution import KERNEL, PADDING, STRIDE
from gan.networks.generator import Generator

SOURCE, FAKE = "source", "fake"
OPSET = 20
IR_VERSION = 9  # the oldest that has the opset: more programs read it than the newest
LEAK = 0.2
GEOMETRY = {"kernel_shape": [KERNEL] * 2, "strides": [STRIDE] * 2, "pads": [PADDING] * 4}


def onnx_model(generator: Generator, metadata: Mapping[str, str]) -> bytes:
    """The generator in eval mode: running statistics, no dropout; (batch, 3, S, S) in [-1, 1] to the same, fp32.

    Args:
        generator: on the processor.
        metadata: texts for whoever opens the file.
    """
    size = generator.patch_size
    graph = Graph()
    graph.add_generator(generator)
    source, fake = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, size, size]) for name in (SOURCE, FAKE)
    )
    model = helper.make_model(
        helper.make_graph(graph.nodes, "generator", [source], [fake], graph.weights),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="pix2pix-runner",
    )
    helper.set_model_props(model, dict(sorted(metadata.items())))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


class Graph:
    """Nodes in the order of computation, and the weights that they use; each node is named by its output."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add_generator(self, generator: Generator) -> None:
        """As Generator.forward, without dropout masks."""
        x, skips = SOURCE, []
        downs: list[Any] = list(generator.down)
        ups: list[Any] = list(generator.up)
        for level, down in enumerate(downs):
            name = f"down.{level}"
            if level > 0:
                x = self.add("LeakyRelu", f"{name}.relu", x, alpha=LEAK)
            x = self.add("Conv", f"{name}.conv", x, self.weight(f"{name}.conv.weight", down.conv.weight), **GEOMETRY)
            x = self.add_norm(f"{name}.norm", x, down.norm)
            skips.append(x)
        skips.pop()
        for block, up in enumerate(ups):
            name = f"up.{block}"
            x = self.add("Relu", f"{name}.relu", x)
            weight = self.weight(f"{name}.conv.weight", up.conv.weight)
            x = self.add("ConvTranspose", f"{name}.conv", x, weight, **GEOMETRY)
            x = self.add_norm(f"{name}.norm", x, up.norm)
            x = self.add("Concat", f"{name}.concat", skips.pop(), x, axis=1)
        x = self.add("Relu", "last.relu", x)
        last = [self.weight(f"last.{part}", getattr(generator.last, part)) for part in ("weight", "bias")]
        x = self.add("ConvTranspose", "last", x, *last, **GEOMETRY)
        self.add("Tanh", FAKE, x)

    def add_norm(self, name: str, x: str, norm: nn.Module) -> str:
        """Batch norm by its running statistics; where the generator has none, nothing."""
        if not isinstance(norm, nn.BatchNorm2d):
            return x
        parts = ("weight", "bias", "running_mean", "running_var")
        weights = [self.weight(f"{name}.{part}", getattr(norm, part)) for part in parts]
        return self.add("BatchNormalization", name, x, *weights, epsilon=norm.eps)

    def add(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        """A node; the name of its output."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def weight(self, name: str, tensor: Tensor) -> str:
        """A constant; its name."""
        self.weights.append(numpy_helper.from_array(tensor.detach().contiguous().numpy(), name))
        return name
