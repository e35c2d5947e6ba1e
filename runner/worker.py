"""What Ray Train runs in each worker process: thin, everything of substance is in runner.loop and gan."""

import json
import tempfile
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch.distributed as dist

from gan.team import Team
from runner.checkpoints import MANIFEST, checkpoint_name
from runner.control import ControlLine, Progress
from runner.job import TrialJob
from runner.loop import train_trial


def train_worker(config: dict[str, Any]) -> None:
    """Trains this worker's share of a trial; Ray restarts the whole group after a fault.

    Args:
        config: `job`, a TrialJob, and `control`, the handle of the Control actor.
    """
    job: TrialJob = config["job"]
    context = ray.train.get_context()

    def beat(trial: str, progress: Progress | None) -> str:
        return str(ray.get(config["control"].beat.remote(trial, progress)))

    size = context.get_world_size()
    team = Team(context.get_world_rank(), size, dist.new_group(backend="gloo") if size > 1 else None)
    with ControlLine(job.name, beat) as control:
        train_trial(job, team, ray.train.torch.get_device(), control, report_to_ray)


def report_to_ray(values: dict[str, Any]) -> None:
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
