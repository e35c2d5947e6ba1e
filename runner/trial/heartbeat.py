"""What the main process and the trials tell each other while they run: stop, and how far they are."""

import threading
import time
from collections import deque
from statistics import fmean
from typing import NamedTuple, Protocol


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
    """For how long a trial's workers have given no sign of work, and what a step of theirs takes (0: not known)."""

    seconds: float
    step_s: float


class HeartbeatReply(NamedTuple):
    """What a beat is answered: why to stop ("" to go on), and the last step that any worker of the trial told."""

    stop_reason: str
    last_step: int


class Coordinator:
    """Holds a stop request and every trial's progress. Lives in an actor under Ray, in the process otherwise."""

    def __init__(self) -> None:
        self._stop = ""
        self._progress: dict[str, Progress] = {}
        self._worked_at: dict[str, float] = {}
        self._workers: dict[str, list[bytes]] = {}

    def request_stop(self, reason: str) -> None:
        """From now on every beat answers with the reason."""
        self._stop = self._stop or reason

    def stop_reason(self) -> str:
        """Why all are to stop, or "" while none is."""
        return self._stop

    def heartbeat(self, trial: str, progress: Progress | None) -> HeartbeatReply:
        """Takes a trial's progress, if there is some."""
        if progress is not None:
            if progress != self._progress.get(trial):
                self._worked_at[trial] = time.monotonic()
            self._progress[trial] = progress
        return HeartbeatReply(self._stop, self._progress[trial].step if trial in self._progress else 0)

    def add_worker(self, trial: str, handle: bytes) -> None:
        """Notes a worker that begins, so that it can be ended should it hang; `handle` is its pickled actor handle."""
        self._workers.setdefault(trial, []).append(handle)
        self._worked_at[trial] = time.monotonic()
        if trial in self._progress:
            self._progress[trial] = self._progress[trial]._replace(step_s=0.0)

    def idle_time(self, trial: str) -> IdleTime | None:
        """How long a trial's workers have been silent; None where it has none."""
        if not self._workers.get(trial):
            return None
        step_s = self._progress[trial].step_s if trial in self._progress else 0.0
        return IdleTime(time.monotonic() - self._worked_at[trial], step_s)

    def take_workers(self, trial: str) -> list[bytes]:
        """The workers that were noted, which are forgotten here."""
        return self._workers.pop(trial, [])

    def progress(self) -> dict[str, Progress]:
        """The last progress of each trial that has begun in this start."""
        return dict(self._progress)


class CoordinatorClient(Protocol):
    """Coordinator itself, or what speaks to it from another process."""

    def heartbeat(self, trial: str, progress: Progress | None) -> HeartbeatReply:
        """As Coordinator's."""

    def request_stop(self, reason: str) -> None:
        """As Coordinator's."""


NUM_STEP_TIMES = 100


class Heartbeat:
    """A worker's line to Coordinator: a thread beats in the background, so that no step waits for it.

    Attributes:
        stop_reason: why to stop; "" while there is no reason.
        earlier_step: the last step that an earlier worker told of in this start of the command, 0 if none did.
    """

    INTERVAL_S = 0.3

    def __init__(self, trial: str, coordinator: CoordinatorClient) -> None:
        self._trial = trial
        self._coordinator = coordinator
        self._step = 0
        self._step_times: deque[float] = deque(maxlen=NUM_STEP_TIMES)
        self._warm = False
        self._progress_count = 0
        self._last_step_at = 0.0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self.stop_reason = ""
        self.earlier_step = 0

    def __enter__(self) -> "Heartbeat":
        self.stop_reason, self.earlier_step = self._coordinator.heartbeat(self._trial, None)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def request_stop(self, reason: str) -> None:
        """Asks all trials of the experiment to stop, this one included."""
        self.stop_reason = self.stop_reason or reason
        self._coordinator.request_stop(reason)

    def at_step(self, step: int) -> None:
        """Notes the place in the run; cheap enough for every step."""
        now = time.monotonic()
        if self._last_step_at and self._warm:
            self._step_times.append(now - self._last_step_at)
        self._warm = self._warm or bool(self._last_step_at)  # the first step sets things up
        self._step = step
        self._last_step_at = now
        self._progress_count += 1

    def at_save(self) -> None:
        """A sign of work from the thread that writes beside the steps."""
        self._progress_count += 1

    def at_work(self) -> None:
        """A sign that something other than a step is being done, and that the next step's time tells nothing."""
        self._progress_count += 1
        self._last_step_at = 0.0

    def _progress(self) -> Progress | None:
        if not self._progress_count:
            return None
        times = self._step_times.copy()
        # Beside a GPU the host runs ahead until it reads something back: the mean is right, single times are not.
        return Progress(self._step, fmean(times) if times else 0.0, self._progress_count)

    def _run(self) -> None:
        while not self._closed.wait(self.INTERVAL_S):
            try:
                self.stop_reason = (
                    self._coordinator.heartbeat(self._trial, self._progress()).stop_reason or self.stop_reason
                )
            except Exception:  # whatever Ray raises when the main process is gone; then Ray ends us too
                continue
