"""One trial around gan's loop: restore, train, log, evaluate, save. Knows no Ray.

Order matters: an epoch's row and picture are on disk before the checkpoint that ends the epoch, and a
checkpoint holds the log up to its step, so that whatever a checkpoint stands for has been logged; rows
past the restored checkpoint are cut off and come again, the same to the last bit.
"""

import dataclasses
import secrets
import time
from typing import Any, Protocol

import torch

from gan.data.batches import resident_limit
from gan.data.patches import Patches
from gan.training.epochs import steps_per_epoch
from gan.training.loop import Decision, LoggedStep, TrainingSettings, fit
from gan.training.process_group import ProcessGroup
from gan.training.state import ModelSettings, TrainState
from runner.process.lease import Superseded
from runner.records.checkpoints import checkpoint_steps, newest_checkpoint, read_checkpoint, remove_old_checkpoints
from runner.records.initial_weights import read_copy
from runner.records.metrics_log import MetricsLog, read_rows
from runner.records.starts import ended_for_lack_of_memory, read_starts, record_start
from runner.records.weights import write_weights
from runner.storage.folder import is_full
from runner.trial.async_checkpointer import AsyncCheckpointer
from runner.trial.heartbeat import Heartbeat
from runner.trial.job import TrialJob, first_line
from runner.trial.outcome import Diverged, OutOfMemory, is_out_of_memory, record_outcome, stop_on_disk_full
from runner.trial.recorder import EvaluationBrokenOff, Recorder, is_finite
from runner.trial.runtime import RuntimeSettings, resolve_runtime, set_up_torch

ASK_INTERVAL_S = 5.0
MAX_MEMORY_DEATHS = 2


class Platform(Protocol):
    """What trains the trial, as far as the trial speaks to it; called on every worker equally often."""

    def report(self, values: dict[str, Any]) -> None:
        """Takes numbers and, under `checkpoint`, the manifest of a checkpoint just written (None on all
        workers but the first)."""

    def has_preemption_notice(self) -> bool:
        """True once a machine of this trial is about to be taken away; the same on all workers."""


class Alone:
    """No platform: this process is all there is."""

    def report(self, values: dict[str, Any]) -> None:
        """Nobody to tell."""

    def has_preemption_notice(self) -> bool:
        """Nobody knows."""
        return False


def train_trial(
    job: TrialJob, group: ProcessGroup, device: torch.device, heartbeat: Heartbeat, platform: Platform
) -> str:
    """Trains a trial from its newest verified checkpoint until it is finished or asked to stop.

    Returns:
        finished, stopped, diverged, out_of_memory, or superseded, of which only log.txt has a word.

    Raises:
        NoGoodCheckpoint: all checkpoints of the trial are damaged.
    """
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        runtime = resolve_runtime(job, group, device)
        set_up_torch(runtime, deterministic=job.config.training.deterministic)
        return TrialRun(job, runtime, group, device, heartbeat, platform).train()
    except Superseded as error:
        job.log_line(f"this worker ends: {error}")
        if group.world_size > 1:
            raise  # the others wait for this worker: Ray must take the whole group down
        return "superseded"
    except Diverged as error:
        return record_outcome(job, "diverged", str(error), group.is_rank_zero)
    except (OutOfMemory, torch.OutOfMemoryError, MemoryError, RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            status = record_outcome(job, "out_of_memory", first_line(error), True)
        elif isinstance(error, OSError) and is_full(error):
            status = stop_on_disk_full(job, heartbeat, error)
        else:
            raise
        if group.world_size > 1:
            raise
        return status


class TrialRun:
    """The callbacks of `fit` for one trial, and what they share."""

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
        self.train_patches = Patches.open(job.store.local_path, "train", config.data.direction)
        val_patches = Patches.open(job.store.local_path, "val", config.data.direction)
        self.settings = TrainingSettings(
            precision=runtime.precision,
            log_every_n_steps=config.log_every_n_steps,
            **config.training.model_dump(exclude={"precision", "deterministic"}),
        )
        model = ModelSettings(**config.model.sizes, patch_size=config.data.patch_size)
        training = config.training
        self.state = TrainState(model, training.seed, training.learning_rate, runtime.precision, device)
        restored_log = self.restore()
        log = None
        if group.is_rank_zero:
            self.job = self.take_over()
            log = self.open_log(restored_log)
        self.recorder = Recorder(self.job, log, self.state, val_patches, heartbeat)
        self.checkpointer = AsyncCheckpointer(
            self.job, runtime._asdict(), self.state, heartbeat.at_save,
            shares_cores=device.type == "cpu", clock=self.recorder.clock.now,
        )  # fmt: skip
        self.preemption_notice = False
        self.asked_at = time.monotonic()
        self.news: dict[str, Any] = {}

    def restore(self) -> bytes:
        """Loads the newest verified checkpoint, the same on all workers; the log that it holds.

        Where there is none the generator starts from the initial weights, if the trial has any.
        """
        trial, fingerprints = self.job.trial, self.job.fingerprints
        found = newest_checkpoint(trial, fingerprints, self.job.log_line) if self.group.is_rank_zero else None
        step = self.group.broadcast(found.step if found else 0)
        if not step:
            if fingerprints.initial_weights:
                if self.group.is_rank_zero:
                    self.job.log_line(f"the generator starts from the weights {fingerprints.initial_weights[:8]}...")
                self.state.start_from(read_copy(self.job.experiment, fingerprints.initial_weights, self.job.config))
            return b""
        if found is None:
            found = read_checkpoint(trial, step, fingerprints)
        self.state.load_state_dict(found.groups)
        return found.log

    def take_over(self) -> TrialJob:
        """The job with a token of this start, noted: from now on no earlier worker can change the trial."""
        job, state = self.job, self.state
        rows = read_rows(job.trial)
        reached = max(rows[-1]["step"] if rows else 0, self.heartbeat.earlier_step)
        job = dataclasses.replace(job, start_token=secrets.token_hex(8))
        with self.job.committing():
            record_start(job.trial, job.attempt, job.start_token, state.step, max(reached - state.step, 0))
        return job

    def open_log(self, restored: bytes) -> MetricsLog:
        """Cuts the log back to the restored step; raises OutOfMemory where trying again is of no use."""
        job, state = self.job, self.state
        deaths = ended_for_lack_of_memory(read_starts(job.trial))
        if deaths:
            job.log_line("the worker before this one seems to have been ended by the system for lack of memory")
        if deaths >= MAX_MEMORY_DEATHS:
            raise OutOfMemory(f"the system has ended its workers for lack of memory {deaths} times in a row")
        runtime = self.runtime
        job.log_line(
            f"training from step {state.step} in {runtime.precision} on {self.device}, {runtime.threads} threads"
        )
        # At an epoch's end its row is still to come; it may have been logged under another number of workers.
        num_steps = steps_per_epoch(len(self.train_patches), self.settings.batch_size, self.group.world_size)
        with job.committing():
            return MetricsLog(job.trial, restored, state.step - (state.epoch_step >= num_steps))

    def train(self) -> str:
        """Runs the loop to its end or to a stop request."""
        try:
            done = fit(
                self.state,
                self.train_patches,
                self.settings,
                group=self.group,
                resident_bytes=resident_limit(self.device, self.job.config.resources.gpu_share),
                decide=self.decide,
                act=self.act,
                on_step=self.on_step,
                on_epoch=self.on_epoch,
            )
        finally:
            self.checkpointer.close()
        self.tell(self.checkpointer.wait())
        if self.group.is_rank_zero and done:
            self.finish()
        if self.recorder.full is not None:
            return stop_on_disk_full(self.job, self.heartbeat, self.recorder.full)
        return record_outcome(
            self.job, "finished" if done else "stopped", self.heartbeat.stop_reason, self.group.is_rank_zero
        )

    def decide(self) -> Decision:
        """Stop when asked to, or when nothing can be written; save when that costs little."""
        self.heartbeat.at_step(self.state.step)
        self.look_at_the_write()
        if self.heartbeat.stop_reason or self.recorder.full is not None:
            return Decision.STOP
        if self.checkpointer.is_due(preemption_notice=self.preemption_notice):
            return Decision.SAVE
        if time.monotonic() - self.asked_at > ASK_INTERVAL_S:
            self.asked_at = time.monotonic()
            return Decision.ASK
        return Decision.GO_ON

    def act(self, decision: Decision) -> None:
        """What all workers do together between two steps."""
        self.recorder.clock.pause()
        if decision == Decision.ASK:
            self.ask()
        elif decision == Decision.TELL:
            self.tell(None)
        else:
            self.tell(self.save())
        self.recorder.clock.go_on()

    def ask(self) -> None:
        """Once a machine is about to be taken away, checkpoints come every few seconds."""
        if self.platform.has_preemption_notice() and not self.preemption_notice:
            self.preemption_notice = True
            if self.group.is_rank_zero:
                self.job.log_line("a machine of this trial is about to be taken away: saving every few seconds")

    def tell(self, manifest: dict[str, Any] | None) -> None:
        """Reports what is new, and the checkpoint that has been written since the last time."""
        place = {"step": self.state.step, "epoch": self.state.epoch}
        self.platform.report(place | self.news | ({"checkpoint": manifest} if manifest else {}))
        self.news = {}

    def on_step(self, logged: LoggedStep) -> None:
        """One row of the log."""
        self.recorder.add_row(logged, {}, synced=False)

    def on_epoch(self, logged: LoggedStep, means: dict[str, float]) -> Decision:
        """The epoch's picture, and its last row with means and evaluation; then a checkpoint where one is due."""
        config, last = self.job.config, logged.epoch == self.settings.epochs
        extra = {f"epoch_mean/{name}": value for name, value in means.items()}
        evaluates = last or logged.epoch % config.evaluation.every_n_epochs == 0
        if self.group.is_rank_zero and evaluates and is_finite(logged):
            try:
                extra |= self.recorder.record_epoch(logged.epoch, last=last)
            except EvaluationBrokenOff:
                return Decision.STOP
        self.recorder.add_row(logged, extra, synced=True)
        if self.recorder.full is not None:
            return Decision.STOP
        self.news = {"epoch": logged.epoch, **means, **numbers(extra, "val/")}
        due = last or logged.epoch % config.checkpoint.every_n_epochs == 0
        return Decision.SAVE if due else Decision.TELL

    def look_at_the_write(self) -> None:
        """A checkpoint that could not be written is known of at the next step, not at the next checkpoint."""
        failure = self.checkpointer.failure()
        if failure is None:
            return
        if not is_full(failure):
            raise failure
        self.recorder.full = failure

    def save(self) -> dict[str, Any] | None:
        """Begins a checkpoint of the state as it is; the manifest of the one before it."""
        manifest = None
        log = self.recorder.log
        if log is not None and self.recorder.full is None:
            size = log.size
            try:
                manifest = self.checkpointer.written()
                self.checkpointer.save(self.state, lambda: log.first_bytes(size))
            except OSError as error:
                if not is_full(error):
                    raise
                self.recorder.full = error
        self.heartbeat.at_work()
        return manifest

    def finish(self) -> None:
        """The finished trial's weights; of its checkpoints `keep_finished` stay."""
        keep, step = self.job.config.checkpoint, self.state.step
        if checkpoint_steps(self.job.trial)[:1] != [step]:
            raise Diverged("the weights are not finite after the last step")
        with self.job.committing():
            weights = self.state.generator.state_dict()
            write_weights(self.job.trial, weights, self.state.epoch - 1, step, self.job.fingerprints)
            remove_old_checkpoints(self.job.trial, keep.keep_finished, keep.keeps_epoch)


def numbers(row: dict[str, float], prefix: str) -> dict[str, float]:
    """The entries under a prefix."""
    return {name: value for name, value in row.items() if name.startswith(prefix)}
