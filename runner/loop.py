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

from gan.epochs import steps_per_epoch
from gan.feeding import resident_limit
from gan.patches import Patches
from gan.state import ModelSettings, TrainState
from gan.team import Team
from gan.training import Decision, LoggedStep, TrainingSettings, fit
from runner.checkpoints import checkpoint_steps, newest_checkpoint, read_checkpoint, remove_old_checkpoints
from runner.control import ControlLine
from runner.ending import Diverged, OutOfMemory, end, is_out_of_memory, stop_for_room
from runner.initial_weights import read_copy
from runner.job import TrialJob, first_line
from runner.lease import Superseded
from runner.metrics_log import MetricsLog, read_rows
from runner.recorder import EvaluationBrokenOff, Recorder, is_finite
from runner.saving import Saver
from runner.settling import Settled, set_up_torch, settle
from runner.starts import ended_for_lack_of_memory, read_starts, record_start
from runner.storage import is_full
from runner.weights import write_weights

ASK_INTERVAL_S = 5.0
MAX_MEMORY_DEATHS = 2


class Platform(Protocol):
    """What trains the trial, as far as the trial speaks to it; called on every worker equally often."""

    def report(self, values: dict[str, Any]) -> None:
        """Takes numbers and, under `checkpoint`, the manifest of a checkpoint just written (None on all
        workers but the first)."""

    def is_leaving(self) -> bool:
        """True once a machine of this trial is about to be taken away; the same on all workers."""


class Alone:
    """No platform: this process is all there is."""

    def report(self, values: dict[str, Any]) -> None:
        """Nobody to tell."""

    def is_leaving(self) -> bool:
        """Nobody knows."""
        return False


def train_trial(job: TrialJob, team: Team, device: torch.device, control: ControlLine, platform: Platform) -> str:
    """Trains a trial from its newest verified checkpoint until it is finished or asked to stop.

    Returns:
        finished, stopped, diverged, out_of_memory, or superseded, of which only log.txt has a word.

    Raises:
        NoGoodCheckpoint: all checkpoints of the trial are damaged.
    """
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        settled = settle(job, team, device)
        set_up_torch(settled, deterministic=job.config.training.deterministic)
        return TrialRun(job, settled, team, device, control, platform).train()
    except Superseded as error:
        job.say(f"this worker ends: {error}")
        if team.size > 1:
            raise  # the others wait for this worker: Ray must take the whole group down
        return "superseded"
    except Diverged as error:
        return end(job, "diverged", str(error), team.is_first)
    except (OutOfMemory, torch.OutOfMemoryError, MemoryError, RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            status = end(job, "out_of_memory", first_line(error), True)
        elif isinstance(error, OSError) and is_full(error):
            status = stop_for_room(job, control, error)
        else:
            raise
        if team.size > 1:
            raise
        return status


class TrialRun:
    """The callbacks of `fit` for one trial, and what they share."""

    def __init__(
        self,
        job: TrialJob,
        settled: Settled,
        team: Team,
        device: torch.device,
        control: ControlLine,
        platform: Platform,
    ) -> None:
        config = job.config
        self.job, self.settled, self.team, self.device = job, settled, team, device
        self.control, self.platform = control, platform
        self.train_patches = Patches.open(job.store.local_path, "train", config.data.direction)
        val_patches = Patches.open(job.store.local_path, "val", config.data.direction)
        self.settings = TrainingSettings(
            precision=settled.precision,
            log_every_n_steps=config.log_every_n_steps,
            **config.training.model_dump(exclude={"precision", "deterministic"}),
        )
        model = ModelSettings(**config.model.sizes, patch_size=config.data.patch_size)
        training = config.training
        self.state = TrainState(model, training.seed, training.learning_rate, settled.precision, device)
        restored_log = self.restore()
        log = None
        if team.is_first:
            self.job = self.take_over()
            log = self.open_log(restored_log)
        self.recorder = Recorder(self.job, log, self.state, val_patches, control)
        self.saver = Saver(
            self.job, settled._asdict(), self.state, control.at_save,
            shares_cores=device.type == "cpu", clock=self.recorder.clock.now,
        )  # fmt: skip
        self.leaving = False
        self.asked_at = time.monotonic()
        self.news: dict[str, Any] = {}

    def restore(self) -> bytes:
        """Loads the newest verified checkpoint, the same on all workers; the log that it holds.

        Where there is none the generator starts from the initial weights, if the trial has any.
        """
        trial, ids = self.job.trial, self.job.ids
        found = newest_checkpoint(trial, ids, self.job.say) if self.team.is_first else None
        step = self.team.agree(found.step if found else 0)
        if not step:
            if ids.initial_weights:
                if self.team.is_first:
                    self.job.say(f"the generator starts from the weights {ids.initial_weights[:8]}...")
                self.state.start_from(read_copy(self.job.experiment, ids.initial_weights, self.job.config))
            return b""
        if found is None:
            found = read_checkpoint(trial, step, ids)
        self.state.load_state_dict(found.groups)
        return found.log

    def take_over(self) -> TrialJob:
        """The job with a token of this start, noted: from now on no earlier worker can change the trial."""
        job, state = self.job, self.state
        rows = read_rows(job.trial)
        reached = max(rows[-1]["step"] if rows else 0, self.control.earlier_step)
        job = dataclasses.replace(job, start_token=secrets.token_hex(8))
        with self.job.committing():
            record_start(job.trial, job.attempt, job.start_token, state.step, max(reached - state.step, 0))
        return job

    def open_log(self, restored: bytes) -> MetricsLog:
        """Cuts the log back to the restored step; raises OutOfMemory where trying again is of no use."""
        job, state = self.job, self.state
        deaths = ended_for_lack_of_memory(read_starts(job.trial))
        if deaths:
            job.say("the worker before this one seems to have been ended by the system for lack of memory")
        if deaths >= MAX_MEMORY_DEATHS:
            raise OutOfMemory(f"the system has ended its workers for lack of memory {deaths} times in a row")
        settled = self.settled
        job.say(f"training from step {state.step} in {settled.precision} on {self.device}, {settled.threads} threads")
        # At an epoch's end its row is still to come; it may have been logged under another number of workers.
        num_steps = steps_per_epoch(len(self.train_patches), self.settings.batch_size, self.team.size)
        with job.committing():
            return MetricsLog(job.trial, restored, state.step - (state.epoch_step >= num_steps))

    def train(self) -> str:
        """Runs the loop to its end or to a stop request."""
        try:
            done = fit(
                self.state,
                self.train_patches,
                self.settings,
                team=self.team,
                resident_bytes=resident_limit(self.device, self.job.config.resources.gpu_share),
                decide=self.decide,
                act=self.act,
                on_step=self.on_step,
                on_epoch=self.on_epoch,
            )
        finally:
            self.saver.close()
        self.tell(self.saver.wait())
        if self.team.is_first and done:
            self.finish()
        if self.recorder.full is not None:
            return stop_for_room(self.job, self.control, self.recorder.full)
        return end(self.job, "finished" if done else "stopped", self.control.stop_reason, self.team.is_first)

    def decide(self) -> Decision:
        """Stop when asked to, or when nothing can be written; save when that costs little."""
        self.control.at_step(self.state.step)
        self.look_at_the_write()
        if self.control.stop_reason or self.recorder.full is not None:
            return Decision.STOP
        if self.saver.is_due(noticed=self.leaving):
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
        if self.platform.is_leaving() and not self.leaving:
            self.leaving = True
            if self.team.is_first:
                self.job.say("a machine of this trial is about to be taken away: saving every few seconds")

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
        if self.team.is_first and evaluates and is_finite(logged):
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
        failure = self.saver.failure()
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
                manifest = self.saver.written()
                self.saver.save(self.state, lambda: log.first_bytes(size))
            except OSError as error:
                if not is_full(error):
                    raise
                self.recorder.full = error
        self.control.at_work()
        return manifest

    def finish(self) -> None:
        """The finished trial's weights; of its checkpoints `keep_finished` stay."""
        keep, step = self.job.config.checkpoint, self.state.step
        if checkpoint_steps(self.job.trial)[:1] != [step]:
            raise Diverged("the weights are not finite after the last step")
        with self.job.committing():
            weights = self.state.generator.state_dict()
            write_weights(self.job.trial, weights, self.state.epoch - 1, step, self.job.ids)
            remove_old_checkpoints(self.job.trial, keep.keep_finished, keep.keeps_epoch)


def numbers(row: dict[str, float], prefix: str) -> dict[str, float]:
    """The entries under a prefix."""
    return {name: value for name, value in row.items() if name.startswith(prefix)}
