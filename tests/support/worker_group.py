"""Trials of several workers without Ray: each worker is a process, and they meet as Ray has them meet."""

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from gan.training.process_group import ProcessGroup
from runner.records.trial_file import write_outcome
from runner.sweep.backends import InProcess
from runner.trial.heartbeat import Coordinator, Heartbeat
from runner.trial.job import TrialJob
from runner.trial.loop import NoPlatform, train_trial
from runner.trial.resources import TrialResources
from tests.support.kill_points import TIMEOUT_S, start_fork


class WorkersWithoutRay(InProcess):
    """In place of `OnRay`: the first worker is this process."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__()

    def train(self, jobs: Sequence[TrialJob], trial_resources: TrialResources, ray_folder: str) -> None:
        """Runs the jobs in turn, each with as many workers as it is to have."""
        for job in jobs:
            write_outcome(job.trial, "running")
            size = trial_resources.workers
            with tempfile.TemporaryDirectory() as folder:
                others = [start_fork(_train_rank, job, rank, size, folder, Coordinator()) for rank in range(1, size)]
                _train_rank(job, 0, size, folder, self._coordinator)
                for process in others:
                    process.join(TIMEOUT_S)
                    assert process.exitcode == 0


def _train_rank(job: TrialJob, rank: int, world_size: int, folder: str, coordinator: Coordinator) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size)
    group = ProcessGroup(rank, world_size, dist.new_group(backend="gloo"))
    with Heartbeat(job.name, coordinator) as heartbeat:
        train_trial(job, group, torch.device("cpu"), heartbeat, NoPlatform())
    dist.destroy_process_group()
