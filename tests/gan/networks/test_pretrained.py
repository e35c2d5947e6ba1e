import pytest
import torch

from gan.data.randomness import draw_weights
from gan.networks.generator import Generator
from gan.networks.model import ModelSettings
from gan.networks.pretrained import fitted
from gan.networks.reference import to_reference

State = dict[str, torch.Tensor]
SMALL = ModelSettings(2, patch_size=64)


def drawn(channels: int = 2, patch_size: int = 64) -> State:
    generator = Generator(channels, patch_size)
    draw_weights(generator, 0, 0)
    return dict(generator.state_dict())


@pytest.mark.parametrize("reference", [False, True])
def test_a_state_fits_its_own_sizes_under_either_names(reference: bool) -> None:
    state = drawn()
    found = fitted(to_reference(state, 6) if reference else state, SMALL)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(("channels", "patch_size"), [(2, 64), (3, 128)])
@pytest.mark.parametrize("reference", [False, True])
def test_the_first_layer_that_does_not_fit_is_named_with_the_sizes_that_would(
    reference: bool, channels: int, patch_size: int
) -> None:
    state = drawn(channels, patch_size)
    if reference:
        state = to_reference(state, patch_size.bit_length() - 1)
    first = "model.model.0.weight" if reference else "down.0.conv.weight"
    with pytest.raises(ValueError, match=f"{first} is {channels}x3x4x4, not 8x3x4x4") as caught:
        fitted(state, ModelSettings(8))
    assert f"need model.channels {channels} and data.patch_size {patch_size}" in str(caught.value)


def test_another_number_of_levels_is_seen_where_the_widths_agree() -> None:
    with pytest.raises(ValueError, match=r"down\.5\.norm\.weight is missing .* need .* data\.patch_size 64$"):
        fitted(drawn(2, 64), ModelSettings(2, patch_size=128))
    with pytest.raises(ValueError, match=r"up\.2\.conv\.weight is .* need .* data\.patch_size 128$"):
        fitted(drawn(2, 128), SMALL)


def test_a_layer_too_many_or_too_few_or_not_finite_is_named() -> None:
    state = drawn()
    with pytest.raises(ValueError, match=r"its layer down\.0\.conv\.bias is none of this U-Net's"):
        fitted(state | {"down.0.conv.bias": torch.zeros(2)}, SMALL)
    with pytest.raises(ValueError, match=r"its layer last\.bias is missing .* use the weights of a pix2pix U-Net"):
        fitted({name: tensor for name, tensor in state.items() if name != "last.bias"}, SMALL)
    with pytest.raises(ValueError, match=r"its layer up\.1\.norm\.weight is not finite"):
        fitted(state | {"up.1.norm.weight": torch.full((16,), torch.nan)}, SMALL)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_a_layer_of_another_type_is_named(dtype: torch.dtype) -> None:
    state = drawn()
    with pytest.raises(ValueError, match=rf"its layer up\.1\.norm\.weight is of {dtype}, not of floats"):
        fitted(state | {"up.1.norm.weight": torch.zeros(16).to(dtype)}, SMALL)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_other_widths_are_taken_where_fp32_can_hold_them(dtype: torch.dtype) -> None:
    state = drawn()
    Generator(2, 64).load_state_dict(fitted({name: tensor.to(dtype) for name, tensor in state.items()}, SMALL))
    with pytest.raises(ValueError, match=r"up\.1\.norm\.weight is not finite in fp32"):
        fitted(state | {"up.1.norm.weight": torch.full((16,), 1e300, dtype=torch.float64)}, SMALL)


@pytest.mark.parametrize("state", [{}, {"layer": torch.zeros(3)}, {"down.0.conv.weight": torch.zeros(0, 3, 4, 4)}])
def test_what_is_no_generator_is_told_so(state: State) -> None:
    with pytest.raises(ValueError, match="use the weights of a pix2pix U-Net with batch norm"):
        fitted(state, SMALL)


def test_files_of_before_batch_norm_counted_its_updates_are_taken() -> None:
    state = drawn()
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    Generator(2, 64).load_state_dict(fitted(old, SMALL))


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "netG.module."])
@pytest.mark.parametrize("reference", [False, True])
def test_what_a_generator_was_wrapped_in_when_it_was_saved_does_not_matter(reference: bool, wrapper: str) -> None:
    state = drawn()
    names = to_reference(state, 6) if reference else state
    found = fitted({f"{wrapper}{name}": tensor for name, tensor in names.items()}, SMALL)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_layers_under_other_names_are_answered_with_a_name_that_is_there() -> None:
    state = drawn()
    both = {f"{network}.{name}": tensor for network in ("first", "second") for name, tensor in state.items()}
    with pytest.raises(ValueError, match=r"its layers have other names, such as first\.down\.0\.conv\.weight"):
        fitted(both, SMALL)
    assert fitted(state, SMALL).keys() == state.keys()


def foreign_instance_state(ours: Generator) -> State:
    """A generator as the reference implementation has it with instance norm: a bias in each convolution, no gains."""
    state = dict(ours.state_dict())
    for name in list(state):
        layer, _, part = name.rpartition(".")
        if layer.endswith(".norm") and f"{layer}.weight" in state and part == "bias":
            state[f"{layer.removesuffix('norm')}conv.bias"] = torch.randn(state[name].shape)
    gains = [name for name in state if name.endswith("norm.weight")]
    for name in gains:
        del state[name], state[name.replace("weight", "bias")]
    return to_reference(state, 6)


def test_instance_norm_of_the_reference_is_completed_to_the_same_function() -> None:
    ours = Generator(2, 64, "instance")
    draw_weights(ours, 0, 0)
    for level in (0, 5):
        ours.down[level].norm.bias.normal_()
    theirs = foreign_instance_state(ours)
    assert not any("norm" in name for name in theirs)

    loaded = Generator(2, 64, "instance")
    loaded.load_state_dict(fitted(theirs, ModelSettings(2, patch_size=64, norm="instance")))
    source = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded(source), ours(source))
    without = dict(ours.state_dict()) | {"down.5.norm.bias": torch.zeros(16)}
    ours.load_state_dict(without)
    assert not torch.equal(loaded(source), ours(source))


def test_the_norm_and_the_upsampling_that_weights_need_are_named() -> None:
    theirs = foreign_instance_state(Generator(2, 64, "instance"))
    with pytest.raises(ValueError, match=r"need model\.channels 2, data\.patch_size 64 and model\.norm instance$"):
        fitted(theirs, SMALL)
    with pytest.raises(ValueError, match=r"need model\.channels 2, data\.patch_size 64 and model\.norm batch$"):
        fitted(to_reference(drawn(), 6), ModelSettings(2, patch_size=64, norm="instance"))
    with pytest.raises(ValueError, match=r"3x3, not .* and model\.upsampling resize$"):
        fitted(dict(Generator(2, 64, upsampling="resize").state_dict()), SMALL)
