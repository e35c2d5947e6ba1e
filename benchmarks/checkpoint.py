"""What saving costs: `python -m benchmarks.checkpoint [--channels 64] [--json FILE]`.

The state of a training is saved and read again: the training's wait for the snapshot, the speed of the write and
of the verified reading against that of plain files of the same size on the same disk, and what a write
beside training takes from the steps.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.figures import benchmark_parser, publish, ratios, seconds, spread
from gan.networks.model import ModelSettings
from gan.training.process_group import ProcessGroup
from gan.training.settings import TrainingSettings
from gan.training.snapshot import Snapshot
from gan.training.state import TrainState
from gan.training.step import train_step
from runner.config.fingerprint import Fingerprints
from runner.config.schema import Experiment
from runner.records.checkpoints import RunPosition, read_checkpoint, write_checkpoint
from runner.storage.run_folder import LOCK
from runner.storage.storage import Storage
from runner.trial.async_checkpointer import SAVE_SHARE, AsyncCheckpointer
from runner.trial.job import TrialJob

IDS = Fingerprints("config", "data")
LEASE = "benchmark"
MIN_STEPS, MIN_STEPS_S = 8, 5.0


def main() -> None:
    """Prints the table; writes JSON where asked to."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        publish(measure(Storage.open(folder), arguments.channels, arguments.repeats), arguments.json)


def measure(folder: Storage, channels: int, repeats: int) -> dict[str, Any]:
    """Medians of repeats, one thing after the other in this process."""
    settings = TrainingSettings(
        epochs=1, batch_size=1, lambda_l1=100.0, learning_rate=2e-4, seed=0, precision="fp32", log_every_n_steps=1
    )
    state = TrainState(ModelSettings(channels), settings, torch.device("cpu"))
    snapshot, place = Snapshot(), RunPosition(0, 0, {}, 0.0)
    snapshot.take(state.state_dict())
    content = np.ones(total_bytes(snapshot), np.uint8)
    times: dict[str, list[float]] = {"wait": [], "write": [], "read": [], "plain_write": [], "plain_read": []}
    for _ in range(repeats):
        times["wait"].append(seconds(lambda: snapshot.take(state.state_dict())))
        times["write"].append(seconds(lambda: write_checkpoint(folder, snapshot.groups(), b"", place, IDS)))
        times["read"].append(seconds(lambda: read_checkpoint(folder, 0, IDS)))
        times["plain_write"].append(seconds(lambda: write_plainly(folder.local_copy() / "plain", content)))
        times["plain_read"].append(seconds((folder.local_copy() / "plain").read_bytes))
    return {
        "channels": channels,
        "threads": torch.get_num_threads(),
        "megabytes": round(total_bytes(snapshot) / 1e6, 1),
        "wait_s": spread(times["wait"]),
        "write_s": spread(times["write"]),
        "verified_read_s": spread(times["read"]),
        "write_to_plain_write": ratios(times["write"], times["plain_write"]),
        "verified_read_to_plain_read": ratios(times["read"], times["plain_read"]),
        **beside_training(folder, state, statistics.median(times["wait"])),
    }


def beside_training(folder: Storage, state: TrainState, wait_s: float) -> dict[str, Any]:
    """What one save takes from the steps that run beside it, against what the checkpointer thinks it takes."""
    experiment = Experiment(name="bench")
    job = TrialJob(folder, "trial", experiment, {}, IDS, folder, 1, LEASE, 1)
    job.trial.make_folder()
    folder.write(LOCK, json.dumps({"token": LEASE}).encode())  # only who holds the experiment may write
    checkpointer = AsyncCheckpointer(job, {}, state, lambda: None, shares_cores=True, clock=time.monotonic)
    picture = torch.zeros(1, 3, 256, 256)
    masks = [torch.ones(1, *shape) for shape in state.generator.dropout_shapes]

    def step() -> None:
        train_step(state, picture, picture, masks, 100.0, ProcessGroup())
        state.step += 1
        checkpointer.is_due(preemption_notice=False)

    step()
    alone = run_steps(step, lambda: False)
    step_s = statistics.median(alone)
    state.step += 1
    checkpointer.save(state, lambda: b"")
    beside = run_steps(step, checkpointer.is_writing)
    checkpointer.wait()
    checkpointer.close()
    checkpointer.is_due(preemption_notice=False)
    taken_s = sum(beside) - len(beside) * step_s
    cost_s = checkpointer.cost_s
    return {
        "step_s": round(step_s, 4),
        "wait_in_steps": round(wait_s / step_s, 3),
        "taken_from_steps_s": round(taken_s, 3),
        "reckoned_cost_s": round(cost_s, 3),
        "save_every_s": round(cost_s / SAVE_SHARE, 1),
        "wait_share_percent": round(100 * wait_s / (cost_s / SAVE_SHARE), 3),
        "measured_share_percent": round(100 * (wait_s + taken_s) / (cost_s / SAVE_SHARE), 3),
    }


def run_steps(step: Callable[[], None], is_writing: Callable[[], bool]) -> list[float]:
    """Seconds of each step, for as long as something is written, and for some steps and seconds at least."""
    times: list[float] = []
    while len(times) < MIN_STEPS or sum(times) < MIN_STEPS_S or is_writing():
        times.append(seconds(step))
    return times


def write_plainly(path: Path, content: np.ndarray[Any, Any]) -> None:
    """One file, and a wait until the disk has it."""
    with open(path, "wb") as stream:
        stream.write(content.data)
        os.fsync(stream.fileno())


def total_bytes(snapshot: Snapshot) -> int:
    """Bytes of all tensors."""
    return sum(tensor.nbytes for group in snapshot.groups().values() for tensor in group.values())


if __name__ == "__main__":
    main()
