"""What only a GPU can show: `python -m pytest tests/on_gpu.py`, on a machine that has one.

The graph computes what the same step does without one, a resumed training has the same bits, and the kernels
are PyTorch's layers to rounding.
"""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gan.gpu.cuda_graph
from benchmarks.train_step import NoisePatches
from gan.data.batches import BatchLoader
from gan.data.jitter import jitter_batch, jitter_pair
from gan.data.patches import Patches
from gan.data.randomness import dropout_bits, dropout_masks, plan_epoch
from gan.gpu.availability import has_kernels
from gan.gpu.cuda_graph import warm_up
from gan.gpu.networks import batch_norm_act, downsample, upsample
from gan.gpu.step import gpu_train_step
from gan.gpu.streams import LOW_PRIORITY, SideStream, StepStreams
from gan.networks.discriminator import Discriminator
from gan.networks.model import ModelSettings
from gan.networks.precision import low_precision_copy
from gan.training.computation import batch_step
from gan.training.loop import BeforeStep, fit
from gan.training.optimizer import BETAS, EPSILON, Adam
from gan.training.process_group import ProcessGroup
from gan.training.settings import TrainingSettings
from gan.training.state import TrainState
from gan.training.step import train_step
from runner.trial.runtime import RuntimeSettings, set_up_torch

GPU = torch.device("cuda", 0)
MODEL = ModelSettings(channels=16, patch_size=256)
PRECISIONS = ["bf16", "fp16", "fp32"]


@pytest.fixture(autouse=True, scope="module")
def deterministic() -> None:
    set_up_torch(RuntimeSettings(1, "bf16", ""), deterministic=True)


def settings(precision: str, batch_size: int) -> TrainingSettings:
    return TrainingSettings(
        epochs=100, batch_size=batch_size, lambda_l1=100.0, learning_rate=2e-4, seed=0, precision=precision,
        log_every_n_steps=7,
    )  # fmt: skip


def new_state(precision: str) -> TrainState:
    return TrainState(MODEL, settings(precision, 1), GPU)


def train(state: TrainState, precision: str, batch_size: int, until: int) -> dict[str, torch.Tensor]:
    """Trains up to a step, on patches whose last batch in an epoch is smaller; all tensors of the state."""
    patches = NoisePatches(5 * batch_size + batch_size // 2)
    for event in fit(state, patches, settings(precision, batch_size), resident_bytes=10**9):  # type: ignore[arg-type]
        if isinstance(event, BeforeStep) and event.step >= until:
            break
    return everything(state)


def everything(state: TrainState) -> dict[str, torch.Tensor]:
    saved = {f"{group}.{name}": t for group, tensors in state.state_dict().items() for name, t in tensors.items()}
    saved |= {f"compute.{name}": t for name, t in state.compute_generator.named_parameters()}
    return {name: t.detach().clone() for name, t in saved.items()}


def different(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    return [name for name in a if not torch.equal(a[name], b[name])]


@pytest.mark.parametrize(("precision", "batch_size"), [*itertools.product(PRECISIONS, [1, 4])])
def test_a_resumed_training_and_one_without_the_graph_have_the_same_bits(
    precision: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = train(new_state(precision), precision, batch_size, 14)
    first, second = new_state(precision), new_state(precision)
    train(first, precision, batch_size, 6)
    second.load_state_dict(first.state_dict())
    assert different(undisturbed, train(second, precision, batch_size, 14)) == []
    monkeypatch.setattr(gan.gpu.cuda_graph, "uses_cuda_graph", lambda *_: False)
    assert different(undisturbed, train(new_state(precision), precision, batch_size, 14)) == []


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_warm_up_leaves_the_state_as_it_was(precision: str) -> None:
    state = new_state(precision)
    before = train(state, precision, 1, 2)
    loader, plan = BatchLoader(NoisePatches(4), GPU), plan_epoch(0, 1, 4, 30)  # type: ignore[arg-type]
    bits = dropout_bits(state.generator.dropout_shapes, 1, slice(0, 1), 0, 2)
    run_step = batch_step(state, 100.0, 1, ProcessGroup())
    warm_up(state, run_step, loader.batch(plan, slice(2, 3), bits), ProcessGroup().share_of(slice(2, 3)))
    assert different(before, everything(state)) == []


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 5e-3), ("bf16", 5e-2)])
def test_the_step_learns_what_the_plain_step_learns(precision: str, tolerance: float) -> None:
    plain, fast = new_state(precision), new_state(precision)
    shapes = plain.generator.dropout_shapes
    for step in range(3):
        random = torch.Generator().manual_seed(step)
        source, target = (torch.rand(2, 2, 3, 256, 256, generator=random) * 2 - 1).to(GPU)
        masks = dropout_masks(torch.from_numpy(dropout_bits(shapes, 2, slice(0, 2), 0, step)).to(GPU), shapes)
        wanted = train_step(plain, source, target, masks, 100.0, ProcessGroup())
        found = gpu_train_step(fast, StepStreams.on(GPU), source, target, masks, 100.0, ProcessGroup())
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def pictures(*shape: int, kind: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(GPU, kind)
    return values.contiguous(memory_format=torch.channels_last)


def test_this_gpu_runs_the_kernels() -> None:
    assert has_kernels(GPU)


@pytest.mark.parametrize(
    "size", [(1, 512, 2, 2), (1, 64, 128, 128), (1, 512, 31, 31), (10, 64, 128, 128), (3, 24, 8, 4)]
)
@pytest.mark.parametrize(("slopes", "masked"), [([0.2, 0.0], False), ([0.2], False), ([0.0], True)])
def test_normalised_activations_are_pytorchs(size: tuple[int, ...], slopes: list[float], masked: bool) -> None:
    x = (3 * pictures(*size) + 1).requires_grad_()
    norm, plain = nn.BatchNorm2d(size[1]).to(GPU), nn.BatchNorm2d(size[1]).to(GPU)
    nn.init.normal_(norm.bias)
    plain.load_state_dict(norm.state_dict())
    mask = (2 * (torch.rand(size, device=GPU) > 0.5)).to(torch.uint8) if masked else None
    given = [pictures(size[0], 2 * size[1], *size[2:], seed=1 + i)[:, size[1] :] for i in range(len(slopes))]
    y = plain(x) if mask is None else plain(x) * mask
    expected = [F.leaky_relu(y, slope) for slope in slopes]
    results = batch_norm_act(norm, x, slopes, mask)
    torch.testing.assert_close(results, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close([*norm.buffers()], [*plain.buffers()], rtol=1e-4, atol=1e-5)
    found = torch.autograd.grad(results, [x, norm.weight, norm.bias], given)
    wanted = torch.autograd.grad(expected, [x, plain.weight, plain.bias], given)
    for mine, other in zip(found, wanted, strict=True):
        assert float((mine - other).norm() / other.norm()) < 1e-4


def test_a_skip_connections_channels_come_first() -> None:
    norm, size = nn.BatchNorm2d(64).to(GPU), (2, 64, 32, 32)
    x, skip = pictures(*size).requires_grad_(), pictures(*size, seed=1).requires_grad_()
    expected = torch.cat([skip, F.relu(norm(x))], dim=1)
    (result,) = batch_norm_act(norm, x, [0.0], None, skip)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    given = pictures(*expected.shape, seed=2)
    found, wanted = (torch.autograd.grad(y, [x, skip, norm.weight, norm.bias], given) for y in (result, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_jitter_is_grid_samples() -> None:
    numbers = torch.Generator().manual_seed(0)
    source, target = torch.randint(0, 256, (2, 5, 3, 256, 256), generator=numbers, dtype=torch.uint8).to(GPU)
    places = torch.tensor([[3, 0, 4], [0, 30, 3], [30, 2, 0], [1, 0, 1]], device=GPU)
    indices, *draws = places.unbind()
    expected = jitter_pair(source[indices], target[indices], *draws)
    torch.testing.assert_close(jitter_batch(source, target, places), expected, rtol=0, atol=5e-4)


@pytest.mark.parametrize("size", [(1, 512, 2, 2), (1, 512, 16, 16), (4, 64, 8, 8), (1, 16, 128, 128)])
def test_products_are_convolutions_and_so_are_gradients_beside_one_another(size: tuple[int, ...]) -> None:
    x, weight = pictures(*size).requires_grad_(), pictures(32, size[1], 4, 4, seed=1).requires_grad_()
    up, bias = pictures(size[1], 32, 4, 4, seed=2).requires_grad_(), torch.randn(32, device=GPU, requires_grad=True)
    stream = SideStream(GPU, LOW_PRIORITY)
    for mine, other, parameters in (
        (downsample(x, weight), F.conv2d(x, weight, stride=2, padding=1), [weight]),
        (downsample(x, weight, stream), F.conv2d(x, weight, stride=2, padding=1), [weight]),
        (upsample(x, up), F.conv_transpose2d(x, up, stride=2, padding=1), [up]),
        (upsample(x, up, stream=stream), F.conv_transpose2d(x, up, stride=2, padding=1), [up]),
        (upsample(x, up, bias, stream), F.conv_transpose2d(x, up, bias, stride=2, padding=1), [up, bias]),
    ):
        given = pictures(*other.shape, seed=3)
        found, wanted = (torch.autograd.grad(y, [x, *parameters], given) for y in (mine, other))
        stream.join()
        pairs = zip([mine, *found], [other, *wanted], strict=True)
        for a, b in pairs:
            assert float((a - b).detach().norm() / b.detach().norm()) < 2e-3  # TF32 may be on


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_updates_are_adams(precision: str) -> None:
    ours, plain = Discriminator(8, 70).to(GPU), Discriminator(8, 70).to(GPU)
    ours.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plain.load_state_dict(ours.state_dict())
    low = low_precision_copy(ours, precision)
    adam = Adam(ours, low, 2e-2)
    theirs = torch.optim.Adam(plain.parameters(), lr=2e-2, betas=BETAS, eps=EPSILON)
    for _ in range(3):
        values = {name: torch.randn_like(parameter) for name, parameter in low.named_parameters()}
        adam.begin_update()
        adam.update(values)
        for name, parameter in plain.named_parameters():
            parameter.grad = values[name].float()
        theirs.step()
    for mine, other, copied in zip(ours.parameters(), plain.parameters(), low.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
        assert torch.equal(copied, mine.to(copied.dtype))


def test_patches_stay_on_the_gpu_and_are_those_of_the_store(patches: Patches) -> None:
    plan = plan_epoch(0, 1, len(patches), 8)
    bits = dropout_bits([(8, 2, 2)], 2, slice(0, 2), 0, 0)
    resident, read = BatchLoader(patches, GPU, 10**9), BatchLoader(patches, GPU)
    for start in range(0, len(patches), 2):
        stays, comes = (loader.batch(plan, slice(start, start + 2), bits).on(GPU) for loader in (resident, read))
        assert (len(stays.source), len(comes.source)) == (len(patches), 2)
        for mine, other in zip(stays[:2], comes[:2], strict=True):
            assert mine.is_cuda
            assert torch.equal(mine[stays.places[0]], other[comes.places[0]])
