"""Adam (Kingma and Ba 2015) for fp32 master weights, and for the low-precision copies that networks compute with."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from gan.gpu.availability import has_kernels

BETAS = (0.5, 0.999)  # of pix2pix; elsewhere the first is 0.9
EPSILON = 1e-8
_MOMENTS = ("exp_avg", "exp_avg_sq")
# So many gradients at a time, cast to fp32, stay in a processor's last cache until they are used; with fewer, starting
# the threads costs more than that saves.
CHUNK = 2**20


class Span(NamedTuple):
    """What belongs to one parameter, or to a run of its numbers, as views.

    A run is of numbers in the order that they have in memory, channels last or not.

    Attributes:
        parameter: its name.
        run: which part of it; None: all of it.
        compute_copy: the copy of the weight that the network computes with; None where that is the weight itself.
        fp32_grad: the memory for the gradient in fp32; None where it needs no cast.
    """

    parameter: str
    run: slice | None
    weight: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    compute_copy: Tensor | None = None
    fp32_grad: Tensor | None = None
    channels_last: bool = False


class Adam:
    """Updates a network's fp32 weights by given gradients, and their low-precision copies, if there are any.

    An update waits for nothing and asks the host nothing, so that a CUDA graph can hold it.

    Attributes:
        learning_rate: a scalar on the device, to be filled in place.
        num_updates: a scalar on the device.
        moments: exp_avg and exp_avg_sq of each parameter by its name, fp32 of its shape and memory format.

    Args:
        network: holds the weights.
        compute_network: what computes: the network itself, or its `gan.networks.precision.low_precision_copy`.
        betas: how much of either moment an update keeps.
    """

    def __init__(
        self,
        network: nn.Module,
        compute_network: nn.Module,
        learning_rate: float,
        betas: tuple[float, float] = BETAS,
    ) -> None:
        weights = dict(network.named_parameters())
        device = next(iter(weights.values())).device
        self.learning_rate = torch.tensor(learning_rate, device=device)
        self.num_updates = torch.zeros((), device=device)
        self._betas = betas
        self.moments = {
            name: [torch.zeros_like(w, requires_grad=False) for _ in _MOMENTS] for name, w in weights.items()
        }

        self._groups: list[list[Span]] = [[]]
        self._fused: list[Span] = []  # each updated, and its copy made, by one kernel
        scratch = torch.empty(CHUNK)
        for (name, weight), copy in zip(weights.items(), compute_network.parameters(), strict=True):
            exp_avg, exp_avg_sq = self.moments[name]
            span = Span(name, None, weight.detach(), exp_avg, exp_avg_sq)
            if copy is weight:
                # All weights in fp32, and otherwise those of norms: nothing is copied.
                self._groups[0].append(span)
            elif device.type == "cpu":
                self._groups += ([part] for part in _runs(span._replace(compute_copy=copy.detach()), scratch))
            elif has_kernels(device):
                self._fused.append(span._replace(compute_copy=copy.detach()))
            else:
                # A GPU without our kernels: gradients are cast to fp32 for PyTorch's fused Adam.
                fp32_grad = torch.empty_like(span.weight)
                self._groups[0].append(span._replace(compute_copy=copy.detach(), fp32_grad=fp32_grad))

    def step(
        self, gradients: Mapping[str, Tensor], scale: Tensor | None = None, found_inf: Tensor | None = None
    ) -> None:
        """One whole update, from the gradients of all parameters; see `begin_update` and `update`."""
        self.begin_update(found_inf)
        self.update(gradients, scale, found_inf)

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
        for span in self._fused:
            if span.parameter in gradients:
                self._update_fused(span, gradients[span.parameter], scale, found_inf)

        for group in self._groups:
            part = [span for span in group if span.parameter in gradients]
            if not part:
                continue
            # The kernel of torch.optim.Adam(fused=True). The empty list is for AMSGrad, which is off.
            torch._fused_adam_(
                [span.weight for span in part],
                _fp32_gradients(part, [gradients[span.parameter] for span in part]),
                [span.exp_avg for span in part],
                [span.exp_avg_sq for span in part],
                [],
                [self.num_updates] * len(part),
                lr=self.learning_rate,
                beta1=self._betas[0],
                beta2=self._betas[1],
                weight_decay=0.0,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
                grad_scale=scale,
                found_inf=found_inf,
            )
            _refresh_compute_copies(part)

    def _update_fused(self, span: Span, gradient: Tensor, scale: Tensor | None, found_inf: Tensor | None) -> None:
        """One parameter, on a GPU that has our kernels."""
        from gan.gpu import adam  # needs Triton

        weight, moments, copy = span.weight, (span.exp_avg, span.exp_avg_sq), cast(Tensor, span.compute_copy)
        # The kernel reads all tensors by one flat index, so they must have the same order in memory.
        if gradient.stride() != weight.stride():
            gradient = torch.empty_like(weight, dtype=gradient.dtype).copy_(gradient)
        adam.update(
            weight, moments, gradient, copy, self.learning_rate, self.num_updates, scale, found_inf,
            betas=self._betas, epsilon=EPSILON,
        )  # fmt: skip

    @torch.no_grad()
    def refresh_compute_copy(self) -> None:
        """Makes the low-precision copies again, after the weights were changed by something else than an update."""
        for group in (*self._groups, self._fused):
            _refresh_compute_copies(group)

    def state_dict(self) -> dict[str, Tensor]:
        """The number of updates, and the moments by the names of the parameters that they belong to."""
        moments = {
            f"{name}.{key}": value
            for name, values in self.moments.items()
            for key, value in zip(_MOMENTS, values, strict=True)
        }
        return {"num_updates": self.num_updates, **moments}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `state_dict` gave; raises KeyError or RuntimeError where it does not fit."""
        own = self.state_dict()
        if own.keys() != tensors.keys():
            raise KeyError(f"optimizer state: {sorted(own.keys() ^ tensors.keys())[:3]} do not fit")
        for name, value in own.items():
            if value.shape != tensors[name].shape:
                raise RuntimeError(f"optimizer state {name}: {tuple(tensors[name].shape)} for {tuple(value.shape)}")
            value.copy_(tensors[name])


def _runs(whole: Span, scratch: Tensor) -> Iterator[Span]:
    """A span in runs of CHUNK numbers; their gradients are cast to fp32 in the same memory, one after another."""
    channels_last = not whole.weight.is_contiguous()
    tensors = whole.weight, whole.exp_avg, whole.exp_avg_sq, whole.compute_copy
    flat = [_flatten(tensor, channels_last=channels_last) for tensor in tensors if tensor is not None]

    for start in range(0, flat[0].numel(), CHUNK):
        run = slice(start, min(start + CHUNK, flat[0].numel()))
        weight, exp_avg, exp_avg_sq, compute_copy = (tensor[run] for tensor in flat)
        fp32_grad = scratch[: run.stop - run.start]
        yield Span(whole.parameter, run, weight, exp_avg, exp_avg_sq, compute_copy, fp32_grad, channels_last)


def _flatten(tensor: Tensor, *, channels_last: bool) -> Tensor:
    """All numbers in one of the two orders; a view, where they lie in that order."""
    return (tensor.permute(0, 2, 3, 1) if channels_last else tensor).reshape(-1)


def _fp32_gradients(group: Sequence[Span], gradients: Sequence[Tensor]) -> list[Tensor]:
    """Each span's part of its parameter's gradient in fp32, in the weight's memory format."""
    parts = [
        gradient if span.run is None else _flatten(gradient, channels_last=span.channels_last)[span.run]
        for span, gradient in zip(group, gradients, strict=True)
    ]

    sources, targets, result = [], [], []
    for span, part in zip(group, parts, strict=True):
        target = span.fp32_grad
        if target is None and part.stride() != span.weight.stride():
            target = torch.empty_like(span.weight)
        if target is not None:
            sources.append(part)
            targets.append(target)
        result.append(part if target is None else target)
    if targets:
        torch._foreach_copy_(targets, sources)
    return result


def _refresh_compute_copies(group: Sequence[Span]) -> None:
    """The copies that the network computes with, from the weights."""
    pairs = [(span.compute_copy, span.weight) for span in group if span.compute_copy is not None]
    if pairs:
        copies, weights = zip(*pairs, strict=True)
        torch._foreach_copy_(copies, weights)
