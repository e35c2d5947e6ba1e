"""A full disk and too little memory: nothing is half-written, and the same command goes on once there is room."""

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from gan.training.state import TrainState
from gan.training.step import train_step
from runner.records.metrics_log import MetricsLog
from tests.support.commands import assert_same_end, read_metrics
from tests.support.kill_points import SAVE_ALWAYS, KillPoint, tiny_trial, train_tiny

pytestmark = pytest.mark.slow


def not_checked(*arguments: object) -> None:
    """In place of the check before the start: something else has filled the disk since."""


@pytest.fixture
def storage(undisturbed: Path, tmp_path: Path) -> Path:
    shutil.copytree(undisturbed / "results" / "patches", tmp_path / "results" / "patches")
    return tmp_path / "results"


def largest_file(checkpoint: Path) -> int:
    return max(path.stat().st_size for path in checkpoint.iterdir())


def failing_add(log: MetricsLog, row: Mapping[str, Any], **how: bool) -> None:
    """The log, on a disk that is full when the eighth step is logged and has room again afterwards."""
    if row["step"] == 8:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    ADD(log, row, **how)


ADD = MetricsLog.add


@pytest.mark.parametrize("what", ["a checkpoint", "the log"])
def test_a_full_disk_stops_the_run_and_with_room_it_goes_on_to_the_same_bits(
    storage: Path, undisturbed: Path, tmp_path: Path, what: str
) -> None:
    first = train_tiny(
        tmp_path, storage=storage, kill_points=[KillPoint("runner.trial.async_checkpointer.write_checkpoint", 3)]
    )
    assert first.code == -9, first.output
    good = [
        path.name for path in (tiny_trial(storage.parent) / "checkpoints").iterdir() if path.name.startswith("step_")
    ]
    assert sorted(good) == ["step_00000003", "step_00000006"]
    # A limit on the size of a file is as good as a full disk: the write fails half-way, with an error of its own.
    limit = largest_file(next((tiny_trial(undisturbed) / "checkpoints").iterdir())) - 1000
    fault: dict[str, Any] = {
        "a checkpoint": {"max_file_bytes": limit},
        "the log": {"settings": {"runner.records.metrics_log.MetricsLog.add": failing_add, **SAVE_ALWAYS}},
    }[what]
    for _ in range(2):
        ended = train_tiny(tmp_path, storage=storage, **fault)
        assert ended.code == 75, ended.output
        assert "no room on the disk" in ended.output
        left = sorted(path.name for path in (tiny_trial(storage.parent) / "checkpoints").iterdir())
        assert left[-1] == ("step_00000006" if what == "a checkpoint" else "step_00000007")
        assert max(row["step"] for row in read_metrics(tiny_trial(storage.parent))) <= 12
    ended = train_tiny(tmp_path, storage=storage)
    assert ended.code == 0, ended.output
    assert_same_end(tiny_trial(storage.parent), tiny_trial(undisturbed))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A file system of a few megabytes; None where this process may not mount one."""
    place = tmp_path / "small_disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        yield None
        return
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_that_fills_up_in_the_middle_stops_the_run_and_with_room_it_goes_on(
    small_disk: Path | None, undisturbed: Path, tmp_path: Path
) -> None:
    if small_disk is None:
        return  # the limit on a file's size, above, stands in for it
    storage = small_disk / "results"
    shutil.copytree(undisturbed / "results" / "patches", storage / "patches")
    filler = small_disk / "filler"
    used = sum(path.stat().st_size for path in (tiny_trial(undisturbed) / "checkpoints").rglob("*") if path.is_file())
    free = shutil.disk_usage(small_disk).free
    filler.write_bytes(bytes(free - int(2.5 * used)))
    refused = train_tiny(tmp_path, storage=storage)
    assert refused.code == 2, refused.output
    assert "needs room for" in refused.output
    assert not (tiny_trial(storage.parent) / "checkpoints").exists()
    ended = train_tiny(
        tmp_path, storage=storage, settings={"runner.sweep.check._check_room": not_checked, **SAVE_ALWAYS}
    )
    assert ended.code == 75, ended.output
    assert "no room on the disk" in ended.output
    for path in (tiny_trial(storage.parent) / "checkpoints").iterdir():
        assert (path / "manifest.json").exists()
    filler.unlink()
    ended = train_tiny(tmp_path, storage=storage)
    assert ended.code == 0, ended.output
    assert_same_end(tiny_trial(storage.parent), tiny_trial(undisturbed))


def hungry_step(state: TrainState, source: torch.Tensor, *arguments: Any) -> torch.Tensor:
    """A training step that asks the system for far more memory than there is, unless the batch is small."""
    if len(source) > 4:
        torch.empty(10**15, dtype=torch.uint8)
    return train_step(state, source, *arguments)


def test_too_little_memory_is_a_result_and_the_table_says_which_batch_size_fits(storage: Path, tmp_path: Path) -> None:
    changes = {"sweep": {"batch_size": [12, 4]}}
    for settings, status in (({"gan.training.computation.train_step": hungry_step}, "out_of_memory"), ({}, "finished")):
        ended = train_tiny(
            tmp_path, storage=storage, changes=changes, module="tests.support.inline_sweep", settings=settings
        )
        rows = json.loads((storage / "tiny" / "results.json").read_text())
        assert [(row["batch_size"], row["status"]) for row in rows] == [(12, status), (4, "finished")]
        assert ended.code == (0 if status == "finished" else 1), ended.output
        assert ("batch_size=12: out_of_memory: RuntimeError" in ended.output) == (status == "out_of_memory")


def test_a_sweep_that_grows_runs_only_the_new_cells(storage: Path, tmp_path: Path) -> None:
    old = ["lambda_l1=10", "lambda_l1=100"]
    for values in ([10, 100], [1000, 10, 100]):
        trials = storage / "tiny" / "trials"
        before = {path: path.stat().st_mtime_ns for name in old for path in (trials / name).rglob("*")}
        ended = train_tiny(
            tmp_path, storage=storage, changes={"sweep": {"lambda_l1": values}}, module="tests.support.inline_sweep"
        )
        assert ended.code == 0, ended.output
    assert "finished before, not run again: 2 of 3 trials" in ended.output
    assert before
    assert {path: path.stat().st_mtime_ns for path in before} == before
    rows = json.loads((storage / "tiny" / "results.json").read_text())
    assert [(row["trial"], row["status"]) for row in rows] == [(name, "finished") for name in ["lambda_l1=1000", *old]]
