"""What Ray Train runs in each worker process: thin, everything of substance is in runner.loop and gan."""

import json
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch.distributed as dist

from gan.team import Team
from runner.checkpoints import MANIFEST, checkpoint_name
from runner.control import Answer, ControlLine, Progress
from runner.job import TrialJob
from runner.loop import train_trial

# Workers wait for the first one's evaluation: only whoever watches over all of them knows what is too long.
DECISION_TIMEOUT = timedelta(days=30)


def train_worker(config: dict[str, Any]) -> None:
    """Trains this worker's share of a trial; Ray restarts the whole group after a fault.

    Args:
        config: `job`, a TrialJob, and `control`, the handle of the Control actor.
    """
    job: TrialJob = config["job"]
    context = ray.train.get_context()
    size = context.get_world_size()
    group = dist.new_group(backend="gloo", timeout=DECISION_TIMEOUT) if size > 1 else None
    team = Team(context.get_world_rank(), size, group)
    # As bytes: Control has no use for what an actor's handle drags in, which is Ray Train.
    handle = ray.cloudpickle.dumps(ray.get_runtime_context().current_actor)
    ray.get(config["control"].add_worker.remote(job.name, handle))
    with ControlLine(job.name, RemoteControl(config["control"], tells=team.is_first)) as control:
        train_trial(job, team, ray.train.torch.get_device(), control, RayTrain())
    ray.get(config["control"].take_workers.remote(job.name))  # whatever Ray does now, it is not work that hangs


class RemoteControl:
    """The Control actor as a worker speaks to it; of a team, the first worker tells how far all are."""

    def __init__(self, actor: Any, *, tells: bool) -> None:
        self._actor, self._tells = actor, tells

    def beat(self, trial: str, progress: Progress | None) -> Answer:
        """As Control's."""
        answer: Answer = ray.get(self._actor.beat.remote(trial, progress if self._tells else None))
        return answer

    def request_stop(self, reason: str) -> None:
        """As Control's."""
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

    def is_leaving(self) -> bool:
        """Ray's notice that a node of this trial will be preempted."""
        return ray.train.get_preemption_info() is not None
