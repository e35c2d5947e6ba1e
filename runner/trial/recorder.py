"""What a trial writes while it trains: rows of the log, evaluations and pictures."""

import math
import time
from collections.abc import Callable

from gan.data.patches import Patches
from gan.data.selection import selection_half
from gan.evaluation.evaluate import evaluate, fixed_sample, generate, score
from gan.evaluation.grids import comparison_png
from gan.evaluation.metrics import MODES
from gan.training.delayed_logger import LoggedStep
from gan.training.state import TrainState
from runner.records.evaluation_csv import csv_of, final_row, selection_row
from runner.records.metrics_log import MetricsLog, log_columns
from runner.storage.folder import is_full
from runner.storage.run_folder import EVALUATION_CSV, IMAGES, image_name
from runner.trial.heartbeat import Heartbeat
from runner.trial.job import TrialJob
from runner.trial.outcome import Diverged

NUM_PICTURES = 4


class EvaluationBrokenOff(Exception):
    """Asked to stop in the middle of an evaluation."""


class Recorder:
    """Writes for the worker that owns the trial; on the others, which have no log, it writes nothing.

    Attributes:
        log: metrics.jsonl; None on all workers but the first.
        clock: the training time that rows have.
        disk_full: the error of a write for which the disk had no room; from then on nothing more is written.
    """

    def __init__(
        self,
        job: TrialJob,
        log: MetricsLog | None,
        state: TrainState,
        val_patches: Patches,
        heartbeat: Heartbeat,
        trained_s: float,
    ) -> None:
        """Writes nothing yet; `trained_s` is the training time of the restored state, 0 where that is not known."""
        self.log = log
        # The checkpoint may have been taken between two rows.
        self.clock = Clock(max(log.seconds if log else 0.0, trained_s), state.step)
        self.disk_full: BaseException | None = None
        self._job, self._state, self._val_patches, self._heartbeat = job, state, val_patches, heartbeat

    def add_row(self, logged: LoggedStep, extra: dict[str, float], *, synced: bool) -> None:
        """Appends to metrics.jsonl; raises Diverged after a row whose losses are not finite.

        Args:
            synced: wait for the disk, which may take longer than many steps of a GPU.
        """
        log = self.log
        if log is not None:
            pictures = (logged.step - self.clock.step) * self._job.config.training.batch_size
            seconds, images_per_second = self.clock.lap(logged.step, pictures)
            row = {"step": logged.step, "epoch": logged.epoch, "seconds": seconds}
            row |= {"images_per_second": images_per_second, **logged.losses, **extra}
            self._write(lambda: log.add(row, synced=synced))

        # After the row, which then shows what happened.
        if not is_finite(logged):
            raise Diverged(f"the losses at step {logged.step} are not finite: {logged.losses}")

    def _write(self, write: Callable[[], None]) -> None:
        """Writes as the trial's owner. A full disk stops the run before the next step, so that nothing is saved that
        was not logged."""
        if self.disk_full is not None:
            return
        try:
            with self._job.committing():
                write()
        except OSError as error:
            if not is_full(error):
                raise
            self.disk_full = error

    def record_epoch(self, epoch: int, *, last: bool, measured: bool = False) -> dict[str, float]:
        """Evaluates and writes the epoch's picture; the columns for its row. Raises EvaluationBrokenOff.

        Args:
            last: all metrics of all validation patches, too.
            measured: and what a halved sweep ranks trials by.
        """
        self.clock.pause()
        try:
            row = self._evaluate(self._job.config.evaluation.num_patches)
            if last:
                row |= self._evaluate_all()
            if measured:
                row |= self._evaluate_selection()
            self._write(lambda: self._write_picture(epoch))
        finally:
            self.clock.go_on()
        return row

    def _evaluate(self, num_patches: int) -> dict[str, float]:
        """The cheap metrics over a fixed sample: `val/ssim` and so on in the study's mode, `val_eval/` in eval mode."""
        row: dict[str, float] = {}
        for mode in MODES:
            summaries = evaluate(
                self._state.compute_generator,
                self._val_patches,
                fixed_sample(len(self._val_patches), num_patches),
                mode,
                self._state.device,
                self._on_picture,
            )
            for name, summary in summaries.items():
                row |= log_columns("val", mode, name, summary._asdict())
        return row

    def _evaluate_all(self) -> dict[str, float]:
        """All metrics over all validation patches, for the last row; evaluation.csv has the value of each patch."""
        scores = score(self._state.compute_generator, self._val_patches, self._state.device, self._on_picture)
        self._write(lambda: self._job.trial.write(EVALUATION_CSV, csv_of(scores)))
        return final_row(scores)

    def _evaluate_selection(self) -> dict[str, float]:
        """All metrics over all patches of the half to choose by, as `selection/swd`, in the study's mode."""
        origins = [self._val_patches.origin(index) for index in range(len(self._val_patches))]
        chosen = selection_half(origin.name for origin in origins)
        indices = [index for index, origin in enumerate(origins) if origin.name in chosen]
        scores = score(
            self._state.compute_generator, self._val_patches, self._state.device, self._on_picture,
            indices=indices, modes=("study",),
        )  # fmt: skip
        return selection_row(scores)

    def _on_picture(self) -> None:
        """Counts progress, and breaks an evaluation off that may take as long as hundreds of steps."""
        self._heartbeat.at_work()
        if self._heartbeat.stop_reason:
            raise EvaluationBrokenOff

    def _write_picture(self, epoch: int) -> None:
        """images/epoch_0010.png: fixed validation tiles, source | target | generated."""
        indices = fixed_sample(len(self._val_patches), NUM_PICTURES)
        rows = generate(self._state.compute_generator, self._val_patches, indices, "study", self._state.device)
        self._job.trial.make_folder(IMAGES)
        self._job.trial.write(image_name(epoch), comparison_png(rows))


class Clock:
    """Training time, over all starts, without evaluation and saving; and pictures a second since the last row.

    Attributes:
        step: of the last row.
    """

    def __init__(self, seconds: float, step: int) -> None:
        self.step = step
        self._lap_began = seconds
        # Time at some moment, and that moment, None while the clock stands. One object, because other threads read it.
        self._reading: tuple[float, float | None] = (seconds, time.monotonic())

    def now(self) -> float:
        """The training time at this moment, in any thread."""
        seconds, since = self._reading
        return seconds if since is None else seconds + time.monotonic() - since

    def pause(self) -> None:
        """Stops the clock."""
        self._reading = (self.now(), None)

    def go_on(self) -> None:
        """Starts it again."""
        self._reading = (self.now(), time.monotonic())

    def lap(self, step: int, pictures: int) -> tuple[float, float]:
        """Seconds in all, and pictures a second since the last lap."""
        now = self.now()
        lap, self._lap_began, self.step = now - self._lap_began, now, step
        return round(now, 3), round(pictures / lap, 3) if lap > 0 else 0.0


def is_finite(logged: LoggedStep) -> bool:
    """True where all losses are; the same on all workers, for they have the same ones."""
    return all(map(math.isfinite, logged.losses.values()))
