"""One trial's driver: trains it through a TorchTrainer, and records what ended it."""

from typing import Any

import ray

from runner.on_ray.hang_watchdog import hang_watchdog
from runner.on_ray.placement import NotPlaced, Placement
from runner.on_ray.private import causes
from runner.on_ray.trainer import new_trainer
from runner.on_ray.worker import RemoteCoordinator
from runner.process.lease import Superseded
from runner.records.trial_file import read_outcome, write_outcome
from runner.storage.storage import takes_nothing
from runner.trial.job import TrialJob, first_line
from runner.trial.outcome import is_out_of_memory, record_outcome, stop_unwritable
from runner.trial.resources import TrialResources


def run_trial(job: TrialJob, trial_resources: TrialResources, ray_folder: str, coordinator: Any) -> str:
    """Trains one trial; its status. A trial that fails is a result, not an error of the sweep.

    Args:
        ray_folder: where Ray keeps its own files of this start.
        coordinator: the handle of the Coordinator actor.
    """
    try:
        # A trial whose turn comes after a request to stop does not begin.
        if not ray.get(coordinator.stop_reason.remote()):
            _train(job, trial_resources, ray_folder, coordinator)
    except Superseded:
        pass  # another start of the command reports this trial
    return str(read_outcome(job.trial)["status"])


def _train(job: TrialJob, trial_resources: TrialResources, ray_folder: str, coordinator: Any) -> None:
    """Runs the workers to the trial's end, and records what ended them where they could not."""
    placement = Placement(job.name, coordinator)
    try:
        with job.committing():
            write_outcome(job.trial, "running")
        placement.free_earlier()
        trainer = new_trainer(job, trial_resources, ray_folder, coordinator, placement)
        with hang_watchdog(job, coordinator, placement):
            trainer.fit()
    except Superseded:
        raise
    except NotPlaced:
        # Whoever gave the trial up has recorded why.
        if reason := ray.get(coordinator.stop_reason.remote()):
            record_outcome(job, "stopped", reason)
    except Exception as error:  # whatever ended the workers for good
        record_external_end(job, error, coordinator)
    finally:
        coordinator.remove_waiting.remote(job.name)


def record_external_end(job: TrialJob, error: BaseException, coordinator: Any) -> None:
    """Records the outcome of a trial that was ended from outside of its loop.

    Raises:
        Superseded: another start of the command owns the trial.
    """
    # The last cause is the one that all began with: the outer ones are mostly Ray's.
    chain = list(causes(error))
    reason = first_line(chain[-1])
    is_unwritable = any(takes_nothing(cause) for cause in chain)
    try:
        job.check_current()
        job.log_line(f"{error}")
    except OSError as second:
        if not takes_nothing(second):
            raise
        error, is_unwritable = second, True

    if is_unwritable:
        stop_unwritable(job, RemoteCoordinator(coordinator, reports=False), error)
    elif any(is_out_of_memory(cause) or is_memory_monitor(cause) for cause in chain):
        record_outcome(job, "out_of_memory", reason)
    else:
        record_outcome(job, "failed", reason)


def is_memory_monitor(error: BaseException) -> bool:
    """True where Ray ended a worker because its machine was running out of memory."""
    return isinstance(error, ray.exceptions.OutOfMemoryError) or "running low on memory" in str(error)
