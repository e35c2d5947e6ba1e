"""The TorchTrainer of one trial."""

from typing import Any

import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from runner.on_ray.connection.cluster import is_joined
from runner.on_ray.placement import Placement
from runner.on_ray.prestart import worker_environment
from runner.on_ray.private import ControllerInThisProcess
from runner.on_ray.worker import train_worker
from runner.trial.job import TrialJob
from runner.trial.resources import TrialResources

_TorchBackend: Any = TorchConfig().backend_cls


class TrialBackend(_TorchBackend):
    """Ray's set-up of torch.distributed, only where there are workers to connect.

    Its store listens on every interface of the machine, because torch binds it to no address, and Ray has no other way
    for workers to meet. A worker by itself has nothing to keep there.
    """

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Connects the workers of a group of several."""
        if len(worker_group) > 1:
            super().on_start(worker_group, backend_config)


class TrialTorchConfig(TorchConfig):
    """Ray's settings of torch.distributed, with our backend."""

    @property
    def backend_cls(self) -> Any:
        """The class that sets the workers up."""
        return TrialBackend


class TrialTrainer(ControllerInThisProcess, TorchTrainer):
    """A TorchTrainer whose controller runs in the process that calls `fit`."""

    def __init__(self, trial: str, placement: Placement, **settings: Any) -> None:
        super().__init__(train_worker, **settings)
        self.trial, self.may_grow, self.await_resources = trial, is_joined(), placement.wait


def new_trainer(
    job: TrialJob, trial_resources: TrialResources, ray_folder: str, coordinator: Any, placement: Placement
) -> TrialTrainer:
    """The trainer that runs `train_worker` on a trial's workers, and starts them again after a fault.

    Args:
        ray_folder: where Ray keeps its own files of this start.
        coordinator: the handle of the Coordinator actor.
        placement: waits for the workers' resources.
    """
    resources = {"CPU": float(trial_resources.cpus_per_worker)}
    if trial_resources.gpus_per_worker:
        resources["GPU"] = trial_resources.gpus_per_worker

    return TrialTrainer(
        job.name,
        placement,
        train_loop_config={"job": job, "coordinator": coordinator},
        torch_config=TrialTorchConfig(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=trial_resources.workers,
            use_gpu=trial_resources.gpus_per_worker > 0,
            resources_per_worker=resources,
            accelerator_type=trial_resources.accelerator_type,
            label_selector=dict(trial_resources.label_selector) or None,
        ),
        run_config=ray.train.RunConfig(
            name=job.name,
            storage_path=f"{ray_folder}/train",
            worker_runtime_env=dict(worker_environment(trial_resources.cpus_per_worker)),
            failure_config=ray.train.FailureConfig(max_failures=job.config.resources.max_failures),
        ),
    )
