"""What the main process and the trials tell each other while they run: stop, and how far they are."""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple


class Progress(NamedTuple):
    """How far a trial is: steps done, and the seconds that a step takes."""

    step: int
    step_s: float


class Control:
    """Holds a stop request and every trial's progress. Lives in an actor under Ray, in the process otherwise."""

    def __init__(self) -> None:
        self._stop = ""
        self._progress: dict[str, Progress] = {}

    def request_stop(self, reason: str) -> None:
        """From now on every beat answers with the reason."""
        self._stop = self._stop or reason

    def beat(self, trial: str, progress: Progress | None) -> str:
        """Takes a trial's progress; the reason to stop, or "" to go on."""
        if progress is not None:
            self._progress[trial] = progress
        return self._stop

    def progress(self) -> dict[str, Progress]:
        """The last progress of each trial that has begun in this start."""
        return dict(self._progress)


class ControlLine:
    """A worker's line to Control: a thread beats in the background, so that no step waits for it."""

    INTERVAL_S = 0.3

    def __init__(self, trial: str, beat: Callable[[str, Progress | None], str]) -> None:
        self._trial = trial
        self._beat = beat
        self._progress: Progress | None = None
        self._last_step_at = 0.0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self.stop_reason = ""

    def __enter__(self) -> "ControlLine":
        self.stop_reason = self._beat(self._trial, None)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def at_step(self, step: int) -> None:
        """Notes the place in the run; cheap enough for every step."""
        now = time.monotonic()
        step_s = now - self._last_step_at if self._last_step_at else 0.0
        if self._progress is not None and self._progress.step_s:
            step_s = 0.9 * self._progress.step_s + 0.1 * step_s
        self._progress = Progress(step, step_s)
        self._last_step_at = now

    def _run(self) -> None:
        while not self._closed.wait(self.INTERVAL_S):
            try:
                self.stop_reason = self._beat(self._trial, self._progress)
            except Exception:  # whatever Ray raises when the main process is gone; then Ray ends us too
                continue
