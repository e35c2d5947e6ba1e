"""One trial around gan's loop: restore, train, log, evaluate, save. Knows no Ray.

Order matters: an epoch's row and picture are on disk before the checkpoint that ends the epoch, and a
checkpoint holds the log up to its step, so that whatever a checkpoint stands for has been logged. Rows
past the restored checkpoint are cut off and come again, the same to the last bit.
"""

import dataclasses
import secrets
import time
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Protocol

import torch

from gan.data.batches import resident_limit
from gan.data.epochs import steps_per_epoch
from gan.data.patches import Patches
from gan.training.delayed_logger import DelayedLogger, LoggedStep
from gan.training.loop import BeforeStep, EpochEnd, fit
from gan.training.process_group import ProcessGroup
from gan.training.settings import TrainingSettings
from gan.training.state import TrainState
from runner.data.patch_store import local_patches
from runner.process.lease import Superseded
from runner.process.usage import Usage, UsageMeter
from runner.records.checkpoints import checkpoint_steps, newest_checkpoint, read_checkpoint, remove_old_checkpoints
from runner.records.goodput import Hold, newest_hold
from runner.records.initial_weights import read_copy
from runner.records.metrics_log import MetricsLog, read_rows
from runner.records.starts import (
    WORKER_LOST,
    cause_of,
    ended_for_lack_of_memory,
    read_starts,
    record_start,
)
from runner.records.weights import write_weights
from runner.storage.storage import takes_nothing
from runner.trial.async_checkpointer import AsyncCheckpointer
from runner.trial.heartbeat import Heartbeat
from runner.trial.hold import recorded_hold
from runner.trial.job import TrialJob, first_line
from runner.trial.outcome import Diverged, OutOfMemory, is_out_of_memory, record_outcome, stop_unwritable
from runner.trial.recorder import EvaluationBrokenOff, Recorder, is_finite
from runner.trial.runtime import RuntimeSettings, resolve_runtime, set_up_torch

PREEMPTION_CHECK_INTERVAL_S = 5.0
END_NOTICE_S = 5.0  # as long as it takes to begin a worker's process where there is little to do it with
_MAX_MEMORY_DEATHS = 2


class Action(IntEnum):
    """What all workers do together between two steps. Rank 0 decides; of two reasons the larger number counts."""

    NONE = 0
    CHECK_PREEMPTION = 1  # ask whether a machine is about to be taken away
    REPORT = 2  # hand pending metrics to the platform
    SAVE = 3  # begin a checkpoint, and report
    STOP = 4  # save, and leave the loop
    FINISH = 5  # the same at the end of a trial that ends before its last epoch


class Platform(Protocol):
    """What runs the trial, as far as the trial speaks to it. All workers call it equally often."""

    def report(self, metrics: dict[str, Any], manifest: dict[str, Any] | None) -> None:
        """Takes metrics, and the manifest of a checkpoint just written (None on all workers but rank 0)."""

    def has_preemption_notice(self) -> bool:
        """True once a machine of this trial is about to be taken away; the same on all workers."""

    def announce_end(self) -> None:
        """Called once, some seconds before the trial ends, as far as one can tell."""


class NoPlatform:
    """For a process that trains alone: reports go nowhere, and no machine is taken away with notice."""

    def report(self, metrics: dict[str, Any], manifest: dict[str, Any] | None) -> None:
        """Does nothing."""

    def has_preemption_notice(self) -> bool:
        """False."""
        return False

    def announce_end(self) -> None:
        """Does nothing."""


def train_trial(
    job: TrialJob, group: ProcessGroup, device: torch.device, heartbeat: Heartbeat, platform: Platform
) -> str:
    """Trains a trial from its newest verified checkpoint until it is finished or asked to stop.

    Returns:
        finished, early_stopped, paused (at a rung), stopped, diverged or out_of_memory, which is recorded as the
        trial's outcome; or superseded, of which only log.txt says something.

    Raises:
        NoGoodCheckpoint: all checkpoints of the trial are damaged.
    """
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # What the trial recorded at its first start decides how torch is set up.
        runtime = resolve_runtime(job, group, device)
        set_up_torch(runtime, deterministic=job.config.training.deterministic)
        return TrialRun(job, runtime, group, device, heartbeat, platform).train()

    except Superseded as error:
        job.log_line(f"this worker ends: {error}")
        if group.world_size > 1:
            raise  # the others wait for this worker: Ray must take the whole group down
        return "superseded"
    except Diverged as error:
        return record_outcome(job, "diverged", str(error), is_recorder=group.is_rank_zero)
    except (OutOfMemory, torch.OutOfMemoryError, MemoryError, RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            # Recorded by the worker that has the error, of whatever rank: the others may have none.
            status = record_outcome(job, "out_of_memory", first_line(error))
        elif isinstance(error, OSError) and takes_nothing(error):
            status = stop_unwritable(job, heartbeat, error)
        else:
            raise
        # As above: the others wait for this worker.
        if group.world_size > 1:
            raise
        return status


class TrialRun:
    """One worker's run of a trial: what it does with the events of `fit`, and what these share."""

    def __init__(
        self,
        job: TrialJob,
        runtime: RuntimeSettings,
        group: ProcessGroup,
        device: torch.device,
        heartbeat: Heartbeat,
        platform: Platform,
    ) -> None:
        config = job.config
        self.job, self.runtime, self.group, self.device = job, runtime, group, device
        self.heartbeat, self.platform = heartbeat, platform

        # What is trained, on what.
        patches = local_patches(job.store)
        self.train_patches = Patches.open(patches, "train", config.data.direction)
        val_patches = Patches.open(patches, "val", config.data.direction)
        self.settings = TrainingSettings(
            precision=runtime.precision,
            log_every_n_steps=config.log_every_n_steps,
            **config.training.model_dump(exclude={"precision", "deterministic", "epochs"}),
            epochs=job.epochs,
        )
        self.state = TrainState(config.networks, self.settings, device)

        # From here on no earlier worker can change the trial, and its log ends where this run begins.
        restored_log, restored_s, restored_best = self._restore()
        log = None
        self.held_before_s: float | None = None
        self.usage: UsageMeter | None = None
        if group.is_rank_zero:
            self.job, before = self._take_over(restored_s)
            if before is not None:
                self.held_before_s = before.held_s
                if before.usage is not None:
                    self.usage = UsageMeter(before.usage, device if device.type == "cuda" else None)
            log = self._open_log(restored_log)

        # What writes.
        self.recorder = Recorder(
            self.job, log, self.state, val_patches, heartbeat, restored_s, runtime.precision, restored_best
        )
        # These rows do not wait for the disk. The row of the epoch's end does, and takes all earlier ones along.
        self.logger = DelayedLogger(device, lambda logged: self.recorder.add_row(logged, {}, synced=False))
        self.checkpointer = AsyncCheckpointer(
            self.job, runtime._asdict(), self.state, heartbeat.at_save,
            shares_cores=device.type == "cpu", clock=self.recorder.clock.now,
        )  # fmt: skip

        # What one event leaves for later ones.
        self.preemption_notice = False
        self.preemption_checked_at = time.monotonic()
        self.pending_action = Action.NONE
        self.pending_metrics: dict[str, Any] = {}
        self.is_end_announced = False

    def _restore(self) -> tuple[bytes, float, Mapping[str, Any] | None]:
        """Loads the newest verified checkpoint, the same on all workers.

        Returns:
            The log that it holds, its training time, and what it says of the best weights.

        Where there is none the generator starts from the initial weights, if the trial has any.
        """
        trial, fingerprints = self.job.trial, self.job.fingerprints
        # Rank 0 alone searches, because the search renames damaged checkpoints. The others read what it has found.
        # Step 0 means that there is none: a state without a step is never saved.
        found = newest_checkpoint(trial, fingerprints, self.job.log_line) if self.group.is_rank_zero else None
        step = self.group.broadcast(found.step if found else 0)

        if not step:
            if fingerprints.initial_weights:
                if self.group.is_rank_zero:
                    self.job.log_line(f"the generator starts from the weights {fingerprints.initial_weights[:8]}...")
                self.state.start_from(read_copy(self.job.experiment, fingerprints.initial_weights, self.job.config))
            return b"", 0.0, None

        if found is None:
            found = read_checkpoint(trial, step, fingerprints)
        self.state.load_state_dict(found.groups)
        return found.log, found.seconds, found.best

    def _take_over(self, restored_s: float) -> tuple[TrialJob, Hold | None]:
        """Records this start, after which earlier workers can't write into the trial any more.

        Args:
            restored_s: the training time of the checkpoint.

        Returns:
            The job with a token of this start, and how long earlier workers were held, and what they used (None: not
            known).
        """
        job, state = self.job, self.state
        starts, rows = read_starts(job.trial), read_rows(job.trial)
        # The heartbeat may know of later steps than the log: not every step has a row.
        last_step = max(rows[-1]["step"] if rows else 0, self.heartbeat.earlier_step)
        cause = job.cause
        if starts and (starts[-1]["attempt"], starts[-1].get("until", job.epochs)) == (job.attempt, job.epochs):
            # Ray has replaced a worker of this start of the command. One that was to stop may have been ended for that.
            cause = cause_of("stopped", self.heartbeat.stop_reason) if self.heartbeat.stop_reason else WORKER_LOST

        # The log and the checkpoint may be newer than what the worker before has said of itself.
        trained_s = max(rows[-1].get("seconds", 0.0) if rows else 0.0, restored_s)
        before = newest_hold(job.trial, starts)
        # A trial that is not new, and of which no hold is known, was begun by an earlier release.
        is_new = not starts and not state.step
        if before is not None:
            before = before._replace(held_s=before.held_until(trained_s))
        elif is_new:
            before = Hold(0.0, 0.0, Usage())
        hold = before and Hold(before.held_s + self.heartbeat.held_s, restored_s, before.usage)

        job = dataclasses.replace(job, start_token=secrets.token_hex(8))
        # As the job without the token: no row has the new token yet, so the new job would count as superseded.
        with self.job.committing():
            lost_steps = max(last_step - state.step, 0)
            record_start(
                job.trial, job.attempt, job.start_token, state.step, lost_steps, cause, hold, job.epochs,
                self.group.world_size,
            )  # fmt: skip
        return job, before

    def _open_log(self, restored: bytes) -> MetricsLog:
        """Cuts the log back to the restored step; raises OutOfMemory where trying again is of no use."""
        job, state, runtime = self.job, self.state, self.runtime
        deaths = ended_for_lack_of_memory(read_starts(job.trial))
        if deaths:
            job.log_line("the worker before this one seems to have been ended by the system for lack of memory")
        if deaths >= _MAX_MEMORY_DEATHS:
            raise OutOfMemory(f"the system has ended its workers for lack of memory {deaths} times in a row")

        threads = f"{runtime.threads} thread{'s' * (runtime.threads != 1)}"
        job.log_line(f"training from step {state.step} in {runtime.precision} on {self.device}, {threads}")

        # At an epoch's end its row is still to come; it may have been logged before.
        num_steps = steps_per_epoch(len(self.train_patches), self.settings.batch_size)
        return MetricsLog(job.trial, restored, state.step - (state.epoch_step >= num_steps), job.committing)

    def train(self) -> str:
        """Runs the loop to its end or to a stop request; how it ended."""
        # To the last checkpoint. What follows takes no time, and whoever sees a finished trial finds its last row.
        with recorded_hold(self.job, self._hold):
            try:
                is_finished = self._run_loop()
            finally:
                self.checkpointer.close()
            # On all workers, though only rank 0 has a manifest. An error of the last write is raised here.
            self._report(self.checkpointer.wait())
            if self.recorder.log is not None and self.recorder.unwritable is None:
                self.recorder.log.close()

        if self.group.is_rank_zero and is_finished:
            self._finish()
        if self.recorder.unwritable is not None:
            return stop_unwritable(self.job, self.heartbeat, self.recorder.unwritable)
        status, reason = ("finished" if is_finished else "stopped"), self.heartbeat.stop_reason
        if is_finished and self.group.is_rank_zero and self.state.epoch <= self.job.epochs:
            choice, evaluation = self.recorder.best.choice, self.job.config.evaluation  # type: ignore[union-attr]
            status = "early_stopped"
            reason = f"no better {evaluation.select} in {choice.since} evaluations since epoch {choice.epoch}"
        elif is_finished and self.job.epochs < self.job.config.training.epochs:
            status, reason = "paused", f"it waits for the other trials at the end of epoch {self.job.epochs}"
        return record_outcome(self.job, status, reason, is_recorder=self.group.is_rank_zero)

    def _hold(self) -> Hold | None:
        """How long the trial's workers were held, and what this one used; None on workers that do not record it."""
        if self.held_before_s is None:
            return None
        # In this order: the time held must contain all of the training time, and the time of the processor.
        trained_s = self.recorder.clock.now()
        usage = None if self.usage is None else self.usage.now()
        return Hold(self.held_before_s + self.heartbeat.held_s, trained_s, usage)

    def _run_loop(self) -> bool:
        """Trains; True after the last epoch, False where it was asked to stop."""
        resident_bytes = resident_limit(self.device, self.job.config.resources.gpu_share)
        events = fit(
            self.state, self.train_patches, self.settings, group=self.group, resident_bytes=resident_bytes
        )  # fmt: skip

        # A run that ended for its patience, but was killed before it could record that, is not trained any further.
        if self.group.broadcast(int(self._has_ended_early())):
            return True

        for event in events:
            match event:
                case BeforeStep():
                    # One choice for all: if one worker left the loop alone, the others would wait in their next step.
                    action = Action(self.group.broadcast(self._choose_action()))
                case LoggedStep():
                    # Nothing to decide here: a BeforeStep follows at once.
                    self.logger.add(event)
                    continue
                case EpochEnd():
                    # Where the loop is left here, the state still stands at the epoch's end: it is evaluated again.
                    action = Action(self.group.broadcast(self._end_epoch(event)))
            self._act(action)
            if action in (Action.STOP, Action.FINISH):
                return action == Action.FINISH

        # The last epoch's checkpoint, at its end.
        self._act(Action.SAVE)
        return True

    def _choose_action(self) -> Action:
        """Stop when asked to, or when nothing can be written; save when an epoch's end asked for it or when it costs
        little."""
        self.heartbeat.at_step(self.state.step)
        self.logger.write_due(self.state.step)
        if self._is_end_near():
            self._announce_end()
        self._check_last_write()
        # Asked whatever is chosen below, because it also measures the steps.
        is_save_due = self.checkpointer.is_due(preemption_notice=self.preemption_notice)
        pending, self.pending_action = self.pending_action, Action.NONE

        # The most important action first. A pending report is not lost with SAVE and STOP, which report as well.
        if self.heartbeat.stop_reason or self.recorder.unwritable is not None:
            return Action.STOP
        if pending == Action.FINISH:
            return Action.FINISH
        if is_save_due or pending == Action.SAVE:
            return Action.SAVE
        if pending != Action.NONE:
            return pending
        if time.monotonic() - self.preemption_checked_at > PREEMPTION_CHECK_INTERVAL_S:
            self.preemption_checked_at = time.monotonic()
            return Action.CHECK_PREEMPTION
        return Action.NONE

    def _is_end_near(self) -> bool:
        """True before the last steps, or before the very last one while it is not known what a step takes."""
        num_steps = steps_per_epoch(len(self.train_patches), self.settings.batch_size)
        remaining = (self.settings.epochs + 1 - self.state.epoch) * num_steps - self.state.epoch_step
        return remaining <= 1 or 0 < remaining * self.heartbeat.step_s <= END_NOTICE_S

    def _announce_end(self) -> None:
        """Tells the platform, once."""
        if not self.is_end_announced:
            self.is_end_announced = True
            self.platform.announce_end()

    def _act(self, action: Action) -> None:
        """What all workers do together between two steps; the clock of training time stands still meanwhile."""
        if action == Action.NONE:
            return
        self.logger.flush()  # what is saved, or reported, has been logged
        self.recorder.clock.pause()

        if action == Action.CHECK_PREEMPTION:
            self._check_preemption()
        elif action == Action.REPORT:
            self._report(None)
        else:
            self._report(self._save())

        self.recorder.clock.go_on()

    def _check_preemption(self) -> None:
        """Once a machine is about to be taken away, checkpoints come every few seconds."""
        if self.platform.has_preemption_notice() and not self.preemption_notice:
            self.preemption_notice = True
            if self.group.is_rank_zero:
                self.job.log_line("a machine of this trial is about to be taken away: saving every few seconds")

    def _report(self, manifest: dict[str, Any] | None) -> None:
        """Reports pending metrics, and the checkpoint that has been written since the last time."""
        position = {"step": self.state.step, "epoch": self.state.epoch}
        self.platform.report(position | self.pending_metrics, manifest)
        self.pending_metrics = {}

    def _end_epoch(self, event: EpochEnd) -> Action:
        """The epoch's picture, and its last row with means and evaluation.

        Returns:
            STOP where an evaluation was broken off, or nothing can be written; else NONE. A checkpoint, or a report,
            comes before the next step, when the state stands at the next epoch's begin.
        """
        self.logger.flush()
        config, logged = self.job.config, event.last
        # A rung is evaluated as the end is, by each run of the trial that passes it.
        halving = self.job.halving
        is_rung = halving is not None and logged.epoch in halving.rungs(config.training.epochs)
        is_last = logged.epoch == self.settings.epochs or is_rung
        if logged.epoch == self.settings.epochs:
            self._announce_end()
        is_measured = halving is not None and halving.is_measured(logged.epoch)
        extra = {f"epoch_mean/{name}": value for name, value in event.means.items()}

        # Rank 0 evaluates, and the others wait for its action. Losses that are not finite end the trial in `add_row`.
        is_evaluated = is_last or is_measured or logged.epoch % config.evaluation.every_n_epochs == 0
        if self.group.is_rank_zero and is_evaluated and is_finite(logged):
            try:
                extra |= self.recorder.record_epoch(logged.epoch, last=is_last, measured=is_measured)
            except EvaluationBrokenOff:
                return Action.STOP
        self.recorder.add_row(logged, extra, synced=True)
        if self.recorder.unwritable is not None:
            return Action.STOP

        is_over = self.group.is_rank_zero and self.recorder.is_patience_over
        if is_over:
            self._announce_end()
        evaluated = {name: value for name, value in extra.items() if name.startswith("val/")}
        self.pending_metrics = {"epoch": logged.epoch, **event.means, **evaluated}
        is_save_due = is_last or logged.epoch % config.checkpoint.every_n_epochs == 0
        self.pending_action = Action.FINISH if is_over else Action.SAVE if is_save_due else Action.REPORT
        return Action.NONE

    def _has_ended_early(self) -> bool:
        """True where the restored epoch was the last one for the trial's patience; only the first worker knows."""
        rows = read_rows(self.job.trial) if self.group.is_rank_zero and self.state.epoch_step == 0 else []
        is_evaluated = bool(rows) and any(name.startswith("final/") for name in rows[-1])
        return is_evaluated and self.recorder.is_patience_over

    def _check_last_write(self) -> None:
        """A checkpoint that could not be written is noticed at the next step, not at the next checkpoint."""
        failure = self.checkpointer.failure()
        if failure is None:
            return
        if not takes_nothing(failure):
            raise failure
        self.recorder.unwritable = failure

    def _save(self) -> dict[str, Any] | None:
        """Begins a checkpoint of the state as it is; the manifest of the one before it."""
        manifest = None
        log = self.recorder.log

        if log is not None and self.recorder.unwritable is None:
            # The thread may read the log when it has more rows: those past this size belong to later steps.
            size = log.size
            try:
                manifest = self.checkpointer.written()
                best = self.recorder.best
                self.checkpointer.save(
                    self.state, lambda: log.first_bytes(size), best.write() if best is not None else lambda: None
                )
            except OSError as error:
                if not takes_nothing(error):
                    raise
                self.recorder.unwritable = error

        # The time that this took is no step's.
        self.heartbeat.at_work()
        return manifest

    def _finish(self) -> None:
        """Writes the finished trial's weights; of its checkpoints `keep_finished` stay."""
        keep, step = self.job.config.checkpoint, self.state.step
        # A state that is not finite is not written, so that the last step has no checkpoint then.
        if checkpoint_steps(self.job.trial)[:1] != [step]:
            raise Diverged("the weights are not finite after the last step")
        with self.job.committing():
            # First, because a trial with its last weights counts as finished.
            if self.recorder.best is not None and self.recorder.best.choice.epoch:
                self.recorder.best.finish()
            # The state stands at the first step of an epoch that is not trained any more: hence `epoch - 1`.
            weights = self.state.generator.state_dict()
            write_weights(self.job.trial, weights, self.state.epoch - 1, step, self.job.fingerprints)
            remove_old_checkpoints(self.job.trial, keep.keep_finished, keep.keeps_epoch)
