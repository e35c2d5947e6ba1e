"""Faults of the storage: what stands there is torn, gone, full or somewhere else."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from runner.drill.command_run import CommandRun
from runner.drill.target_run import NotSurvived, TargetRun
from runner.errors import Exit
from runner.records.checkpoints import DAMAGED_PREFIX, checkpoint_name, checkpoint_steps
from runner.storage.run_folder import (
    CHECKPOINTS,
    MANIFEST,
    METRICS_LOG,
    RAY_FOLDER,
    RESULTS_CSV,
    RESULTS_JSON,
    TRIAL_FILE,
)

DISK_BYTES = 24 * 2**20
FILE_BYTES = 700_000  # less than the generator's optimizer state, more than all else
BALLAST = "ballast"
WEIGHTS_OF_STATE = "generator.safetensors"


def truncate(folder: Path) -> None:
    """Half of a checkpoint's largest kind of file is gone."""
    halve(folder / WEIGHTS_OF_STATE)


def flip_bit(folder: Path) -> None:
    """One bit in the middle of a checkpoint's file is another."""
    path = folder / WEIGHTS_OF_STATE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove_manifest(folder: Path) -> None:
    """A checkpoint's list of its files is gone."""
    (folder / MANIFEST).unlink()


DAMAGES: tuple[Callable[[Path], None], ...] = (truncate, flip_bit, remove_manifest)


def damage_checkpoints(target: TargetRun) -> None:
    """The newest checkpoint of a killed run is damaged, in each way once: the next older one must be used."""
    command = target.start(quick=True)
    resumed = 0
    for step, damage in zip(target.moments(len(DAMAGES)), DAMAGES, strict=True):
        older, newest = wait_for_checkpoints(target, command, max(step, resumed + 1))
        with target.killing() as before:
            command.kill_all()
        older, newest = sorted(checkpoint_steps(target.trial))[-2:]
        damage(target.trial.at(CHECKPOINTS).local_path / checkpoint_name(newest))
        command = target.start(quick=True)
        resumed = target.recovered(command, before)
        if resumed != older:
            raise NotSurvived(
                f"{damage.__name__}: of the checkpoints {older} and {newest}, the newer one damaged, "
                f"it went on from step {resumed}"
            )
        if not any(name.startswith(DAMAGED_PREFIX) for name in target.trial.names(CHECKPOINTS)):
            raise NotSurvived(f"{damage.__name__}: the damaged checkpoint {newest} was not set aside")
    target.finish(command)


def wait_for_checkpoints(target: TargetRun, command: CommandRun, step: int) -> tuple[int, int]:
    """The two newest checkpoints, once that step is logged and the older one was written in this start."""

    def two() -> tuple[int, int] | None:
        steps = checkpoint_steps(target.trial)
        return (steps[1], steps[0]) if target.last_step >= step and len(steps) > 1 else None

    return target.wait_until(command, two, f"two checkpoints stood at step {step}")


def tear_small_files(target: TargetRun) -> None:
    """Every small file of a stopped run is cut in half, Ray's own are gone, and the patches are truncated."""
    stop_somewhere(target)
    before = target.moment()
    trial, experiment = target.trial.local_path, target.experiment.local_path
    halve_last_line(trial / METRICS_LOG)
    for path in (trial / TRIAL_FILE, experiment / RESULTS_CSV, experiment / RESULTS_JSON):
        halve(path)
    for path in sorted((experiment / RAY_FOLDER).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in (target.storage.local_path / "patches").glob("*/train-*.arrow"):
        halve(path)
    command = target.start(quick=True)
    target.recovered(command, before)
    target.finish(command)


def halve(path: Path) -> None:
    """The second half of a file is gone."""
    os.truncate(path, path.stat().st_size // 2)


def halve_last_line(path: Path) -> None:
    """The second half of a file's last line is gone."""
    content = path.read_bytes()
    last = content.rstrip(b"\n").rpartition(b"\n")[2]
    os.truncate(path, len(content) - len(last) // 2 - 1)


def stop_somewhere(target: TargetRun) -> None:
    """A run that was stopped at some step, with a checkpoint."""
    command = target.start(quick=True)
    (step,) = target.moments(1)
    target.wait_for_step(command, step)
    command.signal(signal.SIGTERM)
    target.expect(command, Exit.STOPPED)


def move_storage(target: TargetRun) -> None:
    """The storage of a stopped run gets another path."""
    stop_somewhere(target)
    before = target.moment()
    moved = "moved/somewhere else"
    target.folder.make_folder("moved")
    target.folder.rename(target.results_name, moved)
    target.results_name = moved
    command = target.start(quick=True)
    target.recovered(command, before)
    target.finish(command)


def fill_disk(target: TargetRun) -> None:
    """The storage is full while the run goes on: 75; once there is space, the same command goes on."""
    target.storage.make_folder()
    if not mount_small_disk(target.storage.local_path):
        limit_files(target)
        return
    try:
        target.use_prepared_patches()
        command = target.start()
        (step,) = target.moments(1)
        target.wait_for_step(command, step)
        injected_at = time.monotonic()
        fill(target.storage.local_path / BALLAST)
        target.expect(command, Exit.STOPPED)
        (target.storage.local_path / BALLAST).unlink()
        before = target.moment()._replace(at=injected_at)
        command = target.start()
        target.recovered(command, before)
        target.finish(command)
    finally:
        target.end_everything()
        keep_small_disk(target.storage.local_path)


def limit_files(target: TargetRun) -> None:
    """As `fill_disk` where nothing may be mounted: no file may grow past what a checkpoint's largest one needs."""
    stop_somewhere(target)
    injected_at = time.monotonic()
    command = target.start(quick=True, max_file_bytes=FILE_BYTES)
    target.expect(command, Exit.STOPPED)
    before = target.moment()._replace(at=injected_at)
    command = target.start(quick=True)
    target.recovered(command, before)
    target.finish(command)


def fill(path: Path) -> None:
    """Writes a file until there is no space left."""
    with open(path, "wb", buffering=0) as stream:
        for size in (2**16, 2**10, 1):
            with contextlib.suppress(OSError):
                while stream.write(b"\0" * size):
                    pass


def mount_small_disk(path: Path) -> bool:
    """Puts a small file system in memory under a folder; False where that is not allowed."""
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs"]
    try:
        return subprocess.run(["mount", *options, str(path)], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def keep_small_disk(path: Path) -> None:
    """Takes the file system away; what was on it stays, for whoever wants to see what went wrong."""
    copy = path.with_name(f"{path.name}.copy")
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns(BALLAST))
    subprocess.run(["umount", "--lazy", str(path)], check=True, capture_output=True)
    path.rmdir()
    copy.rename(path)
