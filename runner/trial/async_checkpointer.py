"""Checkpoints written while training goes on: it waits for a snapshot only, and a thread writes that."""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from statistics import median
from typing import Any

from gan.training.snapshot import Snapshot, is_finite
from gan.training.state import TrainState
from runner.records.checkpoints import RunPosition, best_in_checkpoints, remove_old_checkpoints, write_checkpoint
from runner.records.weights import remove_interim
from runner.storage.storage import is_full
from runner.trial.job import TrialJob

SAVE_SHARE = 0.035  # of the time, what saving may cost
MIN_INTERVAL_S = 10.0
PREEMPTION_INTERVAL_S = 5.0
_WRITER_NICENESS = 10
_NUM_STEPS = 50  # whose times are kept, to compare steps during a write with


class AsyncCheckpointer:
    """Writes a trial's checkpoints, one at a time, as often as costs at most 3.5 % of the time.

    A save costs the time that training waits for it, and on a processor the time by which steps during the
    write are longer than others: at least the processor time of the writing thread, and at most twice that, so that
    something else that slows steps down does not keep checkpoints away.

    Attributes:
        cost_s: of the last save.

    Args:
        runtime: threads, precision and kernels, for the manifest.
        restored: the state as it was restored, which need not be saved again.
        on_tensor: called in the thread after each tensor.
        shares_cores: whether the writing thread takes processor time from training.
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
        self._runtime = runtime
        self._on_tensor = on_tensor
        self._shares_cores = shares_cores
        self._clock = clock
        self._steps = StepTimes()
        self._snapshot = Snapshot()
        # One thread, because there is one snapshot: a save waits for the write before it.
        self._pool = ThreadPoolExecutor(1, "checkpointer", initializer=_yield_to_training)
        self._write: Future[dict[str, Any] | None] | None = None
        self._started = self._last_save_at = time.monotonic()
        self.cost_s = self._total_cost_s = 0.0
        self._stall_s = self._processor_s = 0.0
        self._saved_position = _position_of(restored)

    def is_due(self, *, preemption_notice: bool) -> bool:
        """True when a save costs little enough by now, and the one before it is written. To be called before each step.

        Args:
            preemption_notice: the machine is about to be taken away, so that any moment may be the last.
        """
        # Also during a write: `lost_s` compares the steps during writes with the others.
        writing = self.is_writing()
        self._steps.at_step(self._clock(), writing=writing)
        if writing:
            return False

        self._count_slower_steps()
        # A save may cost SAVE_SHARE of the time: one that cost 1 s is followed by the next after 1 / 0.035 = 29 s.
        interval = PREEMPTION_INTERVAL_S if preemption_notice else max(self.cost_s / SAVE_SHARE, MIN_INTERVAL_S)
        return time.monotonic() - self._last_save_at > interval

    def _count_slower_steps(self) -> None:
        """After a write: adds to its cost the time lost in steps that the thread's processor time does not explain."""
        more_s = min(max(self._steps.lost_s() - self._processor_s, 0.0), self._processor_s)
        # Each write counts once: a second call before the next write adds nothing.
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

    def save(
        self,
        state: TrainState,
        log: Callable[[], bytes],
        write_best: Callable[[], Mapping[str, Any] | None] = lambda: None,
    ) -> None:
        """Takes a snapshot and begins to write it, unless this step has been saved.

        Args:
            log: gives the log up to this step, whenever it is called.
            write_best: writes the best weights so far, unless they are written; what the manifest says of them.

        Raises:
            OSError: the write before this one failed; see `is_full`.
        """
        if _position_of(state) == self._saved_position:
            return
        # Training waits from here on: for the write before this one, whose memory is filled again, and for the copy.
        start = time.monotonic()
        self.wait()
        self._count_slower_steps()
        self._snapshot.take(state.state_dict())
        # An epoch's end is saved when the state stands at the first step of the next epoch.
        finished_epoch = state.epoch - 1 if state.epoch_step == 0 else 0
        position = RunPosition(state.step, finished_epoch, self._runtime, self._clock())

        self._last_save_at = time.monotonic()
        self._stall_s = self._last_save_at - start
        self._saved_position = _position_of(state)
        self._write = self._pool.submit(self._write_snapshot, position, log, write_best)

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

    def _write_snapshot(
        self, position: RunPosition, log: Callable[[], bytes], write_best: Callable[[], Mapping[str, Any] | None]
    ) -> dict[str, Any] | None:
        """In the thread: writes, deletes old checkpoints, logs the cost. None where the state is not worth keeping."""
        start, start_cpu = time.monotonic(), time.thread_time()
        job, groups = self._job, self._snapshot.groups()
        # A checkpoint that can't be used would push an older, good one out.
        if not is_finite(groups):
            job.log_line(f"step {position.step} is not saved: its state is not finite")
            return None

        def write() -> dict[str, Any]:
            with_best = position._replace(best=write_best())  # first: the manifest has its SHA-256
            return write_checkpoint(
                job.trial, groups, log(), with_best, job.fingerprints, job.committing, self._on_tensor
            )  # fmt: skip

        manifest = self._write_with_room(write)
        self._remove_old()

        # A bool counts as 0 or 1: where training runs on a GPU, the thread's processor time costs nothing.
        self._processor_s = (time.thread_time() - start_cpu) * self._shares_cores
        self.cost_s = self._stall_s + self._processor_s
        self._total_cost_s += self.cost_s
        written_s = time.monotonic() - start
        megabytes = sum(entry["bytes"] for entry in manifest["files"].values()) / 1e6
        job.log_line(
            f"checkpoint at step {position.step}: {megabytes:.1f} MB, training waited {self._stall_s:.3f} s, "
            f"written in {written_s:.3f} s beside it; "
            f"saving has cost {100 * self.share:.2f} % of the time"
        )
        return manifest

    def _write_with_room(self, write: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Writes; where the disk is full, deletes old checkpoints and tries once more."""
        try:
            return write()
        except OSError as error:
            if not is_full(error):
                raise
        self._remove_old()
        return write()

    def _remove_old(self) -> None:
        keep = self._job.config.checkpoint
        with self._job.committing():
            remove_old_checkpoints(self._job.trial, keep.keep, keep.keeps_epoch)
            named = best_in_checkpoints(self._job.trial, self._job.fingerprints)
            remove_interim(self._job.trial, {int(best["epoch"]) for best in named})


class StepTimes:
    """How long steps take: those during a write apart from the others."""

    def __init__(self) -> None:
        self._alone: deque[float] = deque(maxlen=_NUM_STEPS)
        self._during_write: list[float] = []
        self._last_at: float | None = None
        self._was_writing = False

    def at_step(self, now: float, *, writing: bool) -> None:
        """Takes the time between two steps."""
        if self._last_at is not None:
            # A step counts as one during a write where a write was going on at its begin or at its end.
            times = self._during_write if writing or self._was_writing else self._alone
            times.append(now - self._last_at)
        self._last_at, self._was_writing = now, writing

    def lost_s(self) -> float:
        """How much longer steps during a write took, 0 where that is not known; they are forgotten."""
        if not (self._during_write and self._alone):
            return 0.0
        during_write, self._during_write = self._during_write, []
        return sum(during_write) - len(during_write) * median(self._alone)


def _position_of(state: TrainState) -> tuple[int, int]:
    """Step and epoch: an epoch's end and the next epoch's start have the same step."""
    return state.step, state.epoch


def _yield_to_training() -> None:
    """Lets the training's threads go first where there are not cores enough (Linux counts this by thread)."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _WRITER_NICENESS)
