"""Saving beside training: a snapshot while training waits, the write in a thread of its own."""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from statistics import median
from typing import Any

from gan.training.snapshot import Snapshot, is_finite
from gan.training.state import TrainState
from runner.records.checkpoints import RunPosition, remove_old_checkpoints, write_checkpoint
from runner.storage.folder import is_full
from runner.trial.job import TrialJob

SAVE_SHARE = 0.035
MIN_INTERVAL_S = 10.0
PREEMPTION_INTERVAL_S = 5.0
WRITER_NICENESS = 10
NUM_STEPS = 50


class AsyncCheckpointer:
    """Writes a trial's checkpoints, one at a time, as often as costs at most 3.5 % of the time.

    What a save costs is the time that training waits for it, and on a processor what the steps beside the write take
    longer than others: at least the processor time of the writing thread, and at most twice that, so that something
    else that holds steps up does not keep checkpoints away.

    Attributes:
        cost_s: of the last save.

    Args:
        clock: training time in seconds: it stands still while training does.
    """

    def __init__(
        self,
        job: TrialJob,
        runtime: dict[str, Any],
        restored: TrainState,
        on_tensor: Callable[[], None],
        *,
        shares_cores: bool,
        clock: Callable[[], float],
    ) -> None:
        self._job = job
        self._settled = runtime
        self._on_tensor = on_tensor
        self._shares_cores = shares_cores
        self._clock = clock
        self._steps = StepTimes()
        self._snapshot = Snapshot()
        self._pool = ThreadPoolExecutor(1, "saver", initializer=yield_to_training)
        self._write: Future[dict[str, Any] | None] | None = None
        self._started = self._last_save_at = time.monotonic()
        self.cost_s = self._total_cost_s = 0.0
        self._stall_s = self._processor_s = 0.0
        self._saved_place = position_of(restored)

    def is_due(self, *, preemption_notice: bool) -> bool:
        """True when a save costs little enough by now, and the one before it is written. Asked before each step.

        Args:
            preemption_notice: the machine is about to be taken away, so that any moment may be the last.
        """
        writing = self.is_writing()
        self._steps.at_step(self._clock(), writing=writing)
        if writing:
            return False
        self._count_slower_steps()
        interval = PREEMPTION_INTERVAL_S if preemption_notice else max(self.cost_s / SAVE_SHARE, MIN_INTERVAL_S)
        return time.monotonic() - self._last_save_at > interval

    def _count_slower_steps(self) -> None:
        """After a write: adds to its cost what steps beside it took longer than the thread's processor time tells."""
        more_s = min(max(self._steps.taken_s() - self._processor_s, 0.0), self._processor_s)
        self._processor_s = 0.0
        self.cost_s += more_s
        self._total_cost_s += more_s

    def is_writing(self) -> bool:
        """True while a checkpoint is on its way to storage."""
        return self._write is not None and not self._write.done()

    def failure(self) -> BaseException | None:
        """What stopped the last write, if something did."""
        write = self._write
        return write.exception() if write is not None and write.done() else None

    def save(self, state: TrainState, log: Callable[[], bytes]) -> None:
        """Takes a snapshot and begins to write it, unless this step has been saved.

        Args:
            log: gives the log up to this step, whenever it is called.

        Raises:
            OSError: the write before this one failed; see `is_full`.
        """
        if position_of(state) == self._saved_place:
            return
        start = time.monotonic()
        self.wait()
        self._count_slower_steps()
        self._snapshot.take(state.state_dict())
        ended = state.epoch - 1 if state.epoch_step == 0 else 0
        place = RunPosition(state.step, ended, self._settled)
        self._last_save_at = time.monotonic()
        self._stall_s = self._last_save_at - start
        self._saved_place = position_of(state)
        self._write = self._pool.submit(self._write_snapshot, place, log)

    def wait(self) -> dict[str, Any] | None:
        """Waits until what was begun is on storage; its manifest, once. Raises what stopped the write."""
        write, self._write = self._write, None
        return write.result() if write is not None else None

    def written(self) -> dict[str, Any] | None:
        """As `wait`, but None where the write goes on."""
        return self.wait() if self._write is not None and self._write.done() else None

    @property
    def share(self) -> float:
        """Of the time since the start, what saving has cost."""
        return self._total_cost_s / max(time.monotonic() - self._started, 1e-9)

    def close(self) -> None:
        """Waits for the thread's end."""
        self._pool.shutdown()

    def _write_snapshot(self, place: RunPosition, log: Callable[[], bytes]) -> dict[str, Any] | None:
        """In the thread: writes, makes room, says what it cost. None where the state is not worth keeping."""
        start, start_cpu = time.monotonic(), time.thread_time()
        groups = self._snapshot.groups()
        if not is_finite(groups):
            self._job.log_line(f"step {place.step} is not saved: its state is not finite")
            return None
        job = self._job
        manifest = self._write_with_room(
            lambda: write_checkpoint(job.trial, groups, log(), place, job.fingerprints, job.committing, self._on_tensor)
        )
        self._make_room()
        self._processor_s = (time.thread_time() - start_cpu) * self._shares_cores
        self.cost_s = self._stall_s + self._processor_s
        self._total_cost_s += self.cost_s
        written_s = time.monotonic() - start
        megabytes = sum(entry["bytes"] for entry in manifest["files"].values()) / 1e6
        self._job.log_line(
            f"checkpoint at step {place.step}: {megabytes:.1f} MB, training waited {self._stall_s:.3f} s, "
            f"written in {written_s:.3f} s beside it; "
            f"saving has cost {100 * self.share:.2f} % of the time"
        )
        return manifest

    def _write_with_room(self, write: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Writes; where the disk is full, again after what may go has gone."""
        try:
            return write()
        except OSError as error:
            if not is_full(error):
                raise
        self._make_room()
        return write()

    def _make_room(self) -> None:
        keep = self._job.config.checkpoint
        with self._job.committing():
            remove_old_checkpoints(self._job.trial, keep.keep, keep.keeps_epoch)


class StepTimes:
    """How long steps take, those beside a write apart from the others."""

    def __init__(self) -> None:
        self._alone: deque[float] = deque(maxlen=NUM_STEPS)
        self._beside: list[float] = []
        self._last_at: float | None = None
        self._was_writing = False

    def at_step(self, now: float, *, writing: bool) -> None:
        """Between two steps."""
        if self._last_at is not None:
            times = self._beside if writing or self._was_writing else self._alone
            times.append(now - self._last_at)
        self._last_at, self._was_writing = now, writing

    def taken_s(self) -> float:
        """How much longer steps beside a write took, 0 where it is not known; they are forgotten."""
        if not (self._beside and self._alone):
            return 0.0
        beside, self._beside = self._beside, []
        return sum(beside) - len(beside) * median(self._alone)


def position_of(state: TrainState) -> tuple[int, int]:
    """What tells two moments of a run apart: an epoch's end and the next one's start have the same step."""
    return state.step, state.epoch


def yield_to_training() -> None:
    """Lets the training's threads go first where there are not cores enough (Linux counts this by thread)."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), WRITER_NICENESS)
