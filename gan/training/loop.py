"""The training loop. State at step k is a function of settings, data, seed and k alone."""

from collections.abc import Iterator
from typing import NamedTuple

from gan.data.batches import BatchLoader
from gan.data.epochs import steps_per_epoch
from gan.data.jitter import jitter_margin
from gan.data.patches import Patches
from gan.data.randomness import EpochPlan, dropout_bits, plan_epoch
from gan.training.computation import RunStep, batch_step
from gan.training.delayed_logger import LoggedStep
from gan.training.process_group import ProcessGroup
from gan.training.settings import TrainingSettings
from gan.training.state import TrainState


class BeforeStep(NamedTuple):
    """The next step is still to come: a moment to save the state, or to leave the loop for good."""

    step: int
    epoch: int


class EpochEnd(NamedTuple):
    """An epoch's last step is done, and the state still stands there.

    Whoever leaves the loop here, and goes on from the state as it is, gets the same event again.

    Attributes:
        last: the epoch's last step.
        means: the six losses' means over the epoch's pictures.
    """

    last: LoggedStep
    means: dict[str, float]


Event = BeforeStep | LoggedStep | EpochEnd


def fit(
    state: TrainState,
    patches: Patches,
    settings: TrainingSettings,
    *,
    group: ProcessGroup = ProcessGroup(),  # noqa: B008 - frozen
    resident_bytes: int = 0,
) -> Iterator[Event]:
    """Trains from where the state is to the end of `settings.epochs`, one event after another.

    All workers get the same events. Each step begins with a BeforeStep. Every `log_every_n_steps` it ends with a
    LoggedStep, and an epoch's last one with an EpochEnd instead. Nothing is computed while the caller has an event.

        for event in fit(state, patches, settings):
            if isinstance(event, EpochEnd):
                print(event.last.epoch, event.means)

    Args:
        state: changed in place; all workers hold the same.
        resident_bytes: see `gan.data.batches.BatchLoader`.

    Raises:
        ValueError: there are fewer patches than workers.
    """
    loader = BatchLoader(patches, state.device, resident_bytes)
    run_step = batch_step(state, settings.lambda_l1, settings.batch_size, group, settings.gan_loss)
    num_steps = steps_per_epoch(len(patches), settings.batch_size)
    if len(patches) < group.world_size:
        raise ValueError(f"{len(patches)} patches are too few for {group.world_size} workers")

    while state.epoch <= settings.epochs:
        plan = plan_epoch(settings.seed, state.epoch, len(patches), jitter_margin(patches.patch_size))
        state.set_learning_rates(
            settings.learning_rate_at(state.epoch), settings.discriminator_learning_rate_at(state.epoch)
        )

        for _ in range(state.epoch_step, num_steps):
            yield BeforeStep(state.step, state.epoch)
            _take_step(state, loader, run_step, plan, settings, group)
            if state.epoch_step < num_steps and state.step % settings.log_every_n_steps == 0:
                yield LoggedStep(state)

        yield EpochEnd(LoggedStep(state), state.epoch_means())
        state.begin_next_epoch()


def _take_step(
    state: TrainState,
    loader: BatchLoader,
    run_step: RunStep,
    plan: EpochPlan,
    settings: TrainingSettings,
    group: ProcessGroup,
) -> None:
    """Brings the batch that the state's position in the epoch points at, and steps over it."""
    start = state.epoch_step * settings.batch_size
    batch = slice(start, min(start + settings.batch_size, len(plan.indices)))
    share = group.share_of(batch)
    positions = share.positions
    share_of_batch = slice(positions.start - batch.start, positions.stop - batch.start)

    # Dropout is drawn for the whole batch, so that its masks are the same for any number of workers.
    shapes = state.generator.dropout_shapes
    bits = dropout_bits(shapes, batch.stop - batch.start, share_of_batch, settings.seed, state.step)
    run_step(loader.batch(plan, positions, bits), share)
    state.step += 1
    state.epoch_step += 1
