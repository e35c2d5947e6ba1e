"""One trial's driver: what Tune runs for each cell of the sweep."""

from collections.abc import Iterator, Mapping
from typing import Any

import ray
import ray.train
from ray import tune

from runner.ending import end, is_out_of_memory, stop_for_room
from runner.job import TrialJob, first_line
from runner.lease import Superseded
from runner.records import read_outcome, write_outcome
from runner.resources import Allotment
from runner.storage import is_full
from runner.trainer import TrialTrainer
from runner.watching import hanging_workers_are_ended
from runner.worker import RemoteControl, train_worker


def run_trial(
    param_space: Mapping[str, Any],
    jobs: Mapping[str, TrialJob],
    allotment: Allotment,
    ray_folder: str,
    control: Any,
) -> None:
    """Trains one trial through a TorchTrainer; a trial that fails is a result, not an error of the sweep.

    Args:
        param_space: `cell`, a mapping with `trial` and the swept parameters.
        ray_folder: where Ray keeps its own files of this start.
        control: the handle of the Control actor.
    """
    job = jobs[param_space["cell"]["trial"]]
    try:
        if not ray.get(control.stop_reason.remote()):
            train(job, allotment, ray_folder, control)
    except Superseded:
        return  # nothing of ours counts any more
    tune.report({"status": read_outcome(job.trial)["status"], "trial_name": job.name})


def train(job: TrialJob, allotment: Allotment, ray_folder: str, control: Any) -> None:
    """Runs the workers to the trial's end, and notes what ended them where they could not."""
    try:
        with job.committing():
            write_outcome(job.trial, "running")
        trainer = TrialTrainer(
            train_worker,
            train_loop_config={"job": job, "control": control},
            scaling_config=ray.train.ScalingConfig(
                num_workers=allotment.workers,
                use_gpu=allotment.gpus_per_worker > 0,
                resources_per_worker=worker_resources(allotment),
            ),
            run_config=ray.train.RunConfig(
                name=job.name,
                storage_path=f"{ray_folder}/train",
                failure_config=ray.train.FailureConfig(max_failures=job.config.resources.max_failures),
            ),
        )
        with hanging_workers_are_ended(job, control):
            trainer.fit()
    except Superseded:
        raise
    except Exception as error:  # whatever ended the workers for good
        end_for(job, error, control)


def end_for(job: TrialJob, error: BaseException, control: Any) -> None:
    """Notes how a trial ended that something has brought to its end from outside its loop.

    Raises:
        Superseded: another start of the command owns the trial.
    """
    job.check_current()
    job.say(f"{error}")
    if any(is_full(cause) for cause in causes(error)):
        stop_for_room(job, RemoteControl(control, tells=False), error)
    elif any(is_out_of_memory(cause) or is_memory_monitor(cause) for cause in causes(error)):
        end(job, "out_of_memory", root_cause(error), True)
    else:
        end(job, "failed", root_cause(error), True)


def worker_resources(allotment: Allotment) -> dict[str, float]:
    """A worker's share in Ray's terms."""
    resources = {"CPU": float(allotment.cpus_per_worker)}
    return resources | ({"GPU": allotment.gpus_per_worker} if allotment.gpus_per_worker else {})


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
