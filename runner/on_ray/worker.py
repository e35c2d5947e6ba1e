"""What Ray Train runs in each worker process: thin, everything of substance is in runner.trial and gan."""

import contextlib
import json
import tempfile
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch.distributed as dist

from gan.training.process_group import ProcessGroup
from runner.on_ray.prestart import prestart_next
from runner.records.checkpoints import checkpoint_name
from runner.storage.run_folder import MANIFEST
from runner.trial.heartbeat import Heartbeat, HeartbeatReply, Progress
from runner.trial.job import TrialJob
from runner.trial.loop import train_trial

# Workers wait for rank 0's evaluation, however long that takes: the hang watchdog sees to workers that hang.
_CONTROL_TIMEOUT = timedelta(days=30)


def train_worker(config: dict[str, Any]) -> None:
    """Trains this worker's share of a trial; Ray restarts the whole group after a fault.

    Args:
        config: `job`, a TrialJob, and `coordinator`, the handle of the Coordinator actor.
    """
    job: TrialJob = config["job"]
    coordinator = config["coordinator"]

    context = ray.train.get_context()
    world_size = context.get_world_size()
    # On the processor, so that agreeing on an action never waits for a GPU.
    control_group = dist.new_group(backend="gloo", timeout=_CONTROL_TIMEOUT) if world_size > 1 else None
    group = ProcessGroup(context.get_world_rank(), world_size, control_group)

    # As bytes: the Coordinator has no use for what an actor's handle loads with it, which is Ray Train.
    handle = ray.cloudpickle.dumps(ray.get_runtime_context().current_actor)
    ray.get(coordinator.add_worker.remote(job.name, handle))
    with Heartbeat(job.name, RemoteCoordinator(coordinator, reports=group.is_rank_zero)) as heartbeat:
        platform = RayTrainPlatform(job, coordinator)
        train_trial(job, group, ray.train.torch.get_device(), heartbeat, platform)
    ray.get(coordinator.take_workers.remote(job.name))  # whatever Ray does from here on, the worker does not hang


class RemoteCoordinator:
    """A CoordinatorClient that calls the actor.

    Args:
        reports: whether this worker's progress counts; of several workers, rank 0 reports for all.
    """

    def __init__(self, actor: Any, *, reports: bool) -> None:
        self._actor, self._reports = actor, reports

    def heartbeat(self, trial: str, progress: Progress | None) -> HeartbeatReply:
        """Waits for the actor's reply."""
        reply: HeartbeatReply = ray.get(self._actor.heartbeat.remote(trial, progress if self._reports else None))
        return reply

    def request_stop(self, reason: str) -> None:
        """Returns once the actor has the request."""
        ray.get(self._actor.request_stop.remote(reason))


class RayTrainPlatform:
    """Ray Train as the platform of a trial; `coordinator` is the handle of the Coordinator actor."""

    def __init__(self, job: TrialJob, coordinator: Any) -> None:
        self._coordinator = coordinator
        # Pointers are written to Ray's folder of this run, which all nodes see unless the experiment is in a bucket.
        self._shows_checkpoints = not job.experiment.is_remote
        # At a rung all trials wait for one another, and then some go on.
        self._is_rung = job.epochs < job.config.training.epochs

    def report(self, metrics: dict[str, Any], manifest: dict[str, Any] | None) -> None:
        """Reports metrics, and for a checkpoint a pointer: a small folder with its manifest, so that Ray shows it."""
        if manifest is None or not self._shows_checkpoints:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / MANIFEST).write_text(json.dumps(manifest))
            pointer = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(metrics, checkpoint=pointer, checkpoint_dir_name=checkpoint_name(manifest["step"]))

    def has_preemption_notice(self) -> bool:
        """True once Ray has notice that a node of this trial will be preempted."""
        return ray.train.get_preemption_info() is not None

    def announce_end(self) -> None:
        """Begins the process of the next trial's worker, where one waits for its turn, while this one trains on."""
        threading.Thread(target=self._begin_next, name="prestart", daemon=True).start()

    def _begin_next(self) -> None:
        # Without an answer the next trial begins its process itself.
        with contextlib.suppress(ray.exceptions.RayError):
            if self._is_rung or ray.get(self._coordinator.has_pending.remote()):
                prestart_next()
