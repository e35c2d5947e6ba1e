"""Several workers learn what one learns, whatever their number, but for rounding."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn

from gan.data.patches import Patches
from gan.networks.model import ModelSettings
from gan.networks.norm import BatchNorm, whole_batch
from gan.training.loop import BeforeStep, fit
from gan.training.process_group import ProcessGroup
from gan.training.settings import TrainingSettings
from gan.training.state import TrainState

CPU = torch.device("cpu")


def losses_of(path: str, group: ProcessGroup, dtype: torch.dtype, steps: int, norm: str, batch_size: int) -> Tensor:
    """The losses of each of some steps."""
    torch.set_num_threads(1)
    torch.set_default_dtype(dtype)
    settings = TrainingSettings(
        epochs=100, batch_size=batch_size, lambda_l1=100.0, learning_rate=2e-4, seed=0, precision="fp32",
        log_every_n_steps=1000,
    )  # fmt: skip
    state = TrainState(ModelSettings(2, 16, 64, norm), settings, CPU)
    rows: list[Tensor] = []
    for event in fit(state, Patches.open(path, "train"), settings, group=group):
        if isinstance(event, BeforeStep) and event.step:
            rows.append(state.losses.clone())
            if event.step == steps:
                break
    statistics = [buffer.flatten() for buffer in state.generator.buffers() if buffer.is_floating_point()]
    torch.set_default_dtype(torch.float32)
    return torch.cat([torch.stack(rows).flatten(), *statistics])


def train_one(rank: int, world_size: int, folder: str, *arguments: object) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size)
    group = ProcessGroup(rank, world_size, dist.new_group(backend="gloo"))
    path, *others = arguments
    torch.save(losses_of(path, group, *others), f"{folder}/{rank}.pt")  # type: ignore[arg-type]
    dist.destroy_process_group()


@pytest.fixture
def store(patches: Patches, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(next(tmp_path_factory.getbasetemp().glob("patches*")))


# Of 22 patches the last batch has 2 with batches of 4, 1 with batches of 3, and 2 with batches of 5.
@pytest.mark.parametrize(
    ("dtype", "steps", "tolerance", "norm", "workers", "batch_size"),
    [
        (torch.float64, 50, 1e-9, "batch", 2, 4),
        (torch.float32, 10, 1e-3, "batch", 2, 3),
        (torch.float64, 12, 1e-9, "batch", 3, 5),
        (torch.float64, 12, 1e-9, "instance", 2, 3),
    ],
)
def test_several_workers_follow_one(
    store: str, tmp_path: Path, dtype: torch.dtype, steps: int, tolerance: float, norm: str, workers: int,
    batch_size: int,
) -> None:  # fmt: skip
    arguments = store, dtype, steps, norm, batch_size
    multiprocessing.spawn(train_one, args=(workers, str(tmp_path), *arguments), nprocs=workers)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(workers)]
    wanted = losses_of(store, ProcessGroup(), dtype, steps, norm, batch_size)
    assert all(torch.equal(other, found[0]) for other in found)
    torch.testing.assert_close(found[0], wanted, rtol=tolerance, atol=tolerance)


def test_the_shares_of_a_batch_are_its_pictures_and_a_worker_without_one_counts_for_nothing() -> None:
    for num_pictures in range(1, 9):
        shares = [ProcessGroup(rank, 3).share_of(slice(10, 10 + num_pictures)) for rank in range(3)]
        counted = [range(s.positions.start, s.positions.stop) for s in shares if s.num_counted]
        assert [place for places in counted for place in places] == list(range(10, 10 + num_pictures))
        assert all(10 <= s.positions.start < s.positions.stop <= 10 + num_pictures for s in shares)
        assert sum(s.weight for s in shares) == pytest.approx(1)
        assert max(s.num_counted for s in shares) - min(s.num_counted for s in shares) <= 1


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_the_norm_over_the_whole_batch_is_torchs_forward_backward_and_in_eval_mode() -> None:
    ours, torchs = BatchNorm(3).double(), nn.BatchNorm2d(3).double()
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    with whole_batch(ours, counted=True):
        found = ours(x)
    wanted = torchs(x)
    weights = torch.arange(300).view_as(x).double().sin()
    by_found, by_wanted = (
        torch.autograd.grad((y * weights).sum(), [x, *norm.parameters()])
        for y, norm in ((found, ours), (wanted, torchs))
    )
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(by_found, by_wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.eval()(x), torchs.eval()(x), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("alone")
def test_statistics_are_fp32_whatever_the_precision() -> None:
    # A mean that is large against the spread: in bf16 the spread of the squares would be lost.
    x = (torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 8).bfloat16()
    norm = BatchNorm(3)
    with whole_batch(norm, counted=True):
        assert norm(x).dtype == torch.bfloat16
    assert norm.running_var is not None
    variance = x.double().var((0, 2, 3))
    torch.testing.assert_close(norm.running_var.double(), 0.9 + 0.1 * variance, rtol=1e-5, atol=1e-6)
