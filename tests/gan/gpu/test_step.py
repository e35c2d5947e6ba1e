"""A GPU's step learns what the plain step learns, and its closed forms are the gradients of the losses' definitions."""

import pytest
import torch

from gan.data.randomness import dropout_bits, dropout_masks
from gan.gpu.step import adversarial_loss_grad, all_losses, gpu_train_step
from gan.gpu.streams import StepStreams
from gan.networks.model import ModelSettings
from gan.training.losses import FAKE, REAL, discriminator_loss, generator_loss
from gan.training.process_group import ProcessGroup
from gan.training.settings import TrainingSettings
from gan.training.state import TrainState
from gan.training.step import train_step

CPU = torch.device("cpu")
MODEL = ModelSettings(channels=2, receptive_field=16, patch_size=64)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 1e-2), ("fp16", 1e-2)])
def test_a_gpus_step_learns_what_the_plain_step_learns(precision: str, tolerance: float) -> None:
    settings = TrainingSettings(
        epochs=1, batch_size=2, lambda_l1=100.0, learning_rate=2e-4, seed=0, precision=precision, log_every_n_steps=1
    )
    plain, gpu = (TrainState(MODEL, settings, CPU) for _ in range(2))
    shapes = plain.generator.dropout_shapes
    for step in range(5):
        random = torch.Generator().manual_seed(step)
        source, target = torch.rand(2, 2, 3, 64, 64, generator=random) * 2 - 1
        masks = dropout_masks(torch.from_numpy(dropout_bits(shapes, 2, slice(0, 2), 0, step)), shapes)
        wanted = train_step(plain, source, target, masks, 100.0, ProcessGroup())
        found = gpu_train_step(gpu, StepStreams.on(CPU), source, target, masks, 100.0, ProcessGroup())
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    assert gpu.generator_optimizer.num_updates == plain.generator_optimizer.num_updates > 0
    for network in ("generator", "discriminator"):
        for name, wanted in getattr(plain, network).state_dict().items():
            found = getattr(gpu, network).state_dict()[name]
            # Adam's first steps are as long as the learning rate, however small a gradient is: its sign may round.
            distance = (found.double() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-3)
            assert float(distance) < 100 * tolerance, name


def test_closed_forms_are_the_gradients_of_the_losses() -> None:
    random = torch.Generator().manual_seed(0)
    real_logits, fake_logits = (torch.randn(2, 1, 6, 6, generator=random, requires_grad=True) for _ in range(2))
    fake, target = (torch.rand(2, 3, 64, 64, generator=random, requires_grad=True) for _ in range(2))
    for_generator = generator_loss(fake_logits, fake, target, 7.0)
    for_discriminator = discriminator_loss(real_logits, fake_logits)

    (fooled,) = torch.autograd.grad(for_generator.total_gen_loss, fake_logits, retain_graph=True)
    torch.testing.assert_close(adversarial_loss_grad(fake_logits.detach(), REAL), fooled)
    by_real, by_fake = torch.autograd.grad(for_discriminator.total_disc_loss, [real_logits, fake_logits])
    torch.testing.assert_close(adversarial_loss_grad(real_logits.detach(), REAL), by_real)
    torch.testing.assert_close(adversarial_loss_grad(fake_logits.detach(), FAKE), by_fake)

    (by_pixels,) = torch.autograd.grad(for_generator.total_gen_loss, fake)
    (l1_alone,) = torch.autograd.grad(7.0 * torch.nn.functional.l1_loss(fake, target), fake)
    torch.testing.assert_close(l1_alone, by_pixels)


def test_the_losses_that_a_gpu_logs_are_those_of_the_definitions() -> None:
    random = torch.Generator().manual_seed(0)
    real_logits, fake_logits = torch.randn(2, 2, 1, 6, 6, generator=random)
    fake, target = torch.rand(2, 2, 3, 64, 64, generator=random)
    for_generator = generator_loss(fake_logits, fake, target, 7.0)
    found = all_losses(real_logits, fake_logits, for_generator.l1_loss, 7.0)
    torch.testing.assert_close(found, torch.stack([*for_generator, *discriminator_loss(real_logits, fake_logits)]))
