"""One trial around gan's loop: restore, train, log, evaluate, save. Knows no Ray.

Order matters: an epoch's row and picture are on disk before the checkpoint that ends the epoch, so that
whatever a checkpoint stands for has been logged; rows past the restored checkpoint are cut off and come
again, the same to the last bit.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from gan.evaluation import MODES, evaluate, fixed_sample, generate
from gan.grids import comparison_png
from gan.patches import Patches
from gan.state import ModelSettings, TrainState
from gan.team import Team
from gan.training import Decision, LoggedStep, TrainingSettings, fit
from runner.checkpoints import (
    newest_checkpoint,
    read_checkpoint,
    remove_old_checkpoints,
    tensor_bytes,
    write_checkpoint,
)
from runner.control import ControlLine
from runner.job import TrialJob, first_line
from runner.metrics_log import MetricsLog, read_rows
from runner.records import record_start, write_outcome, write_weights
from runner.settling import Settled, set_up_torch, settle

SAVE_SHARE = 0.035
MIN_SAVE_INTERVAL_S = 10.0
NUM_PICTURES = 4


class Diverged(Exception):
    """A loss is not finite any more."""


def train_trial(
    job: TrialJob,
    team: Team,
    device: torch.device,
    control: ControlLine,
    report: Callable[[dict[str, Any]], None],
) -> str:
    """Trains a trial from its newest verified checkpoint until it is finished or asked to stop.

    Args:
        report: called on every worker equally often, with a dictionary of numbers and, under
            `checkpoint`, the manifest of a checkpoint just written (None on all workers but the first).

    Returns:
        finished, stopped, diverged or out_of_memory.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    settled = settle(job, team, device)
    set_up_torch(settled, deterministic=job.config.training.deterministic)
    run = TrialRun(job, settled, team, device, control, report)
    try:
        return run.train()
    except Diverged as error:
        return run.end("diverged", str(error))
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        status = run.end("out_of_memory", first_line(error), on_any_worker=True)
        if team.size > 1:
            raise  # the others wait for this worker: Ray must take the whole group down
        return status


def is_out_of_memory(error: BaseException) -> bool:
    """True for an allocation that failed, on a GPU or on the processor."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class TrialRun:
    """The callbacks of `fit` for one trial, and what they share."""

    def __init__(
        self,
        job: TrialJob,
        settled: Settled,
        team: Team,
        device: torch.device,
        control: ControlLine,
        report: Callable[[dict[str, Any]], None],
    ) -> None:
        config = job.config
        self.job, self.settled, self.team, self.device = job, settled, team, device
        self.control, self.report = control, report
        self.train_patches = Patches.open(job.store.local_path / "train.arrow", config.data.direction)
        self.val_patches = Patches.open(job.store.local_path / "val.arrow", config.data.direction)
        self.settings = TrainingSettings(
            precision=settled.precision,
            log_every_n_steps=config.log_every_n_steps,
            **config.training.model_dump(exclude={"precision", "deterministic"}),
        )
        model = ModelSettings(**config.model.model_dump(), patch_size=config.data.patch_size)
        training = config.training
        self.state = TrainState(model, training.seed, training.learning_rate, settled.precision, device)
        self.saved_step = self.restore()
        self.log = self.open_log() if team.is_first else None
        self.clock = Clock(self.log.seconds if self.log else 0.0, self.state.step)
        self.save_s = 0.0
        self.last_save_at = time.monotonic()

    def restore(self) -> int:
        """Loads the newest verified checkpoint, the same on all workers; its step, or 0."""
        trial, ids = self.job.trial, self.job.ids
        found = newest_checkpoint(trial, ids, self.job.say) if self.team.is_first else None
        step = self.team.agree(found[0] if found else 0)
        if step:
            self.state.load_state_dict(found[1] if found else read_checkpoint(trial, step, ids))
        return step

    def open_log(self) -> MetricsLog:
        """Cuts the log back to the restored step, and notes the start."""
        self.job.check_current()
        rows = read_rows(self.job.trial)
        lost_steps = max(rows[-1]["step"] - self.state.step, 0) if rows else 0
        record_start(self.job.trial, self.job.attempt, self.state.step, lost_steps)
        self.job.say(
            f"training from step {self.state.step} in {self.settled.precision} on {self.device}, "
            f"{self.settled.threads} threads"
        )
        return MetricsLog(self.job.trial, self.state.step)

    def train(self) -> str:
        """Runs the loop to its end or to a stop request."""
        done = fit(
            self.state,
            self.train_patches,
            self.settings,
            team=self.team,
            decide=self.decide,
            on_step=self.on_step,
            on_epoch=self.on_epoch,
            on_save=self.save,
        )
        if not done:
            return self.end("stopped", self.control.stop_reason)
        if self.team.is_first:
            self.finish()
        return self.end("finished")

    def decide(self) -> Decision:
        """Stop when asked to; save when that costs little, so that an interruption costs little."""
        self.control.at_step(self.state.step)
        if self.control.stop_reason:
            return Decision.STOP
        interval = max(self.save_s / SAVE_SHARE, MIN_SAVE_INTERVAL_S)
        return Decision.SAVE if time.monotonic() - self.last_save_at > interval else Decision.GO_ON

    def on_step(self, logged: LoggedStep) -> None:
        """One row of the log."""
        self.write_row(logged, {})

    def on_epoch(self, logged: LoggedStep, means: dict[str, float]) -> None:
        """The epoch's last row with means and evaluation, its picture, and a checkpoint where one is due."""
        config, last = self.job.config, logged.epoch == self.settings.epochs
        extra = {f"epoch_mean/{name}": value for name, value in means.items()}
        self.clock.pause()
        if self.team.is_first and (last or logged.epoch % config.evaluation.every_n_epochs == 0):
            extra |= self.evaluate("val", fixed_sample(len(self.val_patches), config.evaluation.num_patches))
            if last:
                extra |= self.evaluate("final", fixed_sample(len(self.val_patches), len(self.val_patches)))
            self.write_picture(logged.epoch)
        self.clock.go_on()
        self.write_row(logged, extra)
        if last or logged.epoch % config.checkpoint.every_n_epochs == 0:
            self.save()
        self.report({"step": logged.step, "epoch": logged.epoch, **means, **numbers(extra, "val/")})

    def write_row(self, logged: LoggedStep, extra: dict[str, float]) -> None:
        """Appends to metrics.jsonl; raises Diverged after a row whose losses are not finite."""
        if self.log is not None:
            self.job.check_current()
            pictures = (logged.step - self.clock.step) * self.settings.batch_size
            seconds, images_per_second = self.clock.lap(logged.step, pictures)
            row = {"step": logged.step, "epoch": logged.epoch, "seconds": seconds}
            self.log.add({**row, "images_per_second": images_per_second, **logged.losses, **extra})
        if not all(map(math.isfinite, logged.losses.values())):
            raise Diverged(f"the losses at step {logged.step} are not finite: {logged.losses}")

    def evaluate(self, split: str, indices: Any) -> dict[str, float]:
        """Metrics in both modes: `split/ssim` and so on as the study evaluates, `split_eval/ssim` in eval mode."""
        row: dict[str, float] = {}
        for mode in MODES:
            prefix = split if mode == "study" else f"{split}_eval"
            generator, precision = self.state.generator, self.settled.precision
            for name, summary in evaluate(generator, self.val_patches, indices, mode, precision, self.device).items():
                row[f"{prefix}/{name}"] = summary.mean
                row |= {f"{prefix}/{name}_{part}": getattr(summary, part) for part in ("min", "max", "std")}
        return row

    def write_picture(self, epoch: int) -> None:
        """images/epoch_0010.png: fixed validation tiles, source | target | generated."""
        indices = fixed_sample(len(self.val_patches), NUM_PICTURES)
        generator, precision = self.state.generator, self.settled.precision
        rows = generate(generator, self.val_patches, indices, "study", precision, self.device)
        self.job.trial.make_folder("images")
        self.job.trial.write(f"images/epoch_{epoch:04d}.png", comparison_png(rows))

    def save(self) -> None:
        """Writes a checkpoint of the state as it is, unless this step has one, and tells Ray of it."""
        if self.state.step == self.saved_step:
            return
        self.clock.pause()
        start = time.monotonic()
        manifest = None
        if self.team.is_first:
            groups, trial = self.state.state_dict(), self.job.trial
            manifest = write_checkpoint(trial, groups, self.state.step, self.job.ids, self.job.check_current)
            remove_old_checkpoints(trial, self.job.config.checkpoint.keep)
        self.saved_step = self.state.step
        self.report({"step": self.state.step, "epoch": self.state.epoch, "checkpoint": manifest})
        self.last_save_at = time.monotonic()
        self.save_s = self.last_save_at - start
        self.clock.go_on()

    def finish(self) -> None:
        """The finished trial's weights; of its checkpoints `keep_finished` stay."""
        self.job.check_current()
        weights = tensor_bytes(self.state.generator.state_dict())
        write_weights(self.job.trial, weights, self.state.epoch - 1, self.state.step, self.job.ids)
        remove_old_checkpoints(self.job.trial, self.job.config.checkpoint.keep_finished)

    def end(self, status: str, reason: str = "", *, on_any_worker: bool = False) -> str:
        """Notes how the run ended: on the first worker, unless what ended it may be known to another alone."""
        if self.team.is_first or on_any_worker:
            self.job.check_current()
            self.job.say(f"{status} at step {self.state.step}{': ' + reason if reason else ''}")
            write_outcome(self.job.trial, status, reason)
        return status


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


def numbers(row: dict[str, float], prefix: str) -> dict[str, float]:
    """The entries under a prefix."""
    return {name: value for name, value in row.items() if name.startswith(prefix)}
