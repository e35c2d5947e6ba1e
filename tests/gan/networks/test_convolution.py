"""A layer is the same one, computed as a convolution or as a product of matrices."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

import gan.networks.convolution
from gan.networks.convolution import downsample, upsample

Layer = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def convolution(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, weight, stride=2, padding=1)


def transposed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.conv_transpose2d(x, weight, stride=2, padding=1)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("pictures", [1, 3])
@pytest.mark.parametrize("size", [2, 8])
@pytest.mark.parametrize(("layer", "plain", "function"), [
    (downsample, convolution, "conv2d"), (upsample, transposed, "conv_transpose2d"),
])  # fmt: skip
def test_products_give_the_layer_and_its_gradients(
    layer: Layer,
    plain: Layer,
    function: str,
    pictures: int,
    size: int,
    memory_format: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(pictures, 6, size, size, generator=random, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 5, 4, 4, generator=random, dtype=torch.float64)
    if layer is downsample:
        weight = weight.transpose(0, 1)
    weight = weight.contiguous(memory_format=memory_format).requires_grad_()
    expected = plain(x, weight)
    direction = torch.randn(expected.shape, generator=random, dtype=torch.float64)
    gradients = torch.autograd.grad(expected, [x, weight], direction)
    monkeypatch.delattr(gan.networks.convolution.F, function)  # so that only a product can give it
    result = layer(x, weight)
    torch.testing.assert_close(result, expected)
    assert result.is_contiguous(memory_format=memory_format)
    for mine, other in zip(torch.autograd.grad(result, [x, weight], direction), gradients, strict=True):
        torch.testing.assert_close(mine, other)
        assert mine.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("layer", [downsample, upsample])
def test_many_positions_are_no_product(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(gan.networks.convolution.F, "unfold")
    monkeypatch.delattr(gan.networks.convolution.F, "fold")
    side = 32 if layer is downsample else 16
    weight = torch.randn(2, 2, 4, 4)
    layer(torch.randn(2, 2, side, side), weight)
    with pytest.raises(AttributeError):
        layer(torch.randn(1, 2, side, side), weight)
