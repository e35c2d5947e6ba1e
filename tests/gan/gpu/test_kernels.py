"""The GPU's own kernels, run by Triton's interpreter, against PyTorch's layers."""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gan.data.jitter import enlarged_size, jitter_batch, jitter_margin
from gan.training.optimizer import BETAS, EPSILON

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton comes with PyTorch for NVIDIA GPUs only", allow_module_level=True)
if not os.environ.get("TRITON_INTERPRET"):
    pytest.skip("here a GPU runs the kernels: tests/on_gpu.py", allow_module_level=True)

from gan.gpu import adam, batch_norm, conv, jitter


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.contiguous(memory_format=torch.channels_last)


SIZES = [(1, 512, 2, 2), (1, 40, 8, 8), (3, 16, 16, 16), (2, 8, 31, 31)]


@pytest.mark.parametrize(
    ("size", "slopes", "masked"),
    [
        *((size, slopes, masked) for size in SIZES for slopes, masked in (([0.2, 0.0], False), ([0.0], True))),
        ((3, 16, 16, 16), [0.2], False),
        ((1, 4, 128, 64), [0.2, 0.0], False),  # more rows than the most parts have of the usual length
    ],
)
def test_normalised_activations_and_their_gradients_are_pytorchs(
    size: tuple[int, ...], slopes: list[float], masked: bool
) -> None:
    x = (3 * pictures(*size) + 1).requires_grad_()
    norm = nn.BatchNorm2d(size[1])
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    nn.init.normal_(norm.bias)
    running = [buffer.clone() for buffer in norm.buffers()]
    mask = (2 * (torch.rand(size) > 0.5)).to(torch.uint8) if masked else None
    # A gradient may come as a part of a wider one, as from the decoder's concatenation.
    given = [pictures(size[0], 2 * size[1], *size[2:], seed=1 + i)[:, size[1] :] for i in range(len(slopes))]

    y = norm(x) if mask is None else norm(x) * mask
    expected = [F.leaky_relu(y, slope) for slope in slopes]
    by_inputs = torch.autograd.grad(expected, [x, norm.weight, norm.bias], given)

    weight, bias = norm.weight.detach(), norm.bias.detach()
    done = batch_norm.normalise(x.detach(), weight, bias, running, mask, slopes, norm.momentum, norm.eps)
    found = batch_norm.normalise_backward(x.detach(), weight, bias, done.mean, done.rstd, mask, slopes, given)
    for mine, other in zip([*done.results, *running, *found], [*expected, *norm.buffers(), *by_inputs], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_a_skip_connections_channels_come_first(size: tuple[int, ...]) -> None:
    x, wide = pictures(*size), pictures(size[0], 2 * size[1], *size[2:], seed=1)
    norm = nn.BatchNorm2d(size[1])
    for skip in (pictures(*size, seed=2), wide[:, : size[1]], wide[:, size[1] :]):
        running = [buffer.clone() for buffer in norm.buffers()]
        weight, bias = norm.weight.detach(), norm.bias.detach()
        done = batch_norm.normalise(x, weight, bias, running, None, [0.0], 0.1, norm.eps, skip)
        expected = torch.cat([skip, F.relu(nn.BatchNorm2d(size[1])(x))], dim=1)
        torch.testing.assert_close(done.results, [expected.detach()], rtol=1e-4, atol=1e-4)


def test_jitter_is_the_one_of_a_processor() -> None:
    numbers = torch.Generator().manual_seed(0)
    source, target = torch.randint(0, 256, (2, 3, 3, 64, 64), generator=numbers, dtype=torch.uint8)
    margin = jitter_margin(64)
    places = torch.tensor([[2, 0], [0, margin], [margin, 2], [1, 0]])
    for mine, other in zip(
        jitter.jitter(source, target, places, enlarged_size(64)), jitter_batch(source, target, places), strict=True
    ):
        assert mine.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(mine, other, rtol=0, atol=2e-5)


def test_statistics_survive_a_mean_that_dwarfs_the_deviations() -> None:
    x = pictures(1, 8, 64, 64) + 1000
    running = [torch.zeros(8), torch.ones(8), torch.tensor(0)]
    done = batch_norm.normalise(x, torch.ones(8), torch.zeros(8), running, None, [0.0], 0.1, 1e-5)
    torch.testing.assert_close(done.rstd, 1 / x.double().var((0, 2, 3), correction=0).sqrt().float(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("size", [(1, 512, 2, 2), (2, 24, 8, 4), (2, 600, 4, 2)])
def test_windows_are_gathered_and_scattered_as_a_convolution_does(size: tuple[int, int, int, int]) -> None:
    number, channels, height, width = size
    x = pictures(*size).requires_grad_()
    weight = pictures(32, channels, 4, 4, seed=1)
    matrix = weight.permute(0, 2, 3, 1).flatten(1)
    expected = F.conv2d(x, weight, stride=2, padding=1)
    rows = conv.gather(x.detach()) @ matrix.t()
    torch.testing.assert_close(rows, expected.permute(0, 2, 3, 1).flatten(0, 2), rtol=1e-4, atol=1e-4)
    given = pictures(*expected.shape, seed=2)
    (by_x,) = torch.autograd.grad(expected, x, given)
    windows = given.permute(0, 2, 3, 1).flatten(0, 2) @ matrix
    scattered = conv.scatter(windows, number, height // 2, width // 2)
    torch.testing.assert_close(scattered, by_x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 16, 2, 2), (2, 24, 8, 4)])
@pytest.mark.parametrize(("product", "convolve"), [
    (conv.DownsamplingProduct, F.conv2d), (conv.UpsamplingProduct, F.conv_transpose2d),
])  # fmt: skip
def test_a_product_is_the_layer_and_its_gradients_are_the_layers(
    size: tuple[int, int, int, int], product: Any, convolve: Callable[..., torch.Tensor]
) -> None:
    channels = size[1]
    x = pictures(*size).requires_grad_()
    shape = (32, channels, 4, 4) if convolve is F.conv2d else (channels, 32, 4, 4)
    weight = pictures(*shape, seed=1).requires_grad_()
    result, expected = product.apply(x, weight, None), convolve(x, weight, stride=2, padding=1)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    given = pictures(*expected.shape, seed=2)
    found, wanted = (torch.autograd.grad(y, [x, weight], given) for y in (result, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("has_skip", [False, True])
def test_the_fused_layer_passes_gradients_on(has_skip: bool) -> None:
    norm, size = nn.BatchNorm2d(16), (2, 16, 8, 8)
    x, skip = pictures(*size).requires_grad_(), pictures(*size, seed=1).requires_grad_()
    inputs = [x, norm.weight, norm.bias, *([skip] if has_skip else [])]
    expected = F.relu(norm(x))
    expected = torch.cat([skip, expected], dim=1) if has_skip else expected
    running = [buffer.clone() for buffer in norm.buffers()]
    (result,) = batch_norm.FusedBatchNorm.apply(
        x, norm.weight, norm.bias, skip if has_skip else None, running, None, [0.0], norm.momentum, norm.eps
    )
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    given = pictures(*expected.shape, seed=2)
    found, wanted = (torch.autograd.grad(y, inputs, given) for y in (result, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [None, 8.0])
def test_updates_are_adams(kind: torch.dtype, scale: float | None) -> None:
    weight, rate = pictures(10, 30, 4, 4).requires_grad_(), torch.tensor(0.02)
    mine, moments = weight.detach().clone(), [torch.zeros_like(weight.detach()) for _ in range(2)]
    copied, updates = mine.to(kind), torch.tensor(0.0)
    theirs = torch.optim.Adam([weight], lr=float(rate), betas=BETAS, eps=EPSILON)
    scaling = [None, None] if scale is None else [torch.tensor(scale), torch.tensor(0.0)]
    for step in range(3):
        gradient = pictures(*weight.shape, seed=step).to(kind)
        weight.grad = gradient.float() / (scale or 1.0)
        theirs.step()
        updates += 1
        adam.update(mine, moments, gradient, copied, rate, updates, *scaling, betas=BETAS, epsilon=EPSILON)
    torch.testing.assert_close(mine, weight.detach(), rtol=1e-5, atol=1e-6)
    # The interpreter cuts off what a GPU rounds to nearest.
    torch.testing.assert_close(copied, mine.to(kind), rtol=2**-7, atol=1e-6)
    if scale is not None:
        before = mine.clone()
        adam.update(
            mine, moments, gradient, copied, rate, updates, torch.tensor(scale), torch.tensor(1.0),
            betas=BETAS, epsilon=EPSILON,
        )  # fmt: skip
        assert torch.equal(before, mine), "an update that overflowed changes nothing"
