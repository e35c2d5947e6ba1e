"""Trials as the tests track them, and what W&B then has of them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gan.training.losses import LOSS_NAMES
from runner.storage.storage import Storage
from runner.tracking.wandb_runs import WandbDestination
from runner.tracking.wandb_trial import WandbTrial
from tests.support.commands import reopen_log
from tests.support.wandb_log import RecordedRun, read_run

KEY = "0123456789abcdef" * 3
CONFIG = {"name": "sweep", "training": {"batch_size": 1, "betas": [0.5, 0.999]}, "model": {"channels": 8}}


def a_row(step: int, epoch: int = 1) -> dict[str, Any]:
    losses = {name: step + number / 10 for number, name in enumerate(LOSS_NAMES)}
    return {"step": step, "epoch": epoch, "seconds": step / 4, "images_per_second": 4.5, **losses}


def log_steps(trial: Storage, steps: range, after: int = -1) -> None:
    """Does these steps in a worker's place; rows past `after` are cut off, as at its restart."""
    log = reopen_log(trial, after)
    for step in steps:
        log.add(a_row(step))


def tracking_of(
    trial: Storage, mode: str = "offline", *, artifacts: bool = False, notify: Callable[[str], Any] = pytest.fail
) -> WandbTrial:
    return WandbTrial(trial, "sweep", CONFIG, WandbDestination(mode, notify), artifacts=artifacts)


def track(trial: Storage, status: str, mode: str = "offline", **how: Any) -> None:
    tracking = tracking_of(trial, mode, **how)
    tracking.update()
    tracking.finish({"status": status})


def offline_run(folder: Storage) -> RecordedRun:
    """The one offline run of a trial or an experiment."""
    (path,) = folder.local_path.glob("wandb/offline-run-*/run-*.wandb")
    return read_run(path)


def sync(folder: Storage) -> None:
    """Uploads the one offline run of a trial or an experiment."""
    (run,) = folder.local_path.glob("wandb/offline-run-*")
    command = [sys.executable, "-m", "wandb", "sync", str(run)]
    environment = os.environ | {"WANDB_API_KEY": KEY}
    subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)


def files_of(trial: Storage) -> dict[Path, tuple[int, bytes]]:
    paths = [path for path in trial.local_path.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def wandb_processes() -> str:
    ours = ["pgrep", "-P", str(os.getpid()), "wandb-core"]
    return subprocess.run(ours, capture_output=True, text=True, check=False).stdout
