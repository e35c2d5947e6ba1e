"""What is fast learns the same: the loop's own steps against plain PyTorch on real pairs."""

import functools
from collections.abc import Sequence
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
from gan.networks.generator import DownBlock, Generator, UpBlock
from gan.training.loop import Decision, LoggedStep, TrainingSettings, fit, learn_from
from gan.training.losses import discriminator_loss, generator_loss
from gan.training.process_group import ProcessGroup
from gan.training.state import ModelSettings, TrainState

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
        pair = read_pair((maps / "train" / f"{name}.jpg").read_bytes(), 64)
        halves = [np.ascontiguousarray(half[::4, ::4].transpose(2, 0, 1)) for half in pair]
        origins = [(row, column) for row in (0, 64) for column in (0, 22, 44, 86)]
        cut = [np.stack([half[:, r : r + 64, c : c + 64] for r, c in origins]) for half in halves]
        batches.append(patch_batch(PatchRows(f"{name}.jpg", origins, *cut)))
    return Patches([pa.Table.from_batches(batches)], "map_to_satellite")


class PlainDown(nn.Module):
    """The layers of a DownBlock through their own forward."""

    def __init__(self, block: DownBlock) -> None:
        super().__init__()
        self.conv, self.norm = block.conv, block.norm

    def forward(self, x: torch.Tensor, slopes: Sequence[float], side: None) -> list[torch.Tensor]:
        x = self.norm(self.conv(x))
        return [F.leaky_relu(x, slope) for slope in slopes]


class PlainUp(nn.Module):
    """The layers of an UpBlock through their own forward."""

    def __init__(self, block: UpBlock) -> None:
        super().__init__()
        self.conv, self.norm = block.conv, block.norm

    def forward(self, x: torch.Tensor, skip: torch.Tensor, mask: torch.Tensor | None, side: None) -> torch.Tensor:
        x = self.norm(self.conv(x))
        return torch.cat([skip, F.relu(x if mask is None else x * mask)], dim=1)


def plain_losses(patches: Patches) -> list[dict[str, float]]:
    """All losses of each step of a loop of torch.nn layers and torch.optim, all fp32, two passes backward."""
    generator, discriminator = Generator(MODEL.channels, 64), Discriminator(MODEL.channels, 16)
    draw_weights(generator, 0, 0)
    draw_weights(discriminator, 0, 1)
    generator.down = nn.ModuleList(PlainDown(block) for block in generator.down)  # type: ignore[arg-type]
    generator.up = nn.ModuleList(PlainUp(block) for block in generator.up)  # type: ignore[arg-type]
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
    state = TrainState(MODEL, 0, SETTINGS.learning_rate, precision, CPU)
    logged: list[LoggedStep] = []

    def note_epoch(step: LoggedStep, means: dict[str, float]) -> Decision:
        logged.append(step)
        return Decision.GO_ON

    stop = lambda: Decision.STOP if state.step == STEPS else Decision.GO_ON  # noqa: E731
    fit(state, patches, SETTINGS, decide=stop, on_step=logged.append, on_epoch=note_epoch)
    return [step.losses for step in logged]


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
def test_a_rehearsal_leaves_the_state_as_it_was(patches: Patches, precision: str) -> None:
    state = TrainState(MODEL, 0, 2e-4, precision, CPU)
    loader, plan = BatchLoader(patches, CPU), plan_epoch(0, 1, len(patches), jitter_margin(64))
    learn = functools.partial(learn_from, state=state, lambda_l1=100.0, group=ProcessGroup())

    def batch(step: int) -> Batch:
        bits = dropout_bits(state.generator.dropout_shapes, 1, slice(0, 1), 0, step)
        return loader.batch(plan, slice(step, step + 1), bits)

    learn(batch(0))
    before = [tensor.clone() for tensor in everything(state)]
    warm_up(state, learn, batch(1))
    assert all(torch.equal(a, b) for a, b in zip(before, everything(state), strict=True))
    learn(batch(1))
    assert not all(torch.equal(a, b) for a, b in zip(before, everything(state), strict=True))


def everything(state: TrainState) -> list[torch.Tensor]:
    """All tensors of a training, the rounded weights included."""
    saved = [tensor for group in state.state_dict().values() for tensor in group.values()]
    return [
        t.detach() for t in (*saved, *state.compute_generator.parameters(), *state.compute_discriminator.parameters())
    ]
