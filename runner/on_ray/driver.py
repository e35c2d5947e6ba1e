"""One trial's driver: what Tune runs for each cell of the sweep."""

from collections.abc import Mapping
from typing import Any

import ray
from ray import tune

from runner.on_ray.hang_watchdog import hang_watchdog
from runner.on_ray.private import causes
from runner.on_ray.trainer import new_trainer
from runner.on_ray.worker import RemoteCoordinator
from runner.process.lease import Superseded
from runner.records.trial_file import read_outcome, write_outcome
from runner.storage.folder import is_full
from runner.trial.job import TrialJob, first_line
from runner.trial.outcome import is_out_of_memory, record_outcome, stop_on_disk_full
from runner.trial.resources import TrialResources


def run_trial(
    param_space: Mapping[str, Any],
    jobs: Mapping[str, TrialJob],
    trial_resources: TrialResources,
    ray_folder: str,
    coordinator: Any,
) -> None:
    """Trains one trial through a TorchTrainer; a trial that fails is a result, not an error of the sweep.

    Args:
        param_space: `cell`, a mapping with `trial` and the swept parameters.
        ray_folder: where Ray keeps its own files of this start.
        coordinator: the handle of the Coordinator actor.
    """
    job = jobs[param_space["cell"]["trial"]]
    try:
        # A trial whose turn comes after a request to stop does not begin, nor one whose workers could not start.
        questions = [coordinator.stop_reason.remote(), coordinator.has_given_up.remote(job.name)]
        if not any(ray.get(questions)):
            _train(job, trial_resources, ray_folder, coordinator)
    except Superseded:
        return  # another start of the command reports this trial
    tune.report({"status": read_outcome(job.trial)["status"], "trial_name": job.name})


def _train(job: TrialJob, trial_resources: TrialResources, ray_folder: str, coordinator: Any) -> None:
    """Runs the workers to the trial's end, and records what ended them where they could not."""
    try:
        with job.committing():
            write_outcome(job.trial, "running")
        trainer = new_trainer(job, trial_resources, ray_folder, coordinator)
        with hang_watchdog(job, coordinator):
            trainer.fit()
    except Superseded:
        raise
    except Exception as error:  # whatever ended the workers for good
        record_external_end(job, error, coordinator)


def record_external_end(job: TrialJob, error: BaseException, coordinator: Any) -> None:
    """Records the outcome of a trial that was ended from outside of its loop.

    Raises:
        Superseded: another start of the command owns the trial.
    """
    job.check_current()
    job.log_line(f"{error}")
    # The last cause is the one that all began with: the outer ones are mostly Ray's.
    chain = list(causes(error))
    reason = first_line(chain[-1])

    if any(is_full(cause) for cause in chain):
        stop_on_disk_full(job, RemoteCoordinator(coordinator, reports=False), error)
    elif any(is_out_of_memory(cause) or is_memory_monitor(cause) for cause in chain):
        record_outcome(job, "out_of_memory", reason)
    else:
        record_outcome(job, "failed", reason)


def is_memory_monitor(error: BaseException) -> bool:
    """True where Ray ended a worker because its machine was running out of memory."""
    return isinstance(error, ray.exceptions.OutOfMemoryError) or "running low on memory" in str(error)
