"""Faults of the storage: files are damaged or gone, the disk is full, the folder has moved."""

import contextlib
import json
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
    PATCHES,
    RAY_FOLDER,
    RESULTS_CSV,
    RESULTS_JSON,
    TRIAL_FILE,
)
from runner.storage.storage import Storage

_DISK_BYTES = 24 * 2**20
_FILE_BYTES = 700_000  # less than the generator's optimizer state, more than any other file
_BALLAST = "ballast"
_WEIGHTS_OF_STATE = "generator.safetensors"


# The ways to damage a checkpoint.


def truncate(checkpoint: Storage) -> None:
    """Cuts off half of a checkpoint's weights."""
    _halve(checkpoint, _weights_of(checkpoint))


def _flip_bit(checkpoint: Storage) -> None:
    """Flips one bit in the middle of a checkpoint's weights."""
    name = _weights_of(checkpoint)
    content = bytearray(checkpoint.read(name))
    content[len(content) // 2] ^= 1
    checkpoint.write(name, bytes(content))


def _remove_manifest(checkpoint: Storage) -> None:
    """Removes a checkpoint's list of files."""
    checkpoint.remove(MANIFEST)


def _weights_of(checkpoint: Storage) -> str:
    entry = json.loads(checkpoint.read(MANIFEST))["files"][_WEIGHTS_OF_STATE]
    return str(entry.get("path", _WEIGHTS_OF_STATE))


DAMAGES: tuple[Callable[[Storage], None], ...] = (truncate, _flip_bit, _remove_manifest)


def damage_checkpoints(target: TargetRun) -> None:
    """Damages the newest checkpoint of a killed run, in each way once. The run must resume from the one before."""
    command = target.start(quick=True)
    resumed = 0
    for step, damage in zip(target.random_steps(len(DAMAGES)), DAMAGES, strict=True):
        # With one checkpoint only, the damaged one would be the last.
        older, newest = _wait_for_checkpoints(target, command, max(step, resumed + 1))
        with target.killing() as before:
            command.kill_all()

        # It may have written another one before it was killed.
        older, newest = sorted(checkpoint_steps(target.trial))[-2:]
        damage(target.trial.at(f"{CHECKPOINTS}/{checkpoint_name(newest)}"))

        command = target.start(quick=True)
        resumed = target.recovered(command, before)
        if resumed != older:
            raise NotSurvived(
                f"{damage.__name__}: of the checkpoints {older} and {newest}, the newer one damaged, "
                f"it went on from step {resumed}"
            )
        # In a bucket a checkpoint without its list of files is one that was never written to its end.
        is_unknown = damage is _remove_manifest and target.storage.is_remote
        if not is_unknown and not any(name.startswith(DAMAGED_PREFIX) for name in target.trial.names(CHECKPOINTS)):
            raise NotSurvived(f"{damage.__name__}: the damaged checkpoint {newest} was not set aside")

    target.finish(command)


def _wait_for_checkpoints(target: TargetRun, command: CommandRun, step: int) -> tuple[int, int]:
    """Waits until this step is in the log, and there are two checkpoints. Returns their steps, the older one first."""

    def two() -> tuple[int, int] | None:
        steps = checkpoint_steps(target.trial)
        return (steps[1], steps[0]) if target.last_step >= step and len(steps) > 1 else None

    return target.wait_until(command, two, f"there were two checkpoints at step {step}")


def tear_small_files(target: TargetRun) -> None:
    """Cuts all small files and the patches of a stopped run in half, and removes Ray's files."""
    _stop_somewhere(target)

    # All of these can be rebuilt from the checkpoint or from the other files.
    _halve_last_line(target.trial, METRICS_LOG)
    _halve(target.trial, TRIAL_FILE)
    for name in (RESULTS_CSV, RESULTS_JSON):
        _halve(target.experiment, name)
    target.experiment.remove(RAY_FOLDER)
    for fingerprint in target.storage.names(PATCHES):
        store = target.storage.at(f"{PATCHES}/{fingerprint}")
        for name in store.names():
            if name.startswith("train-"):
                _halve(store, name)

    # After the log was replaced above: the next start's could get the number that the file system gave to the first.
    before = target.moment()
    command = target.start(quick=True)
    target.recovered(command, before)
    target.finish(command)


def _halve(folder: Storage, name: str) -> None:
    """Cuts off the second half of a file."""
    content = folder.read(name)
    folder.write(name, content[: len(content) // 2])


def _halve_last_line(folder: Storage, name: str) -> None:
    """Cuts off the second half of a file's last line."""
    content = folder.read(name)
    last = content.rstrip(b"\n").rpartition(b"\n")[2]
    # The 1 is the newline at the end: a write that breaks off has none.
    folder.write(name, content[: len(content) - len(last) // 2 - 1])


def _stop_somewhere(target: TargetRun) -> None:
    """Starts a run, and stops it at a random step. It saves a checkpoint."""
    command = target.start(quick=True)
    (step,) = target.random_steps(1)
    target.wait_for_step(command, step)
    command.signal(signal.SIGTERM)
    target.expect(command, Exit.STOPPED)


def move_storage(target: TargetRun) -> None:
    """Moves the storage of a stopped run to another path."""
    _stop_somewhere(target)
    before = target.moment()
    moved = "moved/somewhere else"
    target.place.make_folder("moved")
    target.place.set_aside(target.results_name, moved)
    target.results_name = moved

    command = target.start(quick=True)
    target.recovered(command, before)
    target.finish(command)


def fill_disk(target: TargetRun) -> None:
    """Fills the disk while the run goes on. It ends with exit code 75. With space, the same command continues."""
    # A real full disk needs the right to mount one.
    target.storage.make_folder()
    disk = target.storage.local_copy()
    if not _mount_small_disk(disk):
        _limit_files(target)
        return

    try:
        target.use_prepared_patches()
        command = target.start()
        (step,) = target.random_steps(1)
        target.wait_for_step(command, step)

        # The run must end by itself. Then there is space again.
        injected_at = time.monotonic()
        _fill(disk / _BALLAST)
        target.expect(command, Exit.STOPPED)

        (disk / _BALLAST).unlink()
        # The time without space counts as part of the recovery.
        before = target.moment()._replace(at=injected_at)
        command = target.start()
        target.recovered(command, before)
        target.finish(command)
    finally:
        target.end_everything()
        _keep_small_disk(disk)


def _limit_files(target: TargetRun) -> None:
    """Does the same where the drill may not mount a disk: the system refuses files as large as a checkpoint's."""
    _stop_somewhere(target)
    injected_at = time.monotonic()
    command = target.start(quick=True, max_file_bytes=_FILE_BYTES)
    target.expect(command, Exit.STOPPED)
    before = target.moment()._replace(at=injected_at)
    command = target.start(quick=True)
    target.recovered(command, before)
    target.finish(command)


def _fill(path: Path) -> None:
    """Writes a file until no byte is left on the disk."""
    # Without a buffer, each write reports at once that the disk is full.
    with open(path, "wb", buffering=0) as stream:
        # Smaller and smaller blocks, until not one byte more fits.
        for size in (2**16, 2**10, 1):
            with contextlib.suppress(OSError):
                while stream.write(b"\0" * size):
                    pass


def _mount_small_disk(path: Path) -> bool:
    """Mounts a small file system in memory at a folder. False where that is not allowed."""
    options = ["-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs"]
    try:
        return subprocess.run(["mount", *options, str(path)], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _keep_small_disk(path: Path) -> None:
    """Unmounts the file system. Its files stay in the folder, so that a user can see what went wrong."""
    # A lazy unmount works even where a process still has a file open.
    copy = path.with_name(f"{path.name}.copy")
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns(_BALLAST))
    subprocess.run(["umount", "--lazy", str(path)], check=True, capture_output=True)
    path.rmdir()
    copy.rename(path)
