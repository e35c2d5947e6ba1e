"""What the main process and the trials tell each other while they run: stop, and how far they are."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple, Protocol

NUM_STEP_TIMES = 100


class Progress(NamedTuple):
    """How far a trial is.

    Attributes:
        step: steps done.
        step_s: seconds that a step takes: the mean of the last hundred, 0 before there are any.
        progress_count: grows with whatever is done: a step, a picture evaluated, a file written.
    """

    step: int
    step_s: float
    progress_count: int


class IdleTime(NamedTuple):
    """For how long a trial's workers have made no progress, and what a step of theirs takes (0: not known)."""

    seconds: float
    step_s: float


class HeartbeatReply(NamedTuple):
    """The Coordinator's reply to a heartbeat.

    Attributes:
        stop_reason: why to stop; "" to go on.
        last_step: the last step that any worker of the trial has reported.
        held_s: for how many seconds the trial's workers have had their places; 0 where nobody gives places.
    """

    stop_reason: str
    last_step: int
    held_s: float


class Coordinator:
    """Holds the stop request and every trial's progress. Lives in an actor under Ray, in the process otherwise."""

    def __init__(self) -> None:
        self._stop = ""
        self._progress: dict[str, Progress] = {}
        self._progress_at: dict[str, float] = {}
        self._workers: dict[str, list[bytes]] = {}
        self._placements: dict[str, bytes] = {}
        self._waiting_since: dict[str, float] = {}
        self._held_since: dict[str, float] = {}
        self._pending: set[str] = set()

    def request_stop(self, reason: str) -> None:
        """From now on every heartbeat is answered with this reason; the first reason counts."""
        self._stop = self._stop or reason

    def stop_reason(self) -> str:
        """Why all are to stop; "" while none is."""
        return self._stop

    def heartbeat(self, trial: str, progress: Progress | None) -> HeartbeatReply:
        """Takes a trial's progress, if there is some."""
        if progress is not None:
            # The same report again means that nothing was done: the time of the last progress stays as it is.
            if progress != self._progress.get(trial):
                self._progress_at[trial] = time.monotonic()
            self._progress[trial] = progress
        last_step = self._progress[trial].step if trial in self._progress else 0
        now = time.monotonic()
        return HeartbeatReply(self._stop, last_step, now - self._held_since.get(trial, now))

    def add_worker(self, trial: str, handle: bytes) -> None:
        """Records a worker that begins, so that it can be ended if it hangs; `handle` is its pickled actor handle."""
        self._workers.setdefault(trial, []).append(handle)
        self._progress_at[trial] = time.monotonic()
        # A step time of 0 means `not known`: the watchdog gives a new worker the longer time of a first step.
        if trial in self._progress:
            self._progress[trial] = self._progress[trial]._replace(step_s=0.0)

    def idle_time(self, trial: str) -> IdleTime | None:
        """How long a trial's workers have made no progress; None where it has no worker."""
        if not self._workers.get(trial):
            return None
        step_s = self._progress[trial].step_s if trial in self._progress else 0.0
        return IdleTime(time.monotonic() - self._progress_at[trial], step_s)

    def take_workers(self, trial: str) -> list[bytes]:
        """The recorded workers of a trial, which are forgotten here."""
        return self._workers.pop(trial, [])

    def set_placement(self, trial: str, placement: bytes) -> None:
        """Records a trial's placement group, pickled."""
        self._placements[trial] = placement

    def take_placement(self, trial: str) -> bytes | None:
        """The recorded placement group of a trial, which is forgotten here; None where there is none."""
        return self._placements.pop(trial, None)

    def add_waiting(self, trial: str) -> None:
        """Records that a trial waits for the resources of its workers."""
        self._waiting_since.setdefault(trial, time.monotonic())

    def remove_waiting(self, trial: str) -> None:
        """Records that a trial has its resources, or waits no more."""
        self._waiting_since.pop(trial, None)

    def begin_hold(self, trial: str) -> None:
        """Records that a trial's next workers have their places from now on."""
        self._held_since[trial] = time.monotonic()
        self._pending.discard(trial)

    def set_pending(self, trials: Sequence[str]) -> None:
        """Takes the names of the trials whose turn will come."""
        self._pending = set(trials)

    def has_pending(self) -> bool:
        """True while there are trials whose workers have had no place yet."""
        return bool(self._pending)

    def waiting_s(self) -> dict[str, float]:
        """For how many seconds each trial has waited that waits for resources."""
        now = time.monotonic()
        return {trial: now - since for trial, since in self._waiting_since.items()}

    def progress(self) -> dict[str, Progress]:
        """The last progress of each trial that has begun in this start of the command."""
        return dict(self._progress)


class CoordinatorClient(Protocol):
    """The part of Coordinator that a worker calls, in this process or through an actor's handle."""

    def heartbeat(self, trial: str, progress: Progress | None) -> HeartbeatReply:
        """See Coordinator."""

    def request_stop(self, reason: str) -> None:
        """See Coordinator."""


class Heartbeat:
    """A worker's connection to the Coordinator: a background thread sends progress, so that no step waits for it.

    Attributes:
        stop_reason: why to stop; "" while there is no reason.
        earlier_step: the last step that an earlier worker reported in this start of the command, 0 if none did.
        step_s: seconds that a step takes: the mean of the last hundred when progress was last sent, 0 before that.
    """

    INTERVAL_S = 0.3

    def __init__(self, trial: str, coordinator: CoordinatorClient) -> None:
        self._trial = trial
        self._coordinator = coordinator
        self._step = 0
        self._step_times: deque[float] = deque(maxlen=NUM_STEP_TIMES)
        self._is_warm = False
        self._progress_count = 0
        self._last_step_at = 0.0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._held_since = 0.0
        self.stop_reason = ""
        self.earlier_step = 0
        self.step_s = 0.0

    def __enter__(self) -> "Heartbeat":
        # Before the thread starts: later replies give the steps of this worker, not those of an earlier one.
        self.stop_reason, self.earlier_step, held_s = self._coordinator.heartbeat(self._trial, None)
        self._held_since = time.monotonic() - held_s
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    @property
    def held_s(self) -> float:
        """Seconds since the trial's workers got their places, or since this one began where nobody gives any."""
        return time.monotonic() - self._held_since

    def request_stop(self, reason: str) -> None:
        """Asks all trials of the experiment to stop, this one included."""
        self.stop_reason = self.stop_reason or reason
        self._coordinator.request_stop(reason)

    def at_step(self, step: int) -> None:
        """Counts a step as progress; cheap enough for every step."""
        now = time.monotonic()
        # 0.0 means that something else was done since the last step (see `at_work`): this time is no step's.
        if self._last_step_at and self._is_warm:
            self._step_times.append(now - self._last_step_at)
        self._is_warm = self._is_warm or bool(self._last_step_at)  # the first step sets things up
        self._step = step
        self._last_step_at = now
        self._progress_count += 1

    def at_save(self) -> None:
        """Counts a piece of work of the thread that writes checkpoints while steps go on."""
        self._progress_count += 1

    def at_work(self) -> None:
        """Counts something other than a step, after which the time to the next step is not a step's time."""
        self._progress_count += 1
        self._last_step_at = 0.0

    def _progress(self) -> Progress | None:
        # With nothing to report, the Coordinator keeps the last step of an earlier worker.
        if not self._progress_count:
            return None
        # The training's thread adds times meanwhile, and Python refuses to iterate over a deque that changes.
        times = self._step_times.copy()
        # With a GPU the host runs ahead until it reads something back: the mean is right, single times are not.
        self.step_s = fmean(times) if times else 0.0
        return Progress(self._step, self.step_s, self._progress_count)

    def _run(self) -> None:
        while not self._closed.wait(self.INTERVAL_S):
            try:
                reply = self._coordinator.heartbeat(self._trial, self._progress())
            except Exception:  # whatever Ray raises when the main process is gone; then Ray ends this process, too
                continue
            # A reason that this worker has set itself stays, though the reply may be older than it.
            self.stop_reason = reply.stop_reason or self.stop_reason
