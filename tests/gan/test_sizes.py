import itertools

import pytest
import torch

from gan.adam import Adam
from gan.footprint import training_footprint
from gan.losses import discriminator_loss, generator_loss
from gan.sizes import discriminator_size, generator_size, state_size
from gan.state import ModelSettings, TrainState
from gan.step import gradients


@pytest.mark.parametrize(
    ("channels", "patch_size", "receptive_field"),
    [*itertools.product([1, 8], [64, 256], [1, 16, 70]), (8, 1024, 286)],
)
def test_sizes_by_arithmetic_are_those_of_the_networks(channels: int, patch_size: int, receptive_field: int) -> None:
    size = state_size(channels, patch_size, receptive_field)
    built = training_footprint(ModelSettings(channels, receptive_field, patch_size), 1, "fp32", "cpu")
    assert (size.weights, size.checkpoint) == (built.weights, built.checkpoint)


def test_the_networks_have_the_published_numbers_of_parameters() -> None:
    assert generator_size(64, 256).num_parameters == 54_413_955
    fields = [discriminator_size(64, field).num_parameters for field in (1, 16, 70, 286)]
    assert fields == [9_024, 139_585, 2_768_705, 11_159_361]


def bytes_of(tensors: list[torch.Tensor]) -> int:
    """Of memory that one or several of the tensors are in."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(("batch_size", "receptive_field"), [(1, 70), (3, 16)])
def test_the_footprint_is_that_of_a_trainings_tensors(precision: str, batch_size: int, receptive_field: int) -> None:
    model = ModelSettings(4, receptive_field, 64)
    state = TrainState(model, 0, 2e-4, precision, torch.device("cpu"))
    footprint = training_footprint(model, batch_size, precision, "cpu")
    groups = state.state_dict()
    networks = [tensor for name in ("generator", "discriminator") for tensor in groups[name].values()]
    moments = [t for optimizer in (state.generator_optimizer, state.discriminator_optimizer)
               for pair in optimizer.moments.values() for t in pair]  # fmt: skip
    assert footprint.checkpoint == bytes_of(networks + moments)
    low = [*state.low_generator.parameters(), *state.low_discriminator.parameters()]
    assert footprint.rounded == bytes_of(networks + low) - bytes_of(networks)
    assert (footprint.rounded > 0) == (precision != "fp32")

    source = torch.zeros(batch_size, 3, 64, 64)
    fake = state.low_generator(source)
    real_logits, fake_logits = (state.low_discriminator(source, target) for target in (source, fake))
    losses = (
        (discriminator_loss(real_logits, fake_logits).total_disc_loss, state.low_discriminator),
        (generator_loss(fake_logits, fake, source, 1).total_gen_loss, state.low_generator),
    )
    taken = [each for loss, network in losses for each in gradients(loss, network, state.loss_scale, keep_graph=True)]
    assert footprint.gradients == sum(gradient.nbytes for gradient in taken)
    assert footprint.memory > 2 * footprint.checkpoint + footprint.rounded + footprint.gradients


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu_the_footprint_has_the_gradients_that_adam_widens(precision: str) -> None:
    model = ModelSettings(4, 16, 64)
    on_gpu, on_cpu = (training_footprint(model, 1, precision, kind) for kind in ("cuda", "cpu"))
    with torch.device("meta"):
        state = TrainState(model, 0, 2e-4, precision, torch.device("meta"))
    optimizers: tuple[Adam, ...] = (state.generator_optimizer, state.discriminator_optimizer)
    pieces = [piece for optimizer in optimizers for group in optimizer._groups for piece in group]
    widened = sum(piece.wide.nbytes for piece in pieces if piece.wide is not None)
    assert on_gpu.gradients - on_cpu.gradients == on_gpu.memory - on_cpu.memory == widened
