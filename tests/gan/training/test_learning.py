"""What is fast learns the same: the loop's own steps against plain PyTorch on real pairs."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gan.data.batches import Batch, BatchLoader
from gan.data.jitter import jitter_margin, jitter_pair
from gan.data.patches import Patches, PatchRows, patch_batch
from gan.data.pictures import read_pair
from gan.data.randomness import draw_weights, dropout_bits, dropout_masks, plan_epoch
from gan.gpu.cuda_graph import warm_up
from gan.networks.discriminator import Discriminator
from gan.networks.generator import Generator
from gan.networks.model import ModelSettings
from gan.training.computation import batch_step
from gan.training.loop import BeforeStep, EpochEnd, fit
from gan.training.losses import discriminator_loss, generator_loss
from gan.training.process_group import ProcessGroup
from gan.training.settings import TrainingSettings
from gan.training.state import TrainState

CPU = torch.device("cpu")
STEPS, FIRST, LAST = 300, 20, 100
MODEL = ModelSettings(channels=8, receptive_field=16, patch_size=64)
SETTINGS = TrainingSettings(
    epochs=100, batch_size=1, lambda_l1=100.0, learning_rate=2e-4, seed=0, precision="fp32", log_every_n_steps=1
)


@pytest.fixture(scope="module")
def real_patches(maps: Path) -> Patches:
    """96 patches of 64 pixels from 12 real pairs, four times as coarse as the pictures are."""
    batches = []
    for name in range(1, 13):
        pair = read_pair([(maps / "train" / f"{name}.jpg").read_bytes()], 64)
        halves = [np.ascontiguousarray(half[::4, ::4].transpose(2, 0, 1)) for half in pair]
        origins = [(row, column) for row in (0, 64) for column in (0, 22, 44, 86)]
        cut = [np.stack([half[:, r : r + 64, c : c + 64] for r, c in origins]) for half in halves]
        batches.append(patch_batch(PatchRows(f"{name}.jpg", origins, *cut)))
    return Patches([pa.Table.from_batches(batches)], "map_to_satellite")


class PlainConvolution(nn.Module):
    """A layer of the U-Net by PyTorch's own convolution, whatever its size."""

    def __init__(self, layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.convolve = F.conv2d if isinstance(layer, nn.Conv2d) else F.conv_transpose2d

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolve(x, self.weight, self.bias, stride=2, padding=1)


def plain_losses(patches: Patches) -> list[dict[str, float]]:
    """All losses of each step of a loop of torch.nn layers and torch.optim, all fp32, two passes backward."""
    generator, discriminator = Generator(MODEL.channels, 64), Discriminator(MODEL.channels, 16)
    draw_weights(generator, 0, 0)
    draw_weights(discriminator, 0, 1)
    for block in (*generator.down, *generator.up):
        block.conv = PlainConvolution(block.conv)  # type: ignore[arg-type]
    adams = [torch.optim.Adam(n.parameters(), lr=2e-4, betas=(0.5, 0.999)) for n in (generator, discriminator)]
    shapes = generator.dropout_shapes
    values = []
    for step in range(STEPS):
        epoch, position = divmod(step, len(patches))
        plan = plan_epoch(0, epoch + 1, len(patches), jitter_margin(64))
        place = slice(position, position + 1)
        draws = (torch.from_numpy(draw[place]) for draw in (plan.tops, plan.lefts, plan.flips))
        source, target = jitter_pair(*patches[plan.indices[place]], *draws)
        fake = generator(source, dropout_masks(torch.from_numpy(dropout_bits(shapes, 1, slice(0, 1), 0, step)), shapes))
        fake_logits, real_logits = discriminator(source, fake), discriminator(source, target)
        for_generator = generator_loss(fake_logits, fake, target, 100.0)
        for_discriminator = discriminator_loss(real_logits, fake_logits)
        for network, loss in (
            (discriminator, for_discriminator.total_disc_loss),
            (generator, for_generator.total_gen_loss),
        ):
            parameters = list(network.parameters())
            for parameter, value in zip(
                parameters, torch.autograd.grad(loss, parameters, retain_graph=True), strict=True
            ):
                parameter.grad = value
        for adam in adams:
            adam.step()
        losses = for_generator._asdict() | for_discriminator._asdict()
        values.append({name: float(value.detach()) for name, value in losses.items()})
    return values


def fast_losses(patches: Patches, precision: str) -> list[dict[str, float]]:
    """All losses of each step of the loop."""
    settings = dataclasses.replace(SETTINGS, precision=precision)
    state = TrainState(MODEL, settings, CPU)
    losses = []
    for event in fit(state, patches, settings):
        if isinstance(event, BeforeStep):
            if event.step == STEPS:
                break
            continue
        losses.append((event.last if isinstance(event, EpochEnd) else event).losses)
    return losses


@pytest.fixture(scope="module")
def plain(real_patches: Patches) -> list[dict[str, float]]:
    return plain_losses(real_patches)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 2e-2)])
def test_300_steps_on_real_pairs_learn_what_a_plain_loop_learns(
    real_patches: Patches, plain: list[dict[str, float]], precision: str, tolerance: float
) -> None:
    losses = fast_losses(real_patches, precision)
    assert len(losses) == STEPS
    assert np.isfinite([list(step.values()) for step in losses]).all()
    for mine, other in zip(losses[:FIRST], plain[:FIRST], strict=True):
        assert mine == pytest.approx(other, rel=tolerance)
    l1, plain_l1 = ([step["l1_loss"] for step in steps] for steps in (losses, plain))
    assert np.mean(l1[-LAST:]) == pytest.approx(np.mean(plain_l1[-LAST:]), rel=0.02)
    assert np.mean(plain_l1[-LAST:]) < 0.8 * np.mean(plain_l1[:10]), "it must have learnt something"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_warm_up_leaves_the_state_as_it_was(patches: Patches, precision: str) -> None:
    state = TrainState(MODEL, dataclasses.replace(SETTINGS, precision=precision), CPU)
    loader, plan = BatchLoader(patches, CPU), plan_epoch(0, 1, len(patches), jitter_margin(64))
    run_step = batch_step(state, 100.0, 1, ProcessGroup())

    def batch(step: int) -> Batch:
        bits = dropout_bits(state.generator.dropout_shapes, 1, slice(0, 1), 0, step)
        return loader.batch(plan, slice(step, step + 1), bits)

    share = ProcessGroup().share_of(slice(0, 1))
    run_step(batch(0), share)
    before = [tensor.clone() for tensor in everything(state)]
    warm_up(state, run_step, batch(1), share)
    assert all(torch.equal(a, b) for a, b in zip(before, everything(state), strict=True))
    run_step(batch(1), share)
    assert not all(torch.equal(a, b) for a, b in zip(before, everything(state), strict=True))


def everything(state: TrainState) -> list[torch.Tensor]:
    """All tensors of a training, the compute copies of the weights included."""
    saved = [tensor for group in state.state_dict().values() for tensor in group.values()]
    return [
        t.detach() for t in (*saved, *state.compute_generator.parameters(), *state.compute_discriminator.parameters())
    ]
