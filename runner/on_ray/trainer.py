"""The TorchTrainer of one trial."""

from typing import Any

import ray.train
from ray.train.torch import TorchTrainer

from runner.on_ray.private import ControllerInThisProcess
from runner.on_ray.worker import train_worker
from runner.trial.job import TrialJob
from runner.trial.resources import TrialResources


class TrialTrainer(ControllerInThisProcess, TorchTrainer):
    """A TorchTrainer whose controller runs in the process that calls `fit`."""


def new_trainer(job: TrialJob, trial_resources: TrialResources, ray_folder: str, coordinator: Any) -> TrialTrainer:
    """The trainer that runs `train_worker` on a trial's workers, and starts them again after a fault.

    Args:
        ray_folder: where Ray keeps its own files of this start.
        coordinator: the handle of the Coordinator actor.
    """
    resources = {"CPU": float(trial_resources.cpus_per_worker)}
    if trial_resources.gpus_per_worker:
        resources["GPU"] = trial_resources.gpus_per_worker

    return TrialTrainer(
        train_worker,
        train_loop_config={"job": job, "coordinator": coordinator},
        scaling_config=ray.train.ScalingConfig(
            num_workers=trial_resources.workers,
            use_gpu=trial_resources.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=ray.train.RunConfig(
            name=job.name,
            storage_path=f"{ray_folder}/train",
            failure_config=ray.train.FailureConfig(max_failures=job.config.resources.max_failures),
        ),
    )
