"""The networks' forward passes as a GPU computes them give what the modules' own do, on a processor too."""

import pytest
import torch
from torch.nn import functional as F

from gan.data.randomness import draw_weights, dropout_bits, dropout_masks
from gan.gpu.networks import FusedDiscriminator, decode, downsample, encode, upsample
from gan.gpu.streams import LOW_PRIORITY, SideStream
from gan.networks.discriminator import RECEPTIVE_FIELDS, Discriminator
from gan.networks.generator import Generator


@pytest.mark.parametrize("size", [4, 64])
def test_gradients_computed_in_a_stream_of_their_own_are_the_same(size: int) -> None:
    random = torch.Generator().manual_seed(0)
    x, up = torch.randn(1, 6, size, size, generator=random), torch.randn(6, 5, 4, 4, generator=random)
    down, bias = up.transpose(0, 1).contiguous(), torch.randn(5, generator=random)
    for tensor in (x, up, down, bias):
        tensor.requires_grad_()
    stream = SideStream(torch.device("cpu"), LOW_PRIORITY)
    for result, expected, inputs in (
        (downsample(x, down, stream), F.conv2d(x, down, stride=2, padding=1), [x, down]),
        (upsample(x, up, stream=stream), F.conv_transpose2d(x, up, stride=2, padding=1), [x, up]),
        (upsample(x, up, bias, stream), F.conv_transpose2d(x, up, bias, stride=2, padding=1), [x, up, bias]),
        (upsample(x.detach(), up, bias, stream), F.conv_transpose2d(x.detach(), up, bias, 2, 1), [up, bias]),
    ):
        torch.testing.assert_close(result, expected)
        given = torch.randn(expected.shape, generator=random)
        found, wanted = (torch.autograd.grad(y, inputs, given) for y in (result, expected))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_generators_levels_one_after_another_give_its_own_fake() -> None:
    generator = Generator(2, 64)
    draw_weights(generator, 0, 0)
    source = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    shapes = generator.dropout_shapes
    masks = dropout_masks(torch.from_numpy(dropout_bits(shapes, 2, slice(0, 2), 0, 0)), shapes)
    expected = generator(source, masks)
    statistics = [buffer.clone() for buffer in generator.buffers()]
    draw_weights(generator, 0, 0)
    for buffer, start in zip(generator.buffers(), Generator(2, 64).buffers(), strict=True):
        buffer.copy_(start)

    _, *skips = encode(generator, source)
    fake = decode(generator, skips.pop(), *reversed(skips), dropout_masks=masks)
    torch.testing.assert_close(fake, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close([*generator.buffers()], statistics)


@pytest.mark.parametrize("field", RECEPTIVE_FIELDS)
def test_the_fused_discriminator_gives_the_discriminators_logits(field: int) -> None:
    discriminator = Discriminator(2, field)
    draw_weights(discriminator, 0, 0)
    source, target = torch.rand(2, 2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    fused = FusedDiscriminator(discriminator)
    assert dict(fused.named_parameters()).keys() == dict(discriminator.named_parameters()).keys()
    torch.testing.assert_close(fused(source, target), discriminator(source, target))
