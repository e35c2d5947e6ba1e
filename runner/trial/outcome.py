"""How a trial's run ends: its outcome, recorded where the next start of the command reads it."""

import errno
from typing import Protocol

import torch

from runner.records.trial_file import write_outcome
from runner.storage.folder import is_full
from runner.trial.job import TrialJob, first_line


class Diverged(Exception):
    """A loss, or a weight, is not finite any more."""


class OutOfMemory(Exception):
    """The system has ended workers of this trial for lack of memory, again and again."""


class CanRequestStop(Protocol):
    """What can ask all trials of an experiment to stop."""

    def request_stop(self, reason: str) -> None:
        """Asks them, with a reason for people."""


def record_outcome(job: TrialJob, status: str, reason: str, *, is_recorder: bool = True) -> str:
    """Records how the run ended, in outcome.json and log.txt; the status.

    Args:
        is_recorder: False on workers of the trial that leave this to another one.
    """
    if not is_recorder:
        return status

    with job.committing():
        job.log_line(f"{status}{': ' + reason if reason else ''}")
        try:
            write_outcome(job.trial, status, reason)
        except OSError as error:
            if not is_full(error):  # without an outcome the trial counts as stopped, which it can go on from
                raise
    return status


def stop_on_disk_full(job: TrialJob, coordinator: CanRequestStop, error: BaseException) -> str:
    """Stops all trials of the experiment, which write to the same full disk; the status of this one."""
    reason = f"there is no room on the disk ({first_line(error)})"
    coordinator.request_stop(reason)
    return record_outcome(job, "stopped", reason)


def is_out_of_memory(error: BaseException) -> bool:
    """True for an allocation that failed, on a GPU or on the processor."""
    kinds = (OutOfMemory, torch.OutOfMemoryError, MemoryError)
    was_refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    # torch's allocator for the processor raises a plain RuntimeError: only the text tells it apart.
    return isinstance(error, kinds) or was_refused or "can't allocate memory" in str(error)
