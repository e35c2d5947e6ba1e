import itertools

import pytest
import torch

from gan.networks.footprint import training_footprint
from gan.networks.model import ModelSettings
from gan.networks.sizes import discriminator_size, generator_size, state_size
from gan.training.settings import TrainingSettings
from gan.training.state import TrainState


@pytest.mark.parametrize(
    ("channels", "patch_size", "receptive_field"),
    [*itertools.product([1, 8], [64, 256], [1, 16, 70]), (8, 1024, 286)],
)
def test_sizes_by_arithmetic_are_those_of_the_networks(channels: int, patch_size: int, receptive_field: int) -> None:
    model = ModelSettings(channels, receptive_field, patch_size)
    size, built = state_size(model), training_footprint(model, 1, "fp32")
    assert (size.weights, size.checkpoint) == (built.weights, built.checkpoint)


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("upsampling", ["transposed", "resize"])
def test_sizes_follow_the_norm_and_the_upsampling(norm: str, upsampling: str) -> None:
    model = ModelSettings(3, 16, 64, norm, upsampling)
    size, built = state_size(model), training_footprint(model, 1, "fp32")
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
    settings = TrainingSettings(
        epochs=1, batch_size=1, lambda_l1=100.0, learning_rate=2e-4, seed=0, precision=precision, log_every_n_steps=1
    )
    state = TrainState(model, settings, torch.device("cpu"))
    footprint = training_footprint(model, batch_size, precision)
    groups = state.state_dict()
    networks = [tensor for name in ("generator", "discriminator") for tensor in groups[name].values()]
    moments = [t for optimizer in (state.generator_optimizer, state.discriminator_optimizer)
               for pair in optimizer.moments.values() for t in pair]  # fmt: skip
    assert footprint.checkpoint == bytes_of(networks + moments)
    low = [*state.compute_generator.parameters(), *state.compute_discriminator.parameters()]
    assert footprint.compute_copies == bytes_of(networks + low) - bytes_of(networks)
    assert (footprint.compute_copies > 0) == (precision != "fp32")

    source = torch.zeros(batch_size, 3, 64, 64)
    logits = state.compute_discriminator(source, state.compute_generator(source))
    taken = torch.autograd.grad(logits.float().sum(), low)
    assert footprint.gradients == sum(gradient.nbytes for gradient in taken)
    assert footprint.memory > 2 * footprint.checkpoint + footprint.compute_copies + footprint.gradients
