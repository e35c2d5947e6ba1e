"""The loop: what it learns from, and that its state is a function of the step alone."""

import copy
import hashlib
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

import gan.training.delayed_logger
import gan.training.step
from gan.data.epochs import steps_per_epoch
from gan.data.patches import Patches
from gan.data.pictures import decode_picture
from gan.data.randomness import dropout_bits, dropout_masks
from gan.evaluation.evaluate import evaluate, fixed_sample, generate
from gan.evaluation.grids import comparison_png
from gan.networks.model import ModelSettings
from gan.training.delayed_logger import DelayedLogger, LoggedStep
from gan.training.loop import BeforeStep, EpochEnd, fit
from gan.training.losses import discriminator_loss, generator_loss
from gan.training.process_group import ProcessGroup
from gan.training.settings import TrainingSettings
from gan.training.state import TrainState
from gan.training.step import train_step

CPU = torch.device("cpu")
MODEL = ModelSettings(channels=2, receptive_field=16, patch_size=64)


def settings(**changes: object) -> TrainingSettings:
    values = {
        "epochs": 2,
        "batch_size": 4,
        "lambda_l1": 100.0,
        "learning_rate": 2e-3,
        "seed": 0,
        "precision": "fp32",
        "log_every_n_steps": 2,
    }
    return TrainingSettings(**{**values, **changes})  # type: ignore[arg-type]


def new_state(seed: int = 0, precision: str = "fp32") -> TrainState:
    return TrainState(MODEL, settings(seed=seed, precision=precision), CPU)


def digest(state: TrainState) -> str:
    content = hashlib.sha256()
    for group, tensors in state.state_dict().items():
        for name, tensor in tensors.items():
            content.update(f"{group}.{name}".encode())
            content.update(tensor.detach().contiguous().numpy().tobytes())
    return content.hexdigest()


def train(
    state: TrainState, patches: Patches, chosen: TrainingSettings, stop_at: int = -1, stop_at_epoch_end: int = -1
) -> list[EpochEnd]:
    """Trains to the end, or stops before a step or at an epoch's end; the epochs that have ended."""
    ends: list[EpochEnd] = []
    for event in fit(state, patches, chosen):
        if isinstance(event, BeforeStep):
            assert (event.step, event.epoch) == (state.step, state.epoch)
            if event.step == stop_at:
                break
        elif isinstance(event, EpochEnd):
            ends.append(event)
            if event.last.epoch == stop_at_epoch_end:
                break
    return ends


def means_of(ends: list[EpochEnd]) -> list[dict[str, float]]:
    return [end.means for end in ends]


@pytest.fixture(scope="module")
def undisturbed(patches: Patches) -> tuple[str, list[dict[str, float]]]:
    """The digest of the state at the end, and the means of each epoch."""
    torch.set_num_threads(1)
    state = new_state()
    ends = train(state, patches, settings())
    assert (state.step, state.epoch) == (12, 3)
    return digest(state), means_of(ends)


@pytest.mark.parametrize("stop_at", range(1, 12))
def test_a_run_stopped_before_any_step_ends_with_the_same_state(
    patches: Patches, undisturbed: tuple[str, list[dict[str, float]]], stop_at: int
) -> None:
    first = new_state()
    ends = train(first, patches, settings(), stop_at)
    assert first.step == stop_at
    saved = copy.deepcopy(first.state_dict())
    second = new_state(seed=9)
    second.load_state_dict(saved)
    ends += train(second, patches, settings())
    assert (digest(second), means_of(ends)) == undisturbed


def test_epochs_may_grow_on_resume(patches: Patches, undisturbed: tuple[str, list[dict[str, float]]]) -> None:
    state = new_state()
    train(state, patches, settings(epochs=1))
    train(state, patches, settings(epochs=2))
    assert digest(state) == undisturbed[0]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_resume_to_the_same_bits_too(patches: Patches, precision: str) -> None:
    chosen = settings(precision=precision, epochs=1)
    whole = new_state(precision=precision)
    train(whole, patches, chosen)
    first = new_state(precision=precision)
    train(first, patches, chosen, stop_at=2)
    second = new_state(seed=9, precision=precision)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(second, patches, chosen)
    assert digest(second) == digest(whole)


def a_batch() -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Two pairs of noise, and dropout masks for them."""
    generator = torch.Generator().manual_seed(0)
    source, target = torch.rand(2, 2, 3, 64, 64, generator=generator) * 2 - 1
    shapes = new_state().generator.dropout_shapes
    return source, target, dropout_masks(torch.from_numpy(dropout_bits(shapes, 2, slice(0, 2), 0, 0)), shapes)


def test_both_gradients_are_taken_before_either_update() -> None:
    source, target, masks = a_batch()
    ours, plain = new_state(), new_state()
    losses = train_step(ours, source, target, masks, 100.0, ProcessGroup())

    fake = plain.generator(source, masks)
    fake_logits, real_logits = plain.discriminator(source, fake), plain.discriminator(source, target)
    for_generator = generator_loss(fake_logits, fake, target, 100.0)
    for_discriminator = discriminator_loss(real_logits, fake_logits)
    grad = torch.autograd.grad
    gradients = [
        grad(loss, list(network.parameters()), retain_graph=True)
        for loss, network in (
            (for_generator.total_gen_loss, plain.generator),
            (for_discriminator.total_disc_loss, plain.discriminator),
        )
    ]
    for network, values in zip((plain.generator, plain.discriminator), gradients, strict=True):
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-3, betas=(0.5, 0.999))
        for parameter, gradient in zip(network.parameters(), values, strict=True):
            parameter.grad = gradient
        optimizer.step()
    torch.testing.assert_close(losses, torch.stack([*for_generator, *for_discriminator]).detach())
    for network in ("generator", "discriminator"):
        for mine, other in zip(getattr(ours, network).parameters(), getattr(plain, network).parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "network"), [("generator_loss", "generator"), ("discriminator_loss", "discriminator")]
)
def test_a_change_of_a_losss_definition_changes_what_is_learned(
    name: str, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target, masks = a_batch()

    def learned() -> list[torch.Tensor]:
        state = new_state()
        for _ in range(2):  # Adam's first step tells the sign of a gradient only
            train_step(state, source, target, masks, 100.0, ProcessGroup())
        return [parameter.detach() for parameter in getattr(state, network).parameters()]

    before = learned()
    defined = getattr(gan.training.step, name)

    def squared(*arguments: object) -> object:
        loss = defined(*arguments)
        return loss._replace(**{loss._fields[0]: loss[0] ** 2})

    monkeypatch.setattr(gan.training.step, name, squared)
    assert not all(torch.equal(a, b) for a, b in zip(before, learned(), strict=True))


def test_every_patch_is_used_once_an_epoch_and_the_last_smaller_batch_is_kept(patches: Patches) -> None:
    used: list[int] = []

    class Watching:
        patch_size = patches.patch_size

        def __len__(self) -> int:
            return len(patches)

        def __getitem__(self, indices: object) -> object:
            used.extend(indices)  # type: ignore[call-overload]
            return patches[indices]  # type: ignore[index]

    state = new_state()
    train(state, Watching(), settings(epochs=1))  # type: ignore[arg-type]
    assert sorted(used) == list(range(22))
    assert state.step == 6


@pytest.mark.parametrize(("num_patches", "batch_size", "steps"), [(22, 4, 6), (21, 4, 6), (20, 4, 5), (3, 4, 1)])
def test_steps_an_epoch(num_patches: int, batch_size: int, steps: int) -> None:
    assert steps_per_epoch(num_patches, batch_size) == steps


def test_a_run_stopped_at_an_epochs_end_gets_that_epochs_end_again(
    patches: Patches, undisturbed: tuple[str, list[dict[str, float]]]
) -> None:
    first, second = new_state(), new_state(seed=9)
    before = train(first, patches, settings(), stop_at_epoch_end=1)
    assert (first.step, first.epoch, first.epoch_step) == (6, 1, 6)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    after = train(second, patches, settings())
    assert [end.last.step for end in (*before, *after)] == [6, 6, 12]
    assert before[0].last.losses == after[0].last.losses
    assert (digest(second), means_of(after)) == undisturbed
    assert before[0].means == after[0].means


def test_an_epoch_with_no_step_left_is_ended_first(patches: Patches) -> None:
    state = new_state()
    train(state, patches, settings(), stop_at=5)
    few = settings(batch_size=5)  # five steps an epoch, of which five are done
    assert [end.last.step for end in train(state, patches, few)] == [5, 10]


@pytest.mark.parametrize("log_every", [1, 2, 3])
def test_rows_that_come_later_are_the_same_and_come_before_what_is_done_with_the_state(
    patches: Patches, log_every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def logged(steps_ahead: int) -> tuple[list[tuple[int, dict[str, float]]], list[tuple[str, int, int]]]:
        monkeypatch.setitem(gan.training.delayed_logger.STEPS_AHEAD, "cpu", steps_ahead)
        state, rows, order = new_state(), list[tuple[int, dict[str, float]]](), list[tuple[str, int, int]]()

        def write(row: LoggedStep) -> None:
            rows.append((row.step, row.losses))
            order.append(("row", state.step, row.step))

        logger = DelayedLogger(CPU, write)
        for event in fit(state, patches, settings(epochs=2, log_every_n_steps=log_every)):
            if isinstance(event, LoggedStep):
                logger.add(event)
                continue
            if isinstance(event, BeforeStep) and event.step not in (4, 5):
                logger.write_due(event.step)
                continue
            logger.flush()
            order.append(("epoch" if isinstance(event, EpochEnd) else "save", state.step, len(rows)))
        return rows, order

    rows, order = logged(0)
    later_rows, later_order = logged(3)
    assert later_rows == rows
    assert all(step == row for kind, step, row in order if kind == "row")
    assert any(step > row for kind, step, row in later_order if kind == "row")
    assert all(0 <= step - row <= 3 for kind, step, row in later_order if kind == "row")
    assert [entry for entry in later_order if entry[0] != "row"] == [entry for entry in order if entry[0] != "row"]


def test_epoch_means_are_over_the_epochs_pictures(patches: Patches) -> None:
    events = list(fit(new_state(), patches, settings(epochs=1, log_every_n_steps=1)))
    steps = [event for event in events if isinstance(event, LoggedStep)]
    ((last, means),) = [event for event in events if isinstance(event, EpochEnd)]
    assert [logged.step for logged in steps] == [1, 2, 3, 4, 5]
    assert last.step == 6
    weighted = [4 * logged.losses["l1_loss"] for logged in steps] + [2 * last.losses["l1_loss"]]
    assert means["l1_loss"] == pytest.approx(sum(weighted) / 22, rel=1e-6)


def test_the_learning_rate_falls_between_two_explicit_epochs() -> None:
    decaying = settings(learning_rate=1.0, decay_start_epoch=100, decay_end_epoch=200)
    rates = [decaying.learning_rate_at(epoch) for epoch in (1, 100, 101, 150, 200, 201, 300)]
    assert rates == pytest.approx([1, 1, 100 / 101, 51 / 101, 1 / 101, 0, 0])
    assert settings(learning_rate=1.0).learning_rate_at(1000) == 1.0


@pytest.mark.parametrize("mode", ["study", "eval"])
def test_evaluation_and_pictures_leave_the_state_untouched(patches: Patches, mode: str) -> None:
    state = new_state()
    train(state, patches, settings(epochs=1))
    before = digest(state)
    first = evaluate(state.generator, patches, fixed_sample(len(patches), 5), mode, CPU)
    png = comparison_png(generate(state.generator, patches, [0, 7], mode, CPU))
    assert digest(state) == before
    assert evaluate(state.generator, patches, fixed_sample(len(patches), 5), mode, CPU) == first
    assert decode_picture(png).shape == (2 * 68 + 4, 3 * 68 + 4, 3)
    for summary in first.values():
        assert summary.min <= summary.mean <= summary.max


def test_an_evaluation_between_two_steps_changes_nothing_of_what_is_learned(
    patches: Patches, undisturbed: tuple[str, list[dict[str, float]]]
) -> None:
    state = new_state()
    for event in fit(state, patches, settings()):
        if isinstance(event, BeforeStep) and event.step in (3, 7):
            for mode in ("eval", "study"):
                evaluate(state.compute_generator, patches, [0, 5], mode, CPU)
    assert digest(state) == undisturbed[0]


def test_the_two_modes_of_evaluation_differ(patches: Patches) -> None:
    state = new_state()
    train(state, patches, settings(epochs=1))
    study, eval_ = (evaluate(state.generator, patches, [0, 1], mode, CPU) for mode in ("study", "eval"))
    assert study["l1"].mean != eval_["l1"].mean


def test_a_state_that_does_not_fit_is_refused() -> None:
    saved = copy.deepcopy(new_state().state_dict())
    del saved["generator_optimizer"]["last.weight.exp_avg"]
    with pytest.raises(KeyError, match=r"last\.weight\.exp_avg"):
        new_state().load_state_dict(saved)


def train_one_of_two(rank: int, path: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    state = new_state()
    group = ProcessGroup(rank, 2, dist.new_group(backend="gloo"))
    for _ in fit(state, Patches.open(path, "train"), settings(epochs=1), group=group):
        pass
    torch.save(state.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_hold_the_same_state_and_learn_from_the_mean_gradient(
    patches: Patches, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = next(tmp_path_factory.getbasetemp().glob("patches*"))
    multiprocessing.spawn(train_one_of_two, args=(str(store), str(tmp_path)), nprocs=2)
    states = [new_state(), new_state()]
    for rank, state in enumerate(states):
        state.load_state_dict(torch.load(tmp_path / f"{rank}.pt", weights_only=True))
    assert digest(states[0]) == digest(states[1])
    assert states[0].step == 6
