"""Adam's update of one weight as one kernel: the moments, the fp32 weight and its low-precision compute copy."""

import math
from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

# Adam waits for the memory. Blocks that are soon done make room for the gradients that are computed meanwhile.
BLOCK, WARPS = 1024, 8


def update(
    weight: Tensor, moments: Sequence[Tensor], gradient: Tensor, compute_copy: Tensor, learning_rate: Tensor,
    num_updates: Tensor, scale: Tensor | None, found_inf: Tensor | None, *, betas: Sequence[float], epsilon: float,
) -> None:  # fmt: skip
    """One update of a weight, all tensors in the same order in memory; see `gan.training.optimizer.Adam.update`."""
    count = weight.numel()

    # One Triton program for each block. The kernel computes beta^n as exp(n log(beta)), from logarithms known here.
    _adam_kernel[(triton.cdiv(count, BLOCK),)](
        weight, *moments, gradient, compute_copy, learning_rate, num_updates, scale, found_inf, count,
        BETA1=betas[0], BETA2=betas[1], LOG_BETA1=math.log(betas[0]), LOG_BETA2=math.log(betas[1]), EPSILON=epsilon,
        SCALED=scale is not None, BLOCK=BLOCK, num_warps=WARPS,
    )  # fmt: skip


@triton.jit
def _adam_kernel(
    weight, exp_avg, exp_avg_sq, gradient, compute_copy, learning_rate, num_updates, scale, found_inf, count,
    BETA1: tl.constexpr, BETA2: tl.constexpr, LOG_BETA1: tl.constexpr, LOG_BETA2: tl.constexpr,
    EPSILON: tl.constexpr, SCALED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # After an overflow no place is inside: no weight changes, and the host need not know.
    if SCALED:
        count = tl.where(tl.load(found_inf) == 0.0, count, 0)

    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    g = tl.load(gradient + place, mask=inside).to(tl.float32)
    if SCALED:
        g = g / tl.load(scale)

    # The moments start at zero: their bias is corrected for the number of updates.
    # In float64, because 1 - beta^n loses digits while n is small.
    updates = tl.load(num_updates).to(tl.float64)
    correction1 = (1.0 - tl.exp(updates * LOG_BETA1)).to(tl.float32)
    correction2 = (1.0 - tl.exp(updates * LOG_BETA2)).to(tl.float32)

    m = tl.load(exp_avg + place, mask=inside)
    v = tl.load(exp_avg_sq + place, mask=inside)
    m = m + (g - m) * (1.0 - BETA1)
    v = BETA2 * v + (1.0 - BETA2) * g * g

    step = tl.load(learning_rate) / correction1
    w = tl.load(weight + place, mask=inside)
    w = w - step * m / (tl.sqrt(v) / tl.sqrt(correction2) + EPSILON)

    tl.store(exp_avg + place, m, mask=inside)
    tl.store(exp_avg_sq + place, v, mask=inside)
    tl.store(weight + place, w, mask=inside)
    tl.store(compute_copy + place, w.to(compute_copy.dtype.element_ty), mask=inside)
