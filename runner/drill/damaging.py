"""Faults of the storage: what stands there is torn, gone, full or somewhere else."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from runner.checkpoints import DAMAGED_PREFIX, MANIFEST, checkpoint_name, checkpoint_steps
from runner.drill.command_run import CommandRun
from runner.drill.victim import NotSurvived, Victim
from runner.errors import Exit
from runner.lease import RAY_FOLDER
from runner.metrics_log import METRICS
from runner.records import CHECKPOINTS, TRIAL_FILE

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


def damage_checkpoints(victim: Victim) -> None:
    """The newest checkpoint of a killed run is damaged, in each way once: the next older one must be used."""
    command = victim.start(quick=True)
    resumed = 0
    for step, damage in zip(victim.moments(len(DAMAGES)), DAMAGES, strict=True):
        older, newest = wait_for_checkpoints(victim, command, max(step, resumed + 1))
        with victim.killing() as before:
            command.kill_all()
        older, newest = sorted(checkpoint_steps(victim.trial))[-2:]
        damage(victim.trial.at(CHECKPOINTS).local_path / checkpoint_name(newest))
        command = victim.start(quick=True)
        resumed = victim.recovered(command, before)
        if resumed != older:
            raise NotSurvived(
                f"{damage.__name__}: of the checkpoints {older} and {newest}, the newer one damaged, "
                f"it went on from step {resumed}"
            )
        if not any(name.startswith(DAMAGED_PREFIX) for name in victim.trial.names(CHECKPOINTS)):
            raise NotSurvived(f"{damage.__name__}: the damaged checkpoint {newest} was not set aside")
    victim.finish(command)


def wait_for_checkpoints(victim: Victim, command: CommandRun, step: int) -> tuple[int, int]:
    """The two newest checkpoints, once that step is logged and the older one was written in this start."""

    def two() -> tuple[int, int] | None:
        steps = checkpoint_steps(victim.trial)
        return (steps[1], steps[0]) if victim.last_step >= step and len(steps) > 1 else None

    return victim.wait_until(command, two, f"two checkpoints stood at step {step}")


def tear_small_files(victim: Victim) -> None:
    """Every small file of a stopped run is cut in half, Ray's own are gone, and the patches are truncated."""
    stop_somewhere(victim)
    before = victim.moment()
    trial, experiment = victim.trial.local_path, victim.experiment.local_path
    halve_last_line(trial / METRICS)
    for path in (trial / TRIAL_FILE, experiment / "results.csv", experiment / "results.json"):
        halve(path)
    for path in sorted((experiment / RAY_FOLDER).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in (victim.storage.local_path / "patches").glob("*/train-*.arrow"):
        halve(path)
    command = victim.start(quick=True)
    victim.recovered(command, before)
    victim.finish(command)


def halve(path: Path) -> None:
    """The second half of a file is gone."""
    os.truncate(path, path.stat().st_size // 2)


def halve_last_line(path: Path) -> None:
    """The second half of a file's last line is gone."""
    content = path.read_bytes()
    last = content.rstrip(b"\n").rpartition(b"\n")[2]
    os.truncate(path, len(content) - len(last) // 2 - 1)


def stop_somewhere(victim: Victim) -> None:
    """A run that was stopped at some step, with a checkpoint."""
    command = victim.start(quick=True)
    (step,) = victim.moments(1)
    victim.wait_for_step(command, step)
    command.signal(signal.SIGTERM)
    victim.expect(command, Exit.STOPPED)


def move_storage(victim: Victim) -> None:
    """The storage of a stopped run gets another path."""
    stop_somewhere(victim)
    before = victim.moment()
    moved = "moved/somewhere else"
    victim.folder.make_folder("moved")
    victim.folder.rename(victim.results_name, moved)
    victim.results_name = moved
    command = victim.start(quick=True)
    victim.recovered(command, before)
    victim.finish(command)


def fill_disk(victim: Victim) -> None:
    """The storage is full while the run goes on: 75; once there is space, the same command goes on."""
    victim.storage.make_folder()
    if not mount_small_disk(victim.storage.local_path):
        limit_files(victim)
        return
    try:
        victim.use_prepared_patches()
        command = victim.start()
        (step,) = victim.moments(1)
        victim.wait_for_step(command, step)
        struck_at = time.monotonic()
        fill(victim.storage.local_path / BALLAST)
        victim.expect(command, Exit.STOPPED)
        (victim.storage.local_path / BALLAST).unlink()
        before = victim.moment()._replace(at=struck_at)
        command = victim.start()
        victim.recovered(command, before)
        victim.finish(command)
    finally:
        victim.end_everything()
        keep_small_disk(victim.storage.local_path)


def limit_files(victim: Victim) -> None:
    """As `fill_disk` where nothing may be mounted: no file may grow past what a checkpoint's largest one needs."""
    stop_somewhere(victim)
    struck_at = time.monotonic()
    command = victim.start(quick=True, max_file_bytes=FILE_BYTES)
    victim.expect(command, Exit.STOPPED)
    before = victim.moment()._replace(at=struck_at)
    command = victim.start(quick=True)
    victim.recovered(command, before)
    victim.finish(command)


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
