"""A backward pass in segments, so that the first gradients are used while others are still being computed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor
from torch.autograd import grad


class Segment(NamedTuple):
    """A part of a forward pass with an autograd graph of its own.

    Attributes:
        inputs: those that need gradients.
        results: what it computed.
        leaves: the same results, detached, as the next segment takes them.
    """

    parameters: Mapping[str, Tensor]
    inputs: list[Tensor]
    results: list[Tensor]
    leaves: list[Tensor]


class SegmentedBackward:
    """A forward pass cut into segments. Each result is used by one later segment at most."""

    def __init__(self) -> None:
        self._segments: list[Segment] = []

    def run(
        self, parameters: Mapping[str, Tensor], compute: Callable[..., Tensor | Sequence[Tensor]], *inputs: Tensor
    ) -> list[Tensor]:
        """Computes the next segment; its results, as leaves."""
        computed = compute(*inputs)
        results = [computed] if isinstance(computed, Tensor) else list(computed)
        # The next segment starts from leaves, so that each segment has a graph of its own.
        leaves = [leaf(result) for result in results]
        self._segments.append(Segment(parameters, [x for x in inputs if x.requires_grad], results, leaves))
        return leaves

    def gradients(self, grad_results: Sequence[Tensor]) -> Iterator[dict[str, Tensor]]:
        """From the last segment to the first, the gradients by its parameters, under their names.

        Args:
            grad_results: the gradients by the last segment's results.
        """
        known = {id(x): gradient for x, gradient in zip(self._segments[-1].leaves, grad_results, strict=True)}
        for segment in reversed(self._segments):
            pairs = zip(segment.results, segment.leaves, strict=True)
            used = [(result, known[id(x)]) for result, x in pairs if id(x) in known]
            results, grad_outputs = zip(*used, strict=True)

            found = grad(results, [*segment.parameters.values(), *segment.inputs], grad_outputs)
            num_parameters = len(segment.parameters)
            # The inputs are leaves of earlier segments, whose backward passes start from these gradients.
            known |= {id(x): gradient for x, gradient in zip(segment.inputs, found[num_parameters:], strict=True)}
            yield dict(zip(segment.parameters, found[:num_parameters], strict=True))


def leaf(result: Tensor) -> Tensor:
    """A result as the start of another autograd graph."""
    return result.detach().requires_grad_()


def gradients_by(parameters: Mapping[str, Tensor], result: Tensor, grad_result: Tensor) -> dict[str, Tensor]:
    """The gradients by parameters, under their names, from the one by what was computed of them."""
    return dict(zip(parameters, grad(result, list(parameters.values()), grad_result.to(result.dtype)), strict=True))
