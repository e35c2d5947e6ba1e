"""What can be chosen of networks and losses: each against torch's own."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gan.data.randomness import dropout_bits, dropout_masks
from gan.networks.convolution import Resize
from gan.networks.model import ModelSettings
from gan.networks.norm import NORMS
from gan.training.computation import describe_computation
from gan.training.losses import GAN_LOSSES, discriminator_loss, generator_loss
from gan.training.process_group import ProcessGroup
from gan.training.settings import TrainingSettings
from gan.training.state import TrainState
from gan.training.step import train_step

CPU = torch.device("cpu")
MODEL = ModelSettings(channels=4, receptive_field=16, patch_size=64)
SETTINGS = TrainingSettings(
    epochs=1, batch_size=1, lambda_l1=100.0, learning_rate=2e-4, seed=0, precision="fp32", log_every_n_steps=1
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def a_batch(size: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Pairs of noise, each of less contrast than the one before, and dropout masks for them."""
    source, target = noise(2, size, 3, 64, 64).clamp(-1, 1) / torch.arange(1, 1 + size).view(1, -1, 1, 1, 1) ** 2
    shapes = MODEL.new_generator().dropout_shapes
    return source, target, dropout_masks(torch.from_numpy(dropout_bits(shapes, size, slice(0, size), 0, 0)), shapes)


def of_torch(name: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """The discriminator's loss and the generator's adversarial one, by torch's own losses."""
    ones, zeros = torch.ones_like(real), torch.zeros_like(real)
    if name == "bce":
        loss = F.binary_cross_entropy_with_logits
        return loss(real, ones) + loss(fake, zeros), loss(fake, ones)
    if name == "lsgan":
        return F.mse_loss(real, ones) + F.mse_loss(fake, zeros), F.mse_loss(fake, ones)
    # max(0, 1 - x) is torch's hinge embedding loss of what is labelled -1.
    hinge = F.hinge_embedding_loss
    return hinge(real, -ones) + hinge(-fake, -ones), -fake.mean()


@pytest.mark.parametrize("name", ["bce", "lsgan", "hinge"])
def test_adversarial_losses_and_their_gradients_are_torchs(name: str) -> None:
    real, fake = (noise(2, 1, 6, 6, seed=seed).requires_grad_() for seed in (1, 2))
    picture = noise(2, 3, 8, 8)
    for_discriminator, for_generator = of_torch(name, real, fake)
    ours = discriminator_loss(real, fake, name)
    fooled = generator_loss(fake, picture, picture, 100.0, name)
    torch.testing.assert_close(ours.total_disc_loss, for_discriminator)
    torch.testing.assert_close(ours.real_d_loss + ours.fake_d_loss, for_discriminator)
    torch.testing.assert_close(fooled.fake_d_real_class_loss, for_generator)
    for found, wanted in ((ours.total_disc_loss, for_discriminator), (fooled.total_gen_loss, for_generator)):
        by_found, by_wanted = (
            torch.autograd.grad(x, (real, fake), retain_graph=True, allow_unused=True, materialize_grads=True)
            for x in (found, wanted)
        )
        torch.testing.assert_close(by_found, by_wanted)


def test_instance_norm_is_torchs_in_training_and_in_eval() -> None:
    norm, x = NORMS["instance"](3), noise(2, 3, 5, 5)
    torch.nn.init.normal_(norm.weight)
    wanted = F.instance_norm(x, weight=norm.weight, bias=norm.bias)
    assert torch.equal(norm.train()(x), wanted)
    assert torch.equal(norm.eval()(x), wanted)
    assert not torch.equal(norm(x), NORMS["batch"](3)(x))


def test_resizing_is_a_convolution_of_torchs_nearest_upsampling() -> None:
    resize, x = Resize(3, 5, bias=True), noise(2, 3, 4, 4)
    by_hand = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(resize(x), F.conv2d(by_hand, resize.weight, resize.bias, padding=1))


def run(model: ModelSettings, steps: int, size: int, precision: str = "fp32", gan_loss: str = "bce") -> Tensor:
    """The losses of some steps."""
    state = TrainState(model, dataclasses.replace(SETTINGS, precision=precision), CPU)
    losses = [train_step(state, *a_batch(size), 100.0, ProcessGroup(), gan_loss) for _ in range(steps)]
    return torch.stack(losses)


def test_with_one_picture_instance_norm_learns_what_batch_norm_learns() -> None:
    instance = dataclasses.replace(MODEL, norm="instance")
    torch.testing.assert_close(run(instance, 5, 1), run(MODEL, 5, 1), rtol=0, atol=1e-3)
    assert not torch.allclose(run(instance, 1, 2), run(MODEL, 1, 2), rtol=0, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("upsampling", ["transposed", "resize"])
def test_each_combination_trains_in_each_precision(precision: str, upsampling: str) -> None:
    model = dataclasses.replace(MODEL, norm="instance", upsampling=upsampling)
    for gan_loss in GAN_LOSSES:
        # In fp16 the first step may be left out: its gradients overflow until the scale has come down.
        losses = run(model, 4, 2, precision, gan_loss)
        assert losses.isfinite().all()
        assert losses[-1, 0] != losses[0, 0]


def test_the_discriminator_has_its_own_rate_which_decays_with_the_generators() -> None:
    decaying = dataclasses.replace(SETTINGS, decay_start_epoch=1, decay_end_epoch=2, discriminator_learning_rate=8e-4)
    assert [decaying.discriminator_learning_rate_at(epoch) for epoch in (1, 2, 3)] == [8e-4, 4e-4, 0.0]
    assert [decaying.learning_rate_at(epoch) for epoch in (1, 2, 3)] == [2e-4, 1e-4, 0.0]
    assert SETTINGS.discriminator_learning_rate_at(1) == 2e-4
    state = TrainState(MODEL, SETTINGS, CPU)
    state.set_learning_rates(0.0, 1e-3)
    before = {name: tensor.clone() for name, tensor in state.state_dict()["generator"].items() if "conv" in name}
    old = state.discriminator.layers[0].weight.clone()
    train_step(state, *a_batch(1), 100.0, ProcessGroup())
    assert all(torch.equal(tensor, state.state_dict()["generator"][name]) for name, tensor in before.items())
    assert not torch.equal(state.discriminator.layers[0].weight, old)


def test_a_gpu_takes_the_plain_step_for_what_its_own_does_not_compute() -> None:
    gpu, model = torch.device("cuda"), dataclasses.replace(MODEL, upsampling="resize")
    described = describe_computation(gpu, "bf16", ProcessGroup(), model, "hinge")
    assert described.endswith("the plain step, for upsampling resize, gan_loss hinge; no CUDA graph")
