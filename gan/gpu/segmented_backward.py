"""Gradients of a computation piece by piece, so that the first ones are used while others are still to come."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor
from torch.autograd import grad


class Segment(NamedTuple):
    """A part of a computation: what it computed, from what, and the same results as the next piece took them."""

    parameters: Mapping[str, Tensor]
    inputs: list[Tensor]
    results: list[Tensor]
    leaves: list[Tensor]


class SegmentedBackward:
    """A computation whose pieces have each a graph of its own. A result is used by one later piece at most."""

    def __init__(self) -> None:
        self._pieces: list[Segment] = []

    def run(
        self, parameters: Mapping[str, Tensor], compute: Callable[..., Tensor | Sequence[Tensor]], *inputs: Tensor
    ) -> list[Tensor]:
        """The results of the next piece."""
        computed = compute(*inputs)
        results = [computed] if isinstance(computed, Tensor) else list(computed)
        leaves = [leaf(result) for result in results]
        self._pieces.append(Segment(parameters, [x for x in inputs if x.requires_grad], results, leaves))
        return leaves

    def gradients(self, by_results: Sequence[Tensor]) -> Iterator[dict[str, Tensor]]:
        """From the last piece to the first, the gradients by its parameters under their names.

        Args:
            by_results: the gradients by the last piece's results.
        """
        known = {id(x): gradient for x, gradient in zip(self._pieces[-1].leaves, by_results, strict=True)}
        for piece in reversed(self._pieces):
            used = [(y, known[id(x)]) for y, x in zip(piece.results, piece.leaves, strict=True) if id(x) in known]
            results, by = zip(*used, strict=True)
            found = grad(results, [*piece.parameters.values(), *piece.inputs], by)
            of_parameters, of_inputs = found[: len(piece.parameters)], found[len(piece.parameters) :]
            known |= {id(x): gradient for x, gradient in zip(piece.inputs, of_inputs, strict=True)}
            yield dict(zip(piece.parameters, of_parameters, strict=True))


def leaf(result: Tensor) -> Tensor:
    """A result as the start of another graph."""
    return result.detach().requires_grad_()


def gradients_by(parameters: Mapping[str, Tensor], result: Tensor, by_result: Tensor) -> dict[str, Tensor]:
    """Gradients by parameters, under their names, from the one by what was computed of them; nothing is accumulated."""
    return dict(zip(parameters, grad(result, list(parameters.values()), by_result.to(result.dtype)), strict=True))
