"""The thread that feeds W&B: whatever W&B waits for, nothing else waits for it until the results are written."""

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runner.process.lease import Superseded
from runner.tracking.wandb_session import kill_service
from runner.tracking.wandb_sweep import WandbSweep
from runner.tracking.wandb_trial import WandbTrial

INTERVAL_S = 1.0
# All that may still be taken in at the end, on a slow line too; W&B's own waits end long before.
END_WAIT_S = 900.0
GRACE_S = 10.0
ENDED = ("finished", "failed", "diverged", "out_of_memory")


class Tracker:
    """Passes on what the trials log. It begins once it is told to: loading wandb takes a second of processor
    time, which the start of the first trial needs more."""

    def __init__(
        self,
        trials: Mapping[str, WandbTrial],
        sweep: WandbSweep | None,
        check_current: Callable[[], None],
        notify: Callable[[str], None],
    ) -> None:
        """Of an experiment's trials, by name.

        Args:
            sweep: where it sweeps.
            check_current: raises Superseded where another start of the command tracks them now.
            notify: told where W&B has not come to an end.
        """
        self._trials, self._sweep, self._check_current, self._notify = trials, sweep, check_current, notify
        self._rows: Sequence[Mapping[str, Any]] = []
        self._ended: set[str] = set()
        self._over = threading.Event()
        self._is_abandoned = False
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)

    def begin(self) -> None:
        """Begins, unless it has."""
        if not self._thread.ident:
            self._thread.start()

    def follow(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes the rows of results as they are now: trials that have ended among them are closed."""
        self._rows = rows

    def finish(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes the last rows of results, and returns once W&B has all of it, or is given up."""
        self._rows = rows
        self.begin()
        self._over.set()
        self._thread.join(END_WAIT_S)
        if self._thread.is_alive():
            self._notify("W&B does not come to an end: it is given up, and the next start tries again")
            kill_service()
            self._thread.join(GRACE_S)  # in which it keeps offline what it can

    def close(self) -> None:
        """Leaves everything as it is, where the run has ended without results, and waits for what is being done:
        the next start of the command may write to the same folders."""
        self._is_abandoned = True
        self._over.set()
        if self._thread.ident:
            self._thread.join(GRACE_S)

    def _run(self) -> None:
        with contextlib.suppress(Superseded):
            while not self._over.wait(INTERVAL_S):
                self._pass_on(is_last=False)
            self._pass_on(is_last=True)

    def _check_wanted(self) -> None:
        """Before each piece of work, for one may take minutes: raises Superseded where it is no longer ours to do."""
        if self._is_abandoned:
            raise Superseded("the run has ended without results")
        self._check_current()

    def _pass_on(self, *, is_last: bool) -> None:
        rows = self._rows
        ended = {row["trial"] for row in rows if row["status"] in ENDED}
        for name, tracking in self._trials.items():
            if name not in ended:
                self._check_wanted()
                tracking.update()
        for row in rows:
            if is_last or row["trial"] in ended - self._ended:
                self._check_wanted()
                self._trials[row["trial"]].finish(row)
        if self._sweep is not None and (is_last or ended - self._ended):
            self._check_wanted()
            (self._sweep.finish if is_last else self._sweep.update)(rows)
        self._ended = ended
