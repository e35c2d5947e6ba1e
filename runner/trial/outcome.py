"""How a trial's run ends, noted where the next start of the command reads it."""

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


class CanStop(Protocol):
    """What can ask all trials to stop."""

    def request_stop(self, reason: str) -> None:
        """Asks them, with a reason for people."""


def record_outcome(job: TrialJob, status: str, reason: str, on_this_worker: bool) -> str:
    """Notes how the run ended, where this worker is the one to do so."""
    if on_this_worker:
        with job.committing():
            job.log_line(f"{status}{': ' + reason if reason else ''}")
            try:
                write_outcome(job.trial, status, reason)
            except OSError as error:
                if not is_full(error):
                    raise
    return status


def stop_on_disk_full(job: TrialJob, heartbeat: CanStop, error: BaseException) -> str:
    """A full disk stops all trials of the experiment: they write to the same place."""
    reason = f"there is no room on the disk ({first_line(error)})"
    heartbeat.request_stop(reason)
    return record_outcome(job, "stopped", reason, True)


def is_out_of_memory(error: BaseException) -> bool:
    """True for an allocation that failed, on a GPU or on the processor."""
    kinds = (OutOfMemory, torch.OutOfMemoryError, MemoryError)
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return isinstance(error, kinds) or refused or "can't allocate memory" in str(error)
