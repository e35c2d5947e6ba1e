"""One trial's driver: what Tune runs for each cell of the sweep."""

from collections.abc import Mapping
from typing import Any

import ray
import ray.train
from ray import tune
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from runner.job import LOG, TrialJob, first_line
from runner.records import read_outcome, write_outcome
from runner.resources import Allotment
from runner.worker import train_worker


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
    if ray.get(control.beat.remote(job.name, None)):
        return  # asked to stop before it began
    write_outcome(job.trial, "running")
    trainer = TorchTrainer(
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
            callbacks=[TuneReportCallback()],
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # whatever ended the workers for good
        job.check_current()
        job.trial.append(LOG, f"failed: {error}\n".encode())
        if read_outcome(job.trial)["status"] != "out_of_memory":
            write_outcome(job.trial, "failed", root_cause(error))
    status = read_outcome(job.trial)["status"]
    tune.report({"status": status, "trial_name": job.name})


def worker_resources(allotment: Allotment) -> dict[str, float]:
    """A worker's share in Ray's terms."""
    resources = {"CPU": float(allotment.cpus_per_worker)}
    return resources | ({"GPU": allotment.gpus_per_worker} if allotment.gpus_per_worker else {})


def root_cause(error: BaseException) -> str:
    """The first cause of a failed run on one line; of Ray's nested errors, the workers' own."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        error = next(iter(failures.values()))
    while (inner := getattr(error, "cause", None) or error.__cause__) is not None and isinstance(inner, BaseException):
        error = inner
    return first_line(error)
