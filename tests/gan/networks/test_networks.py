import pytest
import torch

from gan.data.randomness import draw_weights
from gan.networks.discriminator import RECEPTIVE_FIELDS, Discriminator
from gan.networks.generator import Generator


def num_parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_generator_has_the_reference_implementations_parameters() -> None:
    with torch.device("meta"):
        assert num_parameters(Generator(64, 256)) == 54_413_955


@pytest.mark.parametrize(("field", "count"), [(1, 9_024), (16, 139_585), (70, 2_768_705), (286, 11_159_361)])
def test_the_discriminator_has_the_papers_parameters(field: int, count: int) -> None:
    with torch.device("meta"):
        assert num_parameters(Discriminator(64, field)) == count


@pytest.mark.parametrize("field", RECEPTIVE_FIELDS)
def test_a_logit_sees_exactly_its_receptive_field(field: int) -> None:
    discriminator = Discriminator(4, field).eval()
    draw_weights(discriminator, 0, 0)
    size = 1 + 2 * 286
    source = torch.randn(1, 3, size, size, requires_grad=True)
    logits = discriminator(source, torch.randn(1, 3, size, size))
    centre = logits.shape[-1] // 2
    logits[0, 0, centre, centre].backward()
    assert source.grad is not None
    seen = source.grad.abs().sum(dim=(0, 1)) > 0
    rows, columns = (torch.nonzero(seen.any(dim=axis)).flatten() for axis in (1, 0))
    for touched in (rows, columns):
        assert int(touched[-1] - touched[0]) + 1 == field
        assert touched[0] > 0
        assert touched[-1] < size - 1, "the probe must not touch the picture's border"


def test_a_field_of_70_gives_30x30_logits_for_256_pixels() -> None:
    pictures = torch.zeros(1, 3, 256, 256)
    assert Discriminator(2, 70)(pictures, pictures).shape == (1, 1, 30, 30)


@pytest.mark.parametrize(("field", "size"), [(1, 64), (16, 64), (70, 64), (286, 128)])
def test_the_smallest_pictures_that_a_field_is_allowed_for_leave_a_logit(field: int, size: int) -> None:
    pictures = torch.randn(1, 3, size, size)
    assert Discriminator(2, field)(pictures, pictures).numel() >= 1
    if size > 64:
        too_small = pictures[..., : size // 2, : size // 2]
        with pytest.raises((RuntimeError, ValueError)):
            Discriminator(2, field)(too_small, too_small)


def test_an_unknown_receptive_field_is_refused() -> None:
    with pytest.raises(ValueError, match="receptive_field is 34"):
        Discriminator(4, 34)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_the_generator_keeps_the_size_and_the_range(size: int) -> None:
    generator = Generator(2, size)
    assert len(generator.down) == size.bit_length() - 1
    fake = generator(torch.rand(1, 3, size, size) * 2 - 1)
    assert fake.shape == (1, 3, size, size)
    assert float(fake.detach().abs().max()) <= 1


def test_batch_norm_is_left_out_where_a_batch_of_one_has_a_single_value() -> None:
    down = Generator(2, 64).down
    normalised = [isinstance(block.norm, torch.nn.BatchNorm2d) for block in down]
    assert normalised == [False, True, True, True, True, False]


def test_dropout_masks_reach_the_first_three_up_blocks() -> None:
    generator = Generator(2, 64)
    assert generator.dropout_shapes == [(16, 2, 2), (16, 4, 4), (8, 8, 8)]
    draw_weights(generator, 0, 0)
    source = torch.rand(1, 3, 64, 64) * 2 - 1
    kept = [torch.full((1, *shape), 2, dtype=torch.uint8) for shape in generator.dropout_shapes]
    plain = generator(source, kept)
    for block in range(3):
        masks = [mask.clone() for mask in kept]
        masks[block][:, 0] = 0
        assert not torch.equal(generator(source, masks), plain), f"block {block} takes no notice of its mask"


def test_weights_are_drawn_from_the_seed_alone() -> None:
    first, same, other = Generator(4, 64), Generator(4, 64), Generator(4, 64)
    draw_weights(first, 0, 0)
    torch.manual_seed(5)
    draw_weights(same, 0, 0)
    draw_weights(other, 1, 0)
    weights = [generator.last.weight for generator in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert abs(float(first.up[0].conv.weight.detach().std()) - 0.02) < 0.001
    assert torch.equal(first.up[0].norm.weight, torch.ones(32))
