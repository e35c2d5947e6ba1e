"""What Ray Train runs in each worker process: thin, everything of substance is in runner.trial.loop and gan."""

import json
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch.distributed as dist

from gan.training.process_group import ProcessGroup
from runner.records.checkpoints import checkpoint_name
from runner.storage.run_folder import MANIFEST
from runner.trial.heartbeat import Heartbeat, HeartbeatReply, Progress
from runner.trial.job import TrialJob
from runner.trial.loop import train_trial

# Workers wait for the first one's evaluation: only whoever watches over all of them knows what is too long.
DECISION_TIMEOUT = timedelta(days=30)


def train_worker(config: dict[str, Any]) -> None:
    """Trains this worker's share of a trial; Ray restarts the whole group after a fault.

    Args:
        config: `job`, a TrialJob, and `coordinator`, the handle of the Coordinator actor.
    """
    job: TrialJob = config["job"]
    context = ray.train.get_context()
    size = context.get_world_size()
    gloo_group = dist.new_group(backend="gloo", timeout=DECISION_TIMEOUT) if size > 1 else None
    group = ProcessGroup(context.get_world_rank(), size, gloo_group)
    # As bytes: Coordinator has no use for what an actor's handle drags in, which is Ray Train.
    handle = ray.cloudpickle.dumps(ray.get_runtime_context().current_actor)
    ray.get(config["coordinator"].add_worker.remote(job.name, handle))
    with Heartbeat(job.name, RemoteCoordinator(config["coordinator"], tells=group.is_rank_zero)) as heartbeat:
        train_trial(job, group, ray.train.torch.get_device(), heartbeat, RayTrain())
    ray.get(config["coordinator"].take_workers.remote(job.name))  # whatever Ray does now, it is not work that hangs


class RemoteCoordinator:
    """The Coordinator actor as a worker speaks to it; of a team, the first worker tells how far all are."""

    def __init__(self, actor: Any, *, tells: bool) -> None:
        self._actor, self._tells = actor, tells

    def heartbeat(self, trial: str, progress: Progress | None) -> HeartbeatReply:
        """As Coordinator's."""
        answer: HeartbeatReply = ray.get(self._actor.heartbeat.remote(trial, progress if self._tells else None))
        return answer

    def request_stop(self, reason: str) -> None:
        """As Coordinator's."""
        ray.get(self._actor.request_stop.remote(reason))


class RayTrain:
    """Ray Train as the trial speaks to it."""

    def report(self, values: dict[str, Any]) -> None:
        """Metrics, and for a checkpoint a pointer: a small folder with its manifest, so that Ray shows it."""
        metrics = {name: value for name, value in values.items() if name != "checkpoint"}
        manifest = values.get("checkpoint")
        if manifest is None:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / MANIFEST).write_text(json.dumps(manifest))
            pointer = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(metrics, checkpoint=pointer, checkpoint_dir_name=checkpoint_name(manifest["step"]))

    def has_preemption_notice(self) -> bool:
        """Ray's notice that a node of this trial will be preempted."""
        return ray.train.get_preemption_info() is not None
