"""The thread that sends trials to W&B and TensorBoard. However slow W&B is, no training and no result waits for it."""

import contextlib
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from runner.process.lease import Superseded
from runner.records.results import ENDED
from runner.tracking.wandb_session import kill_service
from runner.tracking.wandb_sweep import WandbSweep

INTERVAL_S = 1.0
# How long W&B may take at the end, with weights to upload on a slow line; its own timeouts are much shorter.
END_WAIT_S = 900.0
_GRACE_S = 10.0


class TrialTracking(Protocol):
    """One trial in one of the places that it is sent to."""

    def update(self) -> None:
        """Sends what is new."""

    def finish(self, result: Mapping[str, Any]) -> None:
        """Sends the rest, of a trial that has ended with this row of results."""


class Tracker:
    """Sends the logs of an experiment's trials to W&B and TensorBoard, from a thread of its own.

    The thread starts with `begin`, not earlier: loading wandb takes a second of processor time, which the start of the
    first trial needs more.
    """

    def __init__(
        self,
        trials: Mapping[str, Sequence[TrialTracking]],
        sweep: WandbSweep | None,
        check_current: Callable[[], None],
        notify: Callable[[str], None],
        interval_s: float = INTERVAL_S,
    ) -> None:
        """Prepares the thread.

        Args:
            trials: by name, where each of them is sent. What comes first waits for nothing behind it.
            sweep: the table of all trials, None for an experiment that sweeps nothing.
            check_current: raises Superseded where another start of the command has taken over the experiment.
            notify: called with a line where W&B is given up.
            interval_s: seconds between two looks at the trials.
        """
        self._trials, self._sweep, self._check_current, self._notify = trials, sweep, check_current, notify
        self._interval_s = interval_s
        self._rows: Sequence[Mapping[str, Any]] = []
        self._at_work: Collection[str] = trials.keys()
        self._ended: set[str] = set()
        self._is_over = threading.Event()
        self._is_abandoned = False
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)

    def begin(self) -> None:
        """Starts the thread, unless it has been started."""
        if not self._thread.ident:
            self._thread.start()

    def look_at(self, names: Collection[str]) -> None:
        """Takes the trials that may have new rows; until it is called these are all."""
        self._at_work = names

    def follow(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes the present rows of results. The runs of trials that have ended are closed."""
        self._rows = rows

    def finish(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes the last rows of results, and returns once W&B has everything, or is given up."""
        self._rows = rows
        # A run that had nothing to train has not begun: W&B may still lack what an earlier start could not send.
        self.begin()
        self._is_over.set()
        self._thread.join(END_WAIT_S)
        if self._thread.is_alive():
            self._notify("W&B does not finish: it is given up, and the next start tries again")
            kill_service()
            # Without its service, the thread keeps offline what it can.
            self._thread.join(_GRACE_S)

    def close(self) -> None:
        """Ends the thread where the run has ended without results.

        It waits for the work in hand, because the next start of the command may write to the same folders.
        """
        self._is_abandoned = True
        self._is_over.set()
        if self._thread.ident:
            self._thread.join(_GRACE_S)

    def _run(self) -> None:
        with contextlib.suppress(Superseded):
            while not self._is_over.wait(self._interval_s):
                with contextlib.suppress(OSError):  # a store out of reach: the next time makes up for it
                    self._pass_on(is_last=False)
            with contextlib.suppress(OSError):  # of which the run hears, too
                self._pass_on(is_last=True)

    def _check_still_ours(self) -> None:
        """Raises Superseded where this thread must do no more. Asked before each run, which may take minutes."""
        if self._is_abandoned:
            raise Superseded("the run has ended without results")
        self._check_current()

    def _pass_on(self, *, is_last: bool) -> None:
        rows = self._rows
        ended = {row["trial"] for row in rows if row["status"] in ENDED}

        # New rows of the trials that run, then the runs of those that have ended since the last time.
        for name in self._at_work:
            if name not in ended:
                for tracking in self._trials[name]:
                    self._check_still_ours()
                    tracking.update()
        for row in rows:
            if is_last or row["trial"] in ended - self._ended:
                for tracking in self._trials[row["trial"]]:
                    self._check_still_ours()
                    tracking.finish(row)

        if self._sweep is not None and (is_last or ended - self._ended):
            self._check_still_ours()
            (self._sweep.finish if is_last else self._sweep.update)(rows)
        self._ended = ended
