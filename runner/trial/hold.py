"""Records for how long a trial's workers are held, for its goodput, and what the first of them uses."""

import contextlib
import threading
from collections.abc import Callable, Iterator

from runner.process.lease import Superseded
from runner.records.goodput import Hold, record_hold
from runner.trial.job import TrialJob

_INTERVAL_S = 5.0
_SHARE = 0.01  # of the time held: the file stays small, however long that is
_POLL_S = 1.0


@contextlib.contextmanager
def recorded_hold(job: TrialJob, now: Callable[[], Hold | None]) -> Iterator[None]:
    """Records while the block runs, and at its end. A thread does it, because evaluations take long.

    Args:
        job: of the worker that owns the trial.
        now: the hold at this moment, called in the thread, too; None where nothing is to be recorded.
    """
    is_over = threading.Event()
    thread = threading.Thread(target=_record, args=(job, now, is_over), name="hold", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _record(job: TrialJob, now: Callable[[], Hold | None], is_over: threading.Event) -> None:
    """Adds a row every few seconds, and the last one when it is over."""
    due_at_s = 0.0
    while (hold := now()) is not None:
        was_over = is_over.is_set()
        if was_over or hold.held_s >= due_at_s:
            due_at_s = hold.held_s + max(_INTERVAL_S, job.trial.row_interval_s, _SHARE * hold.held_s)
            try:
                with job.committing():
                    record_hold(job.trial, hold)
            except Superseded:
                return
            except OSError:
                pass  # a full disk, say, of which the trial will hear: a later row makes up for this one
        if was_over:
            return
        is_over.wait(_POLL_S)
