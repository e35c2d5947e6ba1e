"""One trial's driver: what Tune runs for each cell of the sweep."""

from collections.abc import Iterator, Mapping
from typing import Any

import ray
import ray.train
from ray import tune

from runner.on_ray.hang_watchdog import hang_watchdog
from runner.on_ray.trainer import TrialTrainer
from runner.on_ray.worker import RemoteCoordinator, train_worker
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
        if not ray.get(coordinator.stop_reason.remote()):
            train(job, trial_resources, ray_folder, coordinator)
    except Superseded:
        return  # nothing of ours counts any more
    tune.report({"status": read_outcome(job.trial)["status"], "trial_name": job.name})


def train(job: TrialJob, trial_resources: TrialResources, ray_folder: str, coordinator: Any) -> None:
    """Runs the workers to the trial's end, and notes what ended them where they could not."""
    try:
        with job.committing():
            write_outcome(job.trial, "running")
        trainer = TrialTrainer(
            train_worker,
            train_loop_config={"job": job, "coordinator": coordinator},
            scaling_config=ray.train.ScalingConfig(
                num_workers=trial_resources.workers,
                use_gpu=trial_resources.gpus_per_worker > 0,
                resources_per_worker=worker_resources(trial_resources),
            ),
            run_config=ray.train.RunConfig(
                name=job.name,
                storage_path=f"{ray_folder}/train",
                failure_config=ray.train.FailureConfig(max_failures=job.config.resources.max_failures),
            ),
        )
        with hang_watchdog(job, coordinator):
            trainer.fit()
    except Superseded:
        raise
    except Exception as error:  # whatever ended the workers for good
        record_external_end(job, error, coordinator)


def record_external_end(job: TrialJob, error: BaseException, coordinator: Any) -> None:
    """Notes how a trial ended that something has brought to its end from outside its loop.

    Raises:
        Superseded: another start of the command owns the trial.
    """
    job.check_current()
    job.log_line(f"{error}")
    if any(is_full(cause) for cause in causes(error)):
        stop_on_disk_full(job, RemoteCoordinator(coordinator, reports=False), error)
    elif any(is_out_of_memory(cause) or is_memory_monitor(cause) for cause in causes(error)):
        record_outcome(job, "out_of_memory", root_cause(error))
    else:
        record_outcome(job, "failed", root_cause(error))


def worker_resources(trial_resources: TrialResources) -> dict[str, float]:
    """A worker's share in Ray's terms."""
    resources = {"CPU": float(trial_resources.cpus_per_worker)}
    return resources | ({"GPU": trial_resources.gpus_per_worker} if trial_resources.gpus_per_worker else {})


def causes(error: BaseException) -> Iterator[BaseException]:
    """A failed run's error, and what caused it, outermost first; of Ray's nested errors, the workers' own."""
    following: BaseException | None = error
    while isinstance(following, BaseException):
        yield following
        failures = getattr(following, "worker_failures", None)
        inner = (getattr(following, name, None) for name in ("cause", "health_check_failure", "__cause__"))
        following = next(iter(failures.values())) if failures else next(filter(None, inner), None)


def root_cause(error: BaseException) -> str:
    """The first cause of a failed run on one line."""
    *_, first = causes(error)
    return first_line(first)


def is_memory_monitor(error: BaseException) -> bool:
    """True where Ray ended a worker because its machine was running out of memory."""
    return isinstance(error, ray.exceptions.OutOfMemoryError) or "running low on memory" in str(error)
