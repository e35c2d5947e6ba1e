"""What a trial writes while it trains: rows of the log, evaluations and pictures."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import safetensors.torch
from torch import Tensor

from gan.data.patches import Patches
from gan.data.selection import selection_half
from gan.evaluation.evaluate import EPOCH_FUNCTIONS, METRIC_FUNCTIONS, fixed_sample, generate, score, summarise
from gan.evaluation.grids import comparison_png
from gan.evaluation.metrics import MODES
from gan.networks.generator import Generator
from gan.networks.precision import low_precision_copy, memory_format_of
from gan.training.delayed_logger import LoggedStep
from gan.training.state import TrainState
from runner.records.evaluation_csv import csv_of, final_row, selection_row
from runner.records.metrics_log import MetricsLog, best_column, log_columns, read_rows, sample_column
from runner.records.weights import choose, read_interim, remove_interim, write_best, write_interim
from runner.storage.run_folder import EVALUATION_CSV, IMAGES, image_name
from runner.storage.storage import takes_nothing
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
        unwritable: the error of a write that the storage could not take; from then on nothing more is written.
    """

    def __init__(
        self,
        job: TrialJob,
        log: MetricsLog | None,
        state: TrainState,
        val_patches: Patches,
        heartbeat: Heartbeat,
        trained_s: float,
        precision: str,
        restored_best: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes nothing yet.

        Args:
            trained_s: the training time of the restored state, 0 where that is not known.
            precision: that the steps compute in.
            restored_best: what its checkpoint says of the best weights.
        """
        self.log = log
        # The checkpoint may have been taken between two rows.
        self.clock = Clock(max(log.seconds if log else 0.0, trained_s), state.step)
        self.unwritable: BaseException | None = None
        self._job, self._state, self._val_patches, self._heartbeat = job, state, val_patches, heartbeat
        origins = [val_patches.origin(index) for index in range(len(val_patches))]
        chosen = selection_half(origin.name for origin in origins)
        self._selection = [index for index, origin in enumerate(origins) if origin.name in chosen]
        self._report = [index for index, origin in enumerate(origins) if origin.name not in chosen]
        self._sample = fixed_sample(len(val_patches), job.config.evaluation.num_patches)
        metric = job.config.evaluation.select
        # With one picture nothing would be left to report with, and a small sample may have none of the selection half.
        can_choose = bool(self._report) and not set(self._sample.tolist()).isdisjoint(self._selection)
        self.best: BestSoFar | None = None
        if metric and log is not None and can_choose:
            self.best = BestSoFar(job, state, precision, metric, restored_best)

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
            self._unless_unwritable(lambda: log.add(row, synced=synced))

        # After the row, which then shows what happened.
        if not is_finite(logged):
            raise Diverged(f"the losses at step {logged.step} are not finite: {logged.losses}")

    def _write(self, write: Callable[[], None]) -> None:
        """Writes as the trial's owner."""

        def write_as_owner() -> None:
            with self._job.committing():
                write()

        self._unless_unwritable(write_as_owner)

    def _unless_unwritable(self, write: Callable[[], None]) -> None:
        """A storage that takes nothing stops the run before the next step, so that nothing is saved that was not
        logged."""
        if self.unwritable is not None:
            return
        try:
            write()
        except OSError as error:
            if not takes_nothing(error):
                raise
            self.unwritable = error

    def record_epoch(self, epoch: int, *, last: bool, measured: bool = False) -> dict[str, float]:
        """Evaluates and writes the epoch's picture; the columns for its row. Raises EvaluationBrokenOff.

        Args:
            last: all metrics of all validation patches, too.
            measured: and what a halved sweep ranks trials by.
        """
        self.clock.pause()
        try:
            row = self._evaluate(epoch)
            if last or self.is_patience_over:
                row |= self._evaluate_all()
                row |= self._evaluate_best()
            if measured:
                row |= self._evaluate_selection()
            self._write(lambda: self._write_picture(epoch))
        finally:
            self.clock.go_on()
        return row

    @property
    def is_patience_over(self) -> bool:
        """True where the trial has not become better for as long as evaluation.patience says."""
        patience = self._job.config.evaluation.patience
        return self.best is not None and patience is not None and self.best.choice.since >= patience

    def _evaluate(self, epoch: int) -> dict[str, float]:
        """The cheap metrics over the fixed sample: `val/ssim` and so on in the study's mode, `val_eval/` in eval mode.

        In the study's mode the metric that the best weights are chosen by, too: its mean over the selection half.
        """
        row: dict[str, float] = {}
        for mode in MODES:
            metrics = dict(EPOCH_FUNCTIONS)
            if self.best is not None and mode == "study":
                metrics[self.best.metric] = METRIC_FUNCTIONS[self.best.metric]
            scores = score(
                self._state.compute_generator, self._val_patches, self._state.device, self._on_picture, metrics,
                indices=self._sample.tolist(), modes=(mode,),
            )  # fmt: skip
            columns = dict(zip(scores.metrics, scores.values[mode].T, strict=True))
            for name in EPOCH_FUNCTIONS:
                row |= log_columns("val", mode, name, summarise(columns[name])._asdict())
            if self.best is not None and mode == "study":
                chosen = np.isin(self._sample, self._selection)
                value = float(columns[self.best.metric][chosen].mean())
                row[sample_column(self.best.metric)] = value
                self.best.take(epoch, value)
        return row

    def _evaluate_best(self) -> dict[str, float]:
        """`best/epoch`, and the metrics of the best weights over the report half: `best/ssim` and so on."""
        generator = self.best.generator() if self.best is not None else None
        if self.best is None or generator is None:
            return {}
        scores = score(
            generator, self._val_patches, self._state.device, self._on_picture,
            indices=self._report, modes=("study",),
        )  # fmt: skip
        means = scores.values["study"].mean(axis=0).tolist()
        row = {best_column(metric): mean for metric, mean in zip(scores.metrics, means, strict=True)}
        return {best_column("epoch"): self.best.choice.epoch, **row}

    def _evaluate_all(self) -> dict[str, float]:
        """All metrics over all validation patches, for the last row; evaluation.csv has the value of each patch."""
        scores = score(self._state.compute_generator, self._val_patches, self._state.device, self._on_picture)
        self._write(lambda: self._job.trial.write(EVALUATION_CSV, csv_of(scores)))
        return final_row(scores)

    def _evaluate_selection(self) -> dict[str, float]:
        """All metrics over all patches of the half to choose by, as `selection/swd`, in the study's mode."""
        scores = score(
            self._state.compute_generator, self._val_patches, self._state.device, self._on_picture,
            indices=self._selection, modes=("study",),
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


class BestSoFar:
    """The best generator of the evaluations so far, on the worker that records.

    Attributes:
        metric: that it is chosen by.
        choice: which it is.
    """

    def __init__(
        self, job: TrialJob, state: TrainState, precision: str, metric: str, restored: Mapping[str, Any] | None
    ) -> None:
        """Goes on from the trial's log.

        Args:
            restored: what the restored checkpoint says of the best weights: epoch, step and sha256.
        """
        self.metric = metric
        self._job, self._state, self._precision = job, state, precision
        self.choice = choose(read_rows(job.trial), metric)
        # Where their file is gone, or the metric is another one now, there is an epoch and there are no weights.
        is_same = restored is not None and restored["epoch"] == self.choice.epoch
        self._written: Mapping[str, Any] | None = restored if is_same else None
        self._weights: dict[str, Tensor] | None = None
        self._step = int(restored["step"]) if restored is not None and is_same else 0

    def take(self, epoch: int, value: float) -> None:
        """Takes one more evaluation, and a copy of the generator where it is better."""
        self.choice = self.choice.after(epoch, value if math.isfinite(value) else None, self.metric)
        if self.choice.epoch == epoch:
            weights = self._state.generator.state_dict()
            self._weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
            self._written, self._step = None, self._state.step

    def write(self) -> Callable[[], Mapping[str, Any] | None]:
        """What a checkpoint of this moment does in its thread: it writes the weights, and says it in its manifest."""
        choice, weights, written, step = self.choice, self._weights, self._written, self._step

        def work() -> Mapping[str, Any] | None:
            if written is not None or weights is None:
                return written
            self._job.check_current()
            sha256 = write_interim(self._job.trial, choice.epoch, weights)
            record = {"epoch": choice.epoch, "step": step, "sha256": sha256}
            if self.choice.epoch == choice.epoch:
                self._written = record
            return record

        return work

    def generator(self) -> Generator | None:
        """The best generator, as the steps compute with it; None where its weights are gone."""
        state = self._state
        if self.choice.epoch == state.epoch and self._weights is not None:
            return state.compute_generator
        weights = self._weights or self._read()
        if not weights:
            return None
        generator = self._job.config.networks.new_generator()
        generator.to(device=state.device, memory_format=memory_format_of(state.device, self._precision))  # type: ignore[call-overload]
        generator.load_state_dict(weights)
        return low_precision_copy(generator, self._precision)

    def _read(self) -> dict[str, Tensor]:
        written = self._written
        content = read_interim(self._job.trial, written["epoch"], written["sha256"]) if written is not None else None
        return safetensors.torch.load(content) if content is not None else {}

    def finish(self) -> None:
        """Writes weights/best.safetensors, as the owner of a trial whose last checkpoint is written."""
        written = self._written
        content = read_interim(self._job.trial, written["epoch"], written["sha256"]) if written is not None else None
        if written is None or content is None:
            self._job.log_line(f"the weights of the best epoch, {self.choice.epoch}, are gone")
            return
        record = {"epoch": written["epoch"], "step": written["step"], "metric": self.metric, "value": self.choice.value}
        write_best(self._job.trial, content, record, self._job.fingerprints)
        remove_interim(self._job.trial, keep=())


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
