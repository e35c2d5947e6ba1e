"""The loop: what it learns from, and that its state is a function of the step alone."""

import copy
import hashlib
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

import gan.training.loop
from gan.data.patches import Patches
from gan.data.pictures import decode_picture
from gan.data.randomness import dropout_bits, dropout_masks
from gan.evaluation.evaluate import evaluate, fixed_sample, generate
from gan.evaluation.grids import comparison_png
from gan.training.epochs import steps_per_epoch
from gan.training.loop import Decision, LoggedStep, TrainingSettings, fit
from gan.training.losses import discriminator_loss, generator_loss
from gan.training.process_group import ProcessGroup
from gan.training.state import ModelSettings, TrainState
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
    return TrainState(MODEL, seed, 2e-3, precision, CPU)


def digest(state: TrainState) -> str:
    content = hashlib.sha256()
    for group, tensors in state.state_dict().items():
        for name, tensor in tensors.items():
            content.update(f"{group}.{name}".encode())
            content.update(tensor.detach().contiguous().numpy().tobytes())
    return content.hexdigest()


class Means:
    """Collects what `on_epoch` is told."""

    def __init__(self) -> None:
        self.means: list[dict[str, float]] = []

    def __call__(self, logged: LoggedStep, means: dict[str, float]) -> Decision:
        self.means.append(means)
        return Decision.GO_ON


@pytest.fixture(scope="module")
def undisturbed(patches: Patches) -> tuple[str, list[dict[str, float]]]:
    """The digest of the state at the end, and the means of each epoch."""
    torch.set_num_threads(1)
    state, epochs = new_state(), Means()
    assert fit(state, patches, settings(), on_epoch=epochs)
    assert state.step == 12
    return digest(state), epochs.means


@pytest.mark.parametrize("stop_at", range(1, 12))
def test_a_run_stopped_before_any_step_ends_with_the_same_state(
    patches: Patches, undisturbed: tuple[str, list[dict[str, float]]], stop_at: int
) -> None:
    first, epochs = new_state(), Means()

    def stop() -> Decision:
        return Decision.STOP if first.step == stop_at else Decision.GO_ON

    assert not fit(first, patches, settings(), decide=stop, on_epoch=epochs)
    assert first.step == stop_at
    saved = copy.deepcopy(first.state_dict())
    second = new_state(seed=9)
    second.load_state_dict(saved)
    assert fit(second, patches, settings(), on_epoch=epochs)
    assert (digest(second), epochs.means) == undisturbed


def test_epochs_may_grow_on_resume(patches: Patches, undisturbed: tuple[str, list[dict[str, float]]]) -> None:
    state = new_state()
    fit(state, patches, settings(epochs=1))
    fit(state, patches, settings(epochs=2))
    assert digest(state) == undisturbed[0]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_resume_to_the_same_bits_too(patches: Patches, precision: str) -> None:
    chosen = settings(precision=precision, epochs=1)
    whole = new_state(precision=precision)
    fit(whole, patches, chosen)
    first = new_state(precision=precision)
    fit(first, patches, chosen, decide=lambda: Decision.STOP if first.step == 2 else Decision.GO_ON)
    second = new_state(seed=9, precision=precision)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    fit(second, patches, chosen)
    assert digest(second) == digest(whole)


def test_both_gradients_are_taken_before_either_update() -> None:
    generator = torch.Generator().manual_seed(0)
    source, target = torch.rand(2, 2, 3, 64, 64, generator=generator) * 2 - 1
    ours, plain = new_state(), new_state()
    shapes = ours.generator.dropout_shapes
    masks = dropout_masks(torch.from_numpy(dropout_bits(shapes, 2, slice(0, 2), 0, 0)), shapes)
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
    fit(state, Watching(), settings(epochs=1))  # type: ignore[arg-type]
    assert sorted(used) == list(range(22))
    assert state.step == 6


@pytest.mark.parametrize(
    ("num_patches", "batch_size", "workers", "steps"), [(22, 4, 1, 6), (22, 4, 2, 6), (21, 4, 2, 5), (3, 4, 1, 1)]
)
def test_steps_an_epoch(num_patches: int, batch_size: int, workers: int, steps: int) -> None:
    assert steps_per_epoch(num_patches, batch_size, workers) == steps


def test_a_run_stopped_at_an_epochs_end_tells_of_that_epoch_again(
    patches: Patches, undisturbed: tuple[str, list[dict[str, float]]]
) -> None:
    first, second, told = new_state(), new_state(seed=9), []
    acted: list[tuple[Decision, int]] = []

    def stop(logged: LoggedStep, means: dict[str, float]) -> Decision:
        told.append((logged, means))
        return Decision.STOP

    assert not fit(first, patches, settings(), on_epoch=stop, act=lambda decision: acted.append((decision, first.step)))
    assert acted == [(Decision.STOP, 6)]
    second.load_state_dict(copy.deepcopy(first.state_dict()))

    def go_on(logged: LoggedStep, means: dict[str, float]) -> Decision:
        told.append((logged, means))
        return Decision.GO_ON

    assert fit(second, patches, settings(), on_epoch=go_on)
    assert [logged.step for logged, _ in told] == [6, 6, 12]
    assert told[0] == told[1]
    assert (digest(second), [means for _, means in told[1:]]) == undisturbed


def test_an_epoch_with_no_step_left_is_ended_first(patches: Patches) -> None:
    state = new_state()
    fit(state, patches, settings(), decide=lambda: Decision.STOP if state.step == 5 else Decision.GO_ON)
    ended: list[int] = []

    def note(logged: LoggedStep, means: dict[str, float]) -> Decision:
        ended.append(logged.step)
        return Decision.GO_ON

    few = settings(batch_size=5)  # five steps an epoch, of which five are done
    assert fit(state, patches, few, on_epoch=note)
    assert ended == [5, 10]


@pytest.mark.parametrize("log_every", [1, 2, 3])
def test_rows_that_come_later_are_the_same_and_come_before_what_is_done_with_the_state(
    patches: Patches, log_every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(ahead: int) -> tuple[list[LoggedStep], list[tuple[str, int, int]]]:
        monkeypatch.setitem(gan.training.loop.STEPS_AHEAD, "cpu", ahead)
        state, rows, order = new_state(), list[LoggedStep](), list[tuple[str, int, int]]()

        def on_step(logged: LoggedStep) -> None:
            rows.append(logged)
            order.append(("row", state.step, logged.step))

        def on_epoch(logged: LoggedStep, means: dict[str, float]) -> Decision:
            order.append(("epoch", state.step, len(rows)))
            return Decision.GO_ON

        fit(
            state, patches, settings(epochs=2, log_every_n_steps=log_every),
            decide=lambda: Decision.SAVE if state.step in (4, 5) else Decision.GO_ON,
            act=lambda decision: order.append(("save", state.step, len(rows))),
            on_step=on_step,
            on_epoch=on_epoch,
        )  # fmt: skip
        return rows, order

    rows, order = told(0)
    later_rows, later_order = told(3)
    assert later_rows == rows
    assert all(step == row for kind, step, row in order if kind == "row")
    assert any(step > row for kind, step, row in later_order if kind == "row")
    assert all(0 <= step - row <= 3 for kind, step, row in later_order if kind == "row")
    assert [entry for entry in later_order if entry[0] != "row"] == [entry for entry in order if entry[0] != "row"]


def test_epoch_means_are_over_the_epochs_pictures(patches: Patches) -> None:
    steps: list[LoggedStep] = []
    epochs: list[tuple[LoggedStep, dict[str, float]]] = []

    def note(logged: LoggedStep, means: dict[str, float]) -> Decision:
        epochs.append((logged, means))
        return Decision.GO_ON

    fit(new_state(), patches, settings(epochs=1, log_every_n_steps=1), on_step=steps.append, on_epoch=note)
    ((last, means),) = epochs
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
    fit(state, patches, settings(epochs=1))
    before = digest(state)
    first = evaluate(state.generator, patches, fixed_sample(len(patches), 5), mode, CPU)
    png = comparison_png(generate(state.generator, patches, [0, 7], mode, CPU))
    assert digest(state) == before
    assert evaluate(state.generator, patches, fixed_sample(len(patches), 5), mode, CPU) == first
    assert decode_picture(png).shape == (2 * 68 + 4, 3 * 68 + 4, 3)
    for summary in first.values():
        assert summary.min <= summary.mean <= summary.max


def test_the_two_modes_of_evaluation_differ(patches: Patches) -> None:
    state = new_state()
    fit(state, patches, settings(epochs=1))
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
    fit(
        state,
        Patches.open(path, "train"),
        settings(epochs=1),
        group=ProcessGroup(rank, 2, dist.new_group(backend="gloo")),
    )
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
