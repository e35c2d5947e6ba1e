"""Adam (Kingma and Ba 2015) for fp32 weights, and for networks that compute with rounded copies of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from gan.gpu.availability import has_kernels

BETAS = (0.5, 0.999)
EPSILON = 1e-8
MOMENTS = ("exp_avg", "exp_avg_sq")
# So many gradients at a time, widened, stay in a processor's last cache until they are used; with fewer, starting the
# threads costs more than that saves.
CHUNK = 2**20


class Span(NamedTuple):
    """What belongs to one parameter, or to a run of its numbers, as views.

    `parameter` is its name, `run` its part (None: all of it). `rounded` is the copy that the
    network computes with, `wide` the place for the gradient in fp32; None where the network computes with the
    weight itself. A run is of numbers in the order that they have in memory, channels last or not.
    """

    parameter: str
    run: slice | None
    weight: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    rounded: Tensor | None = None
    wide: Tensor | None = None
    channels_last: bool = False


class Adam:
    """Updates a network's fp32 weights by given gradients, and the rounded copies of them, if there are any.

    An update waits for nothing and asks the host nothing, so that a CUDA graph can hold it.

    Attributes:
        learning_rate: a scalar on the device, to be filled in place.
        num_updates: a scalar on the device.
        moments: exp_avg and exp_avg_sq of each parameter by its name, fp32 of its shape and memory format.

    Args:
        network: holds the weights.
        low: what computes: the network itself, or what `gan.training.precision.low_precision_copy` made of it.
    """

    def __init__(self, network: nn.Module, low: nn.Module, learning_rate: float) -> None:
        weights = dict(network.named_parameters())
        device = next(iter(weights.values())).device
        self.learning_rate = torch.tensor(learning_rate, device=device)
        self.num_updates = torch.zeros((), device=device)
        self.moments = {
            name: [torch.zeros_like(w, requires_grad=False) for _ in MOMENTS] for name, w in weights.items()
        }
        self._groups: list[list[Span]] = [[]]
        self._alone: list[Span] = []  # each updated and rounded by one kernel
        scratch = torch.empty(CHUNK)
        for (name, weight), rounded in zip(weights.items(), low.parameters(), strict=True):
            exp_avg, exp_avg_sq = self.moments[name]
            whole = Span(name, None, weight.detach(), exp_avg, exp_avg_sq)
            if rounded is weight:
                self._groups[0].append(whole)
            elif device.type == "cpu":
                self._groups += ([span] for span in runs(whole._replace(rounded=rounded.detach()), scratch))
            elif has_kernels(device):
                self._alone.append(whole._replace(rounded=rounded.detach()))
            else:
                self._groups[0].append(whole._replace(rounded=rounded.detach(), wide=torch.empty_like(whole.weight)))

    def begin_update(self, found_inf: Tensor | None = None) -> None:
        """Counts the update that is made next, in one part or several.

        Args:
            found_inf: a scalar on the device; where it is 1 the update is left out, as it must be in each part.
        """
        self.num_updates += 1 if found_inf is None else 1 - found_inf

    @torch.no_grad()
    def update(
        self, gradients: Mapping[str, Tensor], scale: Tensor | None = None, found_inf: Tensor | None = None
    ) -> None:
        """Updates the parameters that gradients are given for.

        Args:
            gradients: by the parameters' names, in the types of what computes.
            scale: what the gradients are to be divided by, a scalar on the device.
            found_inf: see `begin_update`.
        """
        for span in self._alone:
            if span.parameter in gradients:
                self._update_alone(span, gradients[span.parameter], scale, found_inf)
        for group in self._groups:
            part = [span for span in group if span.parameter in gradients]
            if not part:
                continue
            torch._fused_adam_(
                [span.weight for span in part],
                widened(part, [gradients[span.parameter] for span in part]),
                [span.exp_avg for span in part],
                [span.exp_avg_sq for span in part],
                [],
                [self.num_updates] * len(part),
                lr=self.learning_rate,
                beta1=BETAS[0],
                beta2=BETAS[1],
                weight_decay=0.0,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
                grad_scale=scale,
                found_inf=found_inf,
            )
            refresh_compute_copy(part)

    def _update_alone(self, span: Span, gradient: Tensor, scale: Tensor | None, found_inf: Tensor | None) -> None:
        from gan.gpu import kernels  # needs Triton, which is only there for GPUs

        weight, moments, rounded = span.weight, (span.exp_avg, span.exp_avg_sq), cast(Tensor, span.rounded)
        if gradient.stride() != weight.stride():
            gradient = torch.empty_like(weight, dtype=gradient.dtype).copy_(gradient)
        kernels.adam(
            weight, moments, gradient, rounded, self.learning_rate, self.num_updates, scale, found_inf,
            betas=BETAS, epsilon=EPSILON,
        )  # fmt: skip

    @torch.no_grad()
    def refresh_compute_copy(self) -> None:
        """Makes the rounded copies anew, after the weights were changed by something else than an update."""
        for group in (*self._groups, self._alone):
            refresh_compute_copy(group)


def runs(whole: Span, scratch: Tensor) -> Iterator[Span]:
    """A span in runs of CHUNK numbers; their gradients are widened in the same place one after another."""
    channels_last = not whole.weight.is_contiguous()
    tensors = whole.weight, whole.exp_avg, whole.exp_avg_sq, whole.rounded
    flat = [flattened(tensor, channels_last=channels_last) for tensor in tensors if tensor is not None]
    for start in range(0, flat[0].numel(), CHUNK):
        run = slice(start, min(start + CHUNK, flat[0].numel()))
        weight, exp_avg, exp_avg_sq, rounded = (tensor[run] for tensor in flat)
        wide = scratch[: run.stop - run.start]
        yield Span(whole.parameter, run, weight, exp_avg, exp_avg_sq, rounded, wide, channels_last)


def flattened(tensor: Tensor, *, channels_last: bool) -> Tensor:
    """All numbers in one of the two orders; a view, where they lie in that order."""
    return (tensor.permute(0, 2, 3, 1) if channels_last else tensor).reshape(-1)


def widened(group: Sequence[Span], gradients: Sequence[Tensor]) -> list[Tensor]:
    """Each span's part of its parameter's gradient in fp32, in the weight's memory format."""
    parts = [
        gradient if span.run is None else flattened(gradient, channels_last=span.channels_last)[span.run]
        for span, gradient in zip(group, gradients, strict=True)
    ]
    copied, copies, result = [], [], []
    for span, part in zip(group, parts, strict=True):
        place = span.wide
        if place is None and part.stride() != span.weight.stride():
            place = torch.empty_like(span.weight)
        if place is not None:
            copied.append(part)
            copies.append(place)
        result.append(part if place is None else place)
    if copies:
        torch._foreach_copy_(copies, copied)
    return result


def refresh_compute_copy(group: Sequence[Span]) -> None:
    """The copies that the network computes with, from the weights."""
    pairs = [(span.rounded, span.weight) for span in group if span.rounded is not None]
    if pairs:
        rounded, weights = zip(*pairs, strict=True)
        torch._foreach_copy_(rounded, weights)
