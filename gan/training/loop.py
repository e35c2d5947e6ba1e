"""The training loop. State at step k is a function of settings, data, seed and k alone."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import torch

from gan.data.batches import Batch, BatchLoader
from gan.data.jitter import jitter_batch, jitter_margin
from gan.data.patches import Patches
from gan.data.randomness import EpochPlan, dropout_bits, dropout_masks, plan_epoch
from gan.gpu.cuda_graph import GraphedStep, runs_as_graph
from gan.training.epochs import steps_per_epoch
from gan.training.losses import LOSS_NAMES
from gan.training.process_group import ProcessGroup
from gan.training.state import TrainState
from gan.training.step import train_step

# Steps that a GPU has been given, and works at, while the host writes the row of one before them.
STEPS_AHEAD = {"cpu": 0, "cuda": 10}


class Decision(IntEnum):
    """What is to happen before a step, or after an epoch; the first worker decides for all."""

    GO_ON = 0
    ASK = 1  # whether a machine is about to be taken away: all workers together
    TELL = 2  # what there is to report: all workers together
    SAVE = 3
    STOP = 4


@dataclass(frozen=True)
class TrainingSettings:
    """What the loop does; every value is checked and resolved before it comes here.

    Attributes:
        epochs: the last epoch.
        batch_size: pairs a step over all workers; a multiple of their number.
        lambda_l1: weight of the L1 loss.
        learning_rate: of both Adams; constant up to decay_start_epoch (or throughout, where that is
            None), then falling along a line that would reach 0 after decay_end_epoch.
        precision: fp32, bf16 or fp16.
        log_every_n_steps: how often `on_step` is called.
    """

    epochs: int
    batch_size: int
    lambda_l1: float
    learning_rate: float
    seed: int
    precision: str
    log_every_n_steps: int
    decay_start_epoch: int | None = None
    decay_end_epoch: int | None = None

    def learning_rate_at(self, epoch: int) -> float:
        """The learning rate in an epoch, counted from 1."""
        if self.decay_start_epoch is None or self.decay_end_epoch is None:
            return self.learning_rate
        remaining = (self.decay_end_epoch + 1 - epoch) / (self.decay_end_epoch + 1 - self.decay_start_epoch)
        return self.learning_rate * min(max(remaining, 0.0), 1.0)


class LoggedStep(NamedTuple):
    """What `on_step` and `on_epoch` are told: the step just done and its losses."""

    step: int
    epoch: int
    losses: dict[str, float]


def fit(
    state: TrainState,
    patches: Patches,
    settings: TrainingSettings,
    *,
    group: ProcessGroup = ProcessGroup(),  # noqa: B008 - frozen
    resident_bytes: int = 0,
    decide: Callable[[], Decision] = lambda: Decision.GO_ON,
    act: Callable[[Decision], None] = lambda decision: None,
    on_step: Callable[[LoggedStep], None] = lambda logged: None,
    on_epoch: Callable[[LoggedStep, dict[str, float]], Decision] = lambda logged, means: Decision.GO_ON,
) -> bool:
    """Trains from where the state is to the end of `settings.epochs`.

    Args:
        state: changed in place; all workers hold the same.
        resident_bytes: see `gan.data.batches.BatchLoader`.
        decide: asked before each step; the first worker's answer counts for all.
        act: called on every worker with each decision but GO_ON, at a moment when the state may be saved.
        on_step: called on every worker every `log_every_n_steps`, but not at an epoch's last step: STEPS_AHEAD steps
            later, but before `act` and `on_epoch` are.
        on_epoch: called on every worker after an epoch's last step, with the losses' means over the
            epoch's pictures, while the state still stands at the epoch's end. Its decision is acted on at
            the next epoch's start, but for STOP: that breaks off here, and `on_epoch` is called for the
            same epoch again when the training goes on.

    Returns:
        True when the last epoch is done, False when the decision was to stop.

    Raises:
        ValueError: there are fewer patches than workers.
    """
    loader = BatchLoader(patches, state.device, resident_bytes)
    rows = Rows(state, on_step)
    learn: Callable[[Batch], None] = functools.partial(
        learn_from, state=state, lambda_l1=settings.lambda_l1, group=group
    )
    if runs_as_graph(state.device, group):
        learn = GraphedStep(state, learn, settings.batch_size)
    while state.epoch <= settings.epochs:
        epoch = state.epoch
        plan = plan_epoch(settings.seed, epoch, len(patches), jitter_margin(patches.patch_size))
        set_learning_rate(state, settings.learning_rate_at(epoch))
        num_steps = steps_per_epoch(len(patches), settings.batch_size, group.world_size)
        if num_steps == 0:
            raise ValueError(f"{len(patches)} patches are too few for {group.world_size} workers")
        for _ in range(state.epoch_step, num_steps):
            decision = Decision(group.broadcast(decide()))
            if decision != Decision.GO_ON:
                rows.tell()
                act(decision)
            if decision == Decision.STOP:
                return False
            take_step(state, loader, learn, plan, settings, group)
            rows.after_step(logs=state.epoch_step < num_steps and state.step % settings.log_every_n_steps == 0)
        rows.tell()
        decision = Decision(group.broadcast(on_epoch(NotedStep(state).logged(), epoch_means(state))))
        if decision != Decision.STOP:
            state.begin_next_epoch()
        if decision != Decision.GO_ON:
            act(decision)
        if decision == Decision.STOP:
            return False
    return True


class Rows:
    """Tells of steps that are logged: on a GPU some steps later, so that it has work while the host writes."""

    def __init__(self, state: TrainState, on_step: Callable[[LoggedStep], None]) -> None:
        self._state, self._on_step = state, on_step
        self._ahead = STEPS_AHEAD[state.device.type]
        self._noted: NotedStep | None = None

    def after_step(self, *, logs: bool) -> None:
        """Notes the step just done, where it is logged; tells of what is noted in time."""
        if logs:
            self.tell()
            self._noted = NotedStep(self._state)
        if self._noted is not None and self._state.step - self._noted.step >= self._ahead:
            self.tell()

    def tell(self) -> None:
        """Tells of what is noted, now."""
        noted, self._noted = self._noted, None
        if noted is not None:
            self._on_step(noted.logged())


class NotedStep:
    """A step whose losses are on their way from the device; the host need not wait for them yet."""

    def __init__(self, state: TrainState) -> None:
        self.step, self._epoch = state.step, state.epoch
        on_gpu = state.device.type == "cuda"
        self._losses = torch.empty(state.losses.shape, pin_memory=on_gpu)
        self._losses.copy_(state.losses, non_blocking=True)
        self._arrival = torch.cuda.current_stream(state.device).record_event() if on_gpu else None

    def logged(self) -> LoggedStep:
        """The step with its losses, once they are here."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return LoggedStep(self.step, self._epoch, dict(zip(LOSS_NAMES, self._losses.tolist(), strict=True)))


def take_step(
    state: TrainState,
    loader: BatchLoader,
    learn: Callable[[Batch], None],
    plan: EpochPlan,
    settings: TrainingSettings,
    group: ProcessGroup,
) -> None:
    """Brings the batch that the state's place in the epoch points at, and learns from it."""
    start = state.epoch_step * settings.batch_size
    batch = slice(start, min(start + settings.batch_size, len(plan.indices)))
    share = group.local_slice(batch)
    within_batch = slice(share.start - batch.start, share.stop - batch.start)
    shapes = state.generator.dropout_shapes
    bits = dropout_bits(shapes, batch.stop - batch.start, within_batch, settings.seed, state.step)
    learn(loader.batch(plan, share, bits))
    state.step += 1
    state.epoch_step += 1


def learn_from(batch: Batch, state: TrainState, lambda_l1: float, group: ProcessGroup) -> None:
    """A step's whole computation on the device: jitter, dropout masks, both updates, the losses' sums."""
    batch = batch.on(state.device)
    source, target = jitter_batch(batch.source, batch.target, batch.places)
    masks = dropout_masks(batch.dropout, state.generator.dropout_shapes)
    losses = train_step(state, source, target, masks, lambda_l1, group)
    state.losses.copy_(losses)
    num_pictures = group.world_size * len(source)
    state.loss_sums[:-1].add_(losses, alpha=num_pictures)
    state.loss_sums[-1].add_(num_pictures)


def set_learning_rate(state: TrainState, learning_rate: float) -> None:
    """Sets the rate of both optimizers."""
    for optimizer in (state.generator_optimizer, state.discriminator_optimizer):
        optimizer.learning_rate.fill_(learning_rate)


def epoch_means(state: TrainState) -> dict[str, float]:
    """The means of the losses over the epoch's pictures so far."""
    *sums, num_pictures = state.loss_sums.tolist()
    return {name: value / num_pictures for name, value in zip(LOSS_NAMES, sums, strict=True)}
