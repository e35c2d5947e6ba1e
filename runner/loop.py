"""One trial around gan's loop: restore, train, log, evaluate, save. Knows no Ray.

Order matters: an epoch's row and picture are on disk before the checkpoint that ends the epoch, and a
checkpoint holds the log up to its step, so that whatever a checkpoint stands for has been logged; rows
past the restored checkpoint are cut off and come again, the same to the last bit.
"""

import dataclasses
import errno
import math
import secrets
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from gan.epochs import steps_per_epoch
from gan.evaluation import MODES, evaluate, fixed_sample, generate, score
from gan.feeding import resident_limit
from gan.grids import comparison_png
from gan.patches import Patches
from gan.state import ModelSettings, TrainState
from gan.team import Team
from gan.training import Decision, LoggedStep, TrainingSettings, fit
from runner.checkpoints import checkpoint_steps, newest_checkpoint, read_checkpoint, remove_old_checkpoints
from runner.control import ControlLine
from runner.initial_weights import read_copy
from runner.job import TrialJob, first_line
from runner.lease import Superseded
from runner.metrics_log import MetricsLog, read_rows
from runner.records import image_name, write_outcome
from runner.saving import Saver
from runner.scores import EVALUATION, PREFIXES, csv_of, final_row, named
from runner.settling import Settled, set_up_torch, settle
from runner.starts import ended_for_lack_of_memory, read_starts, record_start
from runner.storage import is_full
from runner.weights import write_weights

NUM_PICTURES = 4
ASK_INTERVAL_S = 5.0
MAX_MEMORY_DEATHS = 2


class Diverged(Exception):
    """A loss, or a weight, is not finite any more."""


class OutOfMemory(Exception):
    """The system has ended workers of this trial for lack of memory, again and again."""


class EvaluationBrokenOff(Exception):
    """Asked to stop in the middle of an evaluation."""


class CanStop(Protocol):
    """What can ask all trials to stop."""

    def request_stop(self, reason: str) -> None:
        """Asks them, with a reason for people."""


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


def end(job: TrialJob, status: str, reason: str, on_this_worker: bool) -> str:
    """Notes how the run ended, where this worker is the one to do so."""
    if on_this_worker:
        with job.committing():
            job.say(f"{status}{': ' + reason if reason else ''}")
            try:
                write_outcome(job.trial, status, reason)
            except OSError as error:
                if not is_full(error):
                    raise
    return status


def stop_for_room(job: TrialJob, control: CanStop, error: BaseException) -> str:
    """A full disk stops all trials of the experiment: they write to the same place."""
    reason = f"there is no room on the disk ({first_line(error)})"
    control.request_stop(reason)
    return end(job, "stopped", reason, True)


def is_out_of_memory(error: BaseException) -> bool:
    """True for an allocation that failed, on a GPU or on the processor."""
    kinds = (OutOfMemory, torch.OutOfMemoryError, MemoryError)
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return isinstance(error, kinds) or refused or "can't allocate memory" in str(error)


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
        self.val_patches = Patches.open(job.store.local_path, "val", config.data.direction)
        self.settings = TrainingSettings(
            precision=settled.precision,
            log_every_n_steps=config.log_every_n_steps,
            **config.training.model_dump(exclude={"precision", "deterministic"}),
        )
        model = ModelSettings(**config.model.sizes, patch_size=config.data.patch_size)
        training = config.training
        self.state = TrainState(model, training.seed, training.learning_rate, settled.precision, device)
        restored_log = self.restore()
        self.log = None
        if team.is_first:
            self.job = self.take_over()
            self.log = self.open_log(restored_log)
        self.saver = Saver(self.job, settled._asdict(), self.state, control.at_save, shares_cores=device.type == "cpu")
        self.clock = Clock(self.log.seconds if self.log else 0.0, self.state.step)
        self.full: BaseException | None = None
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
        if self.full is not None:
            return stop_for_room(self.job, self.control, self.full)
        return end(self.job, "finished" if done else "stopped", self.control.stop_reason, self.team.is_first)

    def decide(self) -> Decision:
        """Stop when asked to, or when nothing can be written; save when that costs little."""
        self.control.at_step(self.state.step)
        self.look_at_the_write()
        if self.control.stop_reason or self.full is not None:
            return Decision.STOP
        if self.saver.is_due(noticed=self.leaving):
            return Decision.SAVE
        if time.monotonic() - self.asked_at > ASK_INTERVAL_S:
            self.asked_at = time.monotonic()
            return Decision.ASK
        return Decision.GO_ON

    def act(self, decision: Decision) -> None:
        """What all workers do together between two steps."""
        self.clock.pause()
        if decision == Decision.ASK:
            self.ask()
        elif decision == Decision.TELL:
            self.tell(None)
        else:
            self.tell(self.save())
        self.clock.go_on()

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
        self.write_row(logged, {})

    def on_epoch(self, logged: LoggedStep, means: dict[str, float]) -> Decision:
        """The epoch's picture, and its last row with means and evaluation; then a checkpoint where one is due."""
        config, last = self.job.config, logged.epoch == self.settings.epochs
        extra = {f"epoch_mean/{name}": value for name, value in means.items()}
        evaluates = last or logged.epoch % config.evaluation.every_n_epochs == 0
        if self.team.is_first and evaluates and is_finite(logged):
            self.clock.pause()
            try:
                extra |= self.evaluate(config.evaluation.num_patches)
                if last:
                    extra |= self.evaluate_all()
                self.writing(lambda: self.write_picture(logged.epoch))
            except EvaluationBrokenOff:
                return Decision.STOP
            finally:
                self.clock.go_on()
        self.write_row(logged, extra)
        if self.full is not None:
            return Decision.STOP
        self.news = {"epoch": logged.epoch, **means, **numbers(extra, "val/")}
        due = last or logged.epoch % config.checkpoint.every_n_epochs == 0
        return Decision.SAVE if due else Decision.TELL

    def write_row(self, logged: LoggedStep, extra: dict[str, float]) -> None:
        """Appends to metrics.jsonl; raises Diverged after a row whose losses are not finite."""
        if self.log is not None:
            pictures = (logged.step - self.clock.step) * self.settings.batch_size
            seconds, images_per_second = self.clock.lap(logged.step, pictures)
            row = {"step": logged.step, "epoch": logged.epoch, "seconds": seconds}
            row |= {"images_per_second": images_per_second, **logged.losses, **extra}
            log = self.log
            self.writing(lambda: log.add(row))
        if not is_finite(logged):
            raise Diverged(f"the losses at step {logged.step} are not finite: {logged.losses}")

    def writing(self, write: Callable[[], None]) -> None:
        """Writes as the trial's owner. A full disk stops the run before the next step: nothing is saved, and
        nothing counts, that was not logged."""
        if self.full is not None:
            return
        try:
            with self.job.committing():
                write()
        except OSError as error:
            if not is_full(error):
                raise
            self.full = error

    def look_at_the_write(self) -> None:
        """A checkpoint that could not be written is known of at the next step, not at the next checkpoint."""
        failure = self.saver.failure()
        if failure is None:
            return
        if not is_full(failure):
            raise failure
        self.full = failure

    def evaluate(self, num_patches: int) -> dict[str, float]:
        """The cheap metrics over a fixed sample: `val/ssim` and so on in the study's mode, `val_eval/` in eval mode."""
        row: dict[str, float] = {}
        for mode in MODES:
            summaries = evaluate(
                self.state.low_generator,
                self.val_patches,
                fixed_sample(len(self.val_patches), num_patches),
                mode,
                self.device,
                self.on_picture,
            )
            for name, summary in summaries.items():
                row |= named(PREFIXES[mode].format("val"), name, summary._asdict())
        return row

    def evaluate_all(self) -> dict[str, float]:
        """All metrics over all validation patches, for the last row; evaluation.csv has the value of each patch."""
        scores = score(self.state.low_generator, self.val_patches, self.device, self.on_picture)
        self.writing(lambda: self.job.trial.write(EVALUATION, csv_of(scores)))
        return final_row(scores)

    def on_picture(self) -> None:
        """After each picture of an evaluation, which may take as long as hundreds of steps."""
        self.control.at_work()
        if self.control.stop_reason:
            raise EvaluationBrokenOff

    def write_picture(self, epoch: int) -> None:
        """images/epoch_0010.png: fixed validation tiles, source | target | generated."""
        indices = fixed_sample(len(self.val_patches), NUM_PICTURES)
        rows = generate(self.state.low_generator, self.val_patches, indices, "study", self.device)
        self.job.trial.make_folder("images")
        self.job.trial.write(image_name(epoch), comparison_png(rows))

    def save(self) -> dict[str, Any] | None:
        """Begins a checkpoint of the state as it is; the manifest of the one before it."""
        manifest = None
        if self.log is not None and self.full is None:
            log, size = self.log, self.log.size
            try:
                manifest = self.saver.written()
                self.saver.save(self.state, lambda: log.first_bytes(size))
            except OSError as error:
                if not is_full(error):
                    raise
                self.full = error
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


class Clock:
    """Training time, over all starts, without evaluation and saving; and pictures a second since the last row."""

    def __init__(self, seconds: float, step: int) -> None:
        self.seconds = seconds
        self.step = step
        self._lap = 0.0
        self._since = time.monotonic()

    def pause(self) -> None:
        """Stops the clock."""
        self._lap += time.monotonic() - self._since

    def go_on(self) -> None:
        """Starts it again."""
        self._since = time.monotonic()

    def lap(self, step: int, pictures: int) -> tuple[float, float]:
        """Seconds in all, and pictures a second since the last lap."""
        self.pause()
        self.go_on()
        lap, self._lap, self.step = self._lap, 0.0, step
        self.seconds += lap
        return round(self.seconds, 3), round(pictures / lap, 3) if lap > 0 else 0.0


def is_finite(logged: LoggedStep) -> bool:
    """True where all losses are; the same on all workers, for they have the same ones."""
    return all(map(math.isfinite, logged.losses.values()))


def numbers(row: dict[str, float], prefix: str) -> dict[str, float]:
    """The entries under a prefix."""
    return {name: value for name, value in row.items() if name.startswith(prefix)}
