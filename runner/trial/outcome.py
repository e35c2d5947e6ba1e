"""How a trial's run ends: its outcome, recorded where the next start of the command reads it."""

import errno
from typing import Protocol

import torch

from runner.records.trial_file import write_outcome
from runner.storage.storage import Unreachable, is_unreachable, takes_nothing
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
            if not takes_nothing(error):  # without an outcome the trial counts as stopped, which it can go on from
                raise
    return status


def why_unwritable(error: BaseException) -> str:
    """Why a storage takes nothing for now, in one line."""
    if is_unreachable(error):
        return str(error) if isinstance(error, Unreachable) else first_line(error)
    return f"there is no room on the disk ({first_line(error)})"


def stop_unwritable(job: TrialJob, coordinator: CanRequestStop, error: BaseException) -> str:
    """Stops all trials of the experiment, which write to the same storage; the status of this one."""
    reason = why_unwritable(error)
    coordinator.request_stop(reason)
    try:
        return record_outcome(job, "stopped", reason)
    except OSError as second:
        if not takes_nothing(second):
            raise
        return "stopped"  # so it counts without an outcome, too


def is_out_of_memory(error: BaseException) -> bool:
    """True for an allocation that failed, on a GPU or on the processor."""
    kinds = (OutOfMemory, torch.OutOfMemoryError, MemoryError)
    was_refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    # torch's allocator for the processor raises a plain RuntimeError: only the text tells it apart.
    return isinstance(error, kinds) or was_refused or "can't allocate memory" in str(error)
