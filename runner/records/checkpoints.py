"""Checkpoints in a trial's folder.

A checkpoint is a folder with the training's state and the log up to its step; its bytes depend on nothing else. The
manifest is written last and holds the size and the SHA-256 of every file: a checkpoint without a manifest, or with a
file that does not match, is damaged. It gets another name, is never deleted, and the next older one is used.
"""

import hashlib
import json
import secrets
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, NamedTuple

import safetensors
import safetensors.torch

from gan.training.snapshot import Groups
from runner.config.fingerprint import Fingerprints
from runner.records.trial_file import record_digest
from runner.storage.hashing import HashingStream
from runner.storage.run_folder import CHECKPOINTS, MANIFEST
from runner.storage.storage import Storage, raise_unreachable
from runner.storage.tensor_writer import write_tensors

_MANIFEST_FORMAT = 3
_STEP_PREFIX = "step_"
DAMAGED_PREFIX = "damaged_"
_LOG_COPY = "metrics.jsonl"


class DamagedCheckpoint(Exception):
    """A checkpoint without a manifest, or not as its manifest says; the text says what is wrong."""


class NoGoodCheckpoint(Exception):
    """All checkpoints of a trial are damaged; the text says what is wrong with each."""


class RunPosition(NamedTuple):
    """The point of the run that a checkpoint is taken at.

    Attributes:
        finished_epoch: the epoch that has just ended, 0 in the middle of one.
        runtime: threads, precision and kernels of the run, in case trial.yaml is lost.
        seconds: the training time up to it.
        best: which weights are the best so far, and the SHA-256 of their file; None where there are none.
    """

    step: int
    finished_epoch: int
    runtime: Mapping[str, Any]
    seconds: float
    best: Mapping[str, Any] | None = None


class Checkpoint(NamedTuple):
    """A verified checkpoint: the state's groups of tensors, and the log up to that step.

    Attributes:
        seconds: the training time up to it; 0 where an earlier release has not recorded it.
        best: as in RunPosition.
    """

    step: int
    groups: Groups
    log: bytes
    seconds: float
    best: Mapping[str, Any] | None = None


def checkpoint_name(step: int) -> str:
    """`step_00004384`."""
    return f"{_STEP_PREFIX}{step:08d}"


def checkpoint_steps(trial: Storage) -> list[int]:
    """The steps of a trial's checkpoints, newest first, damaged ones included."""
    return _list_checkpoints(trial.at(CHECKPOINTS))[0]


def _list_checkpoints(folder: Storage) -> tuple[list[int], list[str]]:
    """The steps of checkpoints, newest first, and the names of those whose write was broken off."""
    names = [name for name in folder.names() if name.startswith(_STEP_PREFIX)]
    unfinished = [name for name in names if folder.is_unfinished(name, MANIFEST)]
    steps = [name.removeprefix(_STEP_PREFIX) for name in names if name not in unfinished]
    return sorted((int(step) for step in steps if step.isdigit()), reverse=True), unfinished


def write_checkpoint(
    trial: Storage,
    groups: Groups,
    log: bytes,
    position: RunPosition,
    fingerprints: Fingerprints,
    committing: Callable[[], AbstractContextManager[None]] = nullcontext,
    on_tensor: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Writes a file for each group and the log, then the manifest, which makes the checkpoint count.

    Args:
        groups: named groups of named tensors in host memory, as TrainState.state_dict returns them.
        committing: entered while the checkpoint begins to count; raises where another worker has taken over the trial.
        on_tensor: called after each tensor, so that a slow storage is not taken for a worker that hangs.

    Returns:
        The manifest.
    """
    with trial.at(CHECKPOINTS).new_folder(checkpoint_name(position.step), MANIFEST, committing) as writing:
        # The files, hashed while they are written.
        files: dict[str, dict[str, Any]] = {}
        for group, tensors in groups.items():
            name = f"{group}.safetensors"
            with writing.writing(name) as stream:
                hashing = HashingStream(stream, hashlib.sha256())
                write_tensors(hashing, tensors, on_tensor)
            files[name] = {"bytes": hashing.size, "sha256": hashing.digest.hexdigest()}
        with writing.writing(_LOG_COPY) as stream:
            stream.write(log)
        files[_LOG_COPY] = {"bytes": len(log), "sha256": hashlib.sha256(log).hexdigest()}

        # In a bucket each writer has names of its own.
        for name, entry in files.items():
            if (path := writing.path_of(name)) != name:
                entry["path"] = path

        manifest = {
            "format": _MANIFEST_FORMAT,
            "step": position.step,
            "finished_epoch": position.finished_epoch,
            "config_fingerprint": fingerprints.config,
            "data_fingerprint": fingerprints.data,
            "settled": dict(position.runtime),
            "seconds": round(position.seconds, 3),
            "files": files,
        }
        if position.best is not None:
            manifest["best"] = dict(position.best)
        manifest["digest"] = record_digest(manifest)
        writing.finish(json.dumps(manifest, indent=1).encode())
    return manifest


def _read_manifest(trial: Storage, step: int, fingerprints: Fingerprints) -> dict[str, Any]:
    """A checkpoint's manifest; raises DamagedCheckpoint where it is damaged or belongs to another trial."""
    try:
        manifest = json.loads(trial.read(f"{CHECKPOINTS}/{checkpoint_name(step)}/{MANIFEST}"))
        found = (
            manifest["format"],
            manifest["step"],
            manifest["config_fingerprint"],
            manifest["data_fingerprint"],
        )
        # The digest is of the manifest without the field `digest` itself.
        digest = manifest.pop("digest")
    except FileNotFoundError:
        raise DamagedCheckpoint("it has no manifest") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise_unreachable(error)
        raise DamagedCheckpoint(f"its manifest can't be read ({type(error).__name__})") from None

    if digest != record_digest(manifest):
        raise DamagedCheckpoint("its manifest is not as it was written")
    # Intact, but of what? A folder copied from another trial has a good digest, too.
    wanted = (_MANIFEST_FORMAT, step, fingerprints.config, fingerprints.data)
    for what, actual, expected in zip(("format", "step", "config", "data"), found, wanted, strict=True):
        if actual != expected:
            raise DamagedCheckpoint(f"its manifest is for another {what} ({actual} instead of {expected})")
    return dict(manifest)


def read_checkpoint(
    trial: Storage, step: int, fingerprints: Fingerprints, only: Collection[str] | None = None
) -> Checkpoint:
    """Reads and verifies a checkpoint. Safetensors files hold numbers only: loading them runs no code.

    Args:
        only: the groups to read; None reads all groups and the log.

    Raises:
        DamagedCheckpoint: a file is missing, or is not the one that was written.
    """
    manifest = _read_manifest(trial, step, fingerprints)
    folder = trial.at(f"{CHECKPOINTS}/{checkpoint_name(step)}")
    groups: Groups = {}
    log = b""
    for name, entry in manifest["files"].items():
        # The log is no group, so it is skipped here, too.
        if only is not None and name.removesuffix(".safetensors") not in only:
            continue

        try:
            content = folder.read(entry.get("path", name))
        except OSError as error:
            raise_unreachable(error)
            raise DamagedCheckpoint(f"{name} can't be read ({type(error).__name__})") from None
        # The size first: "torn" tells a person more than "does not match".
        if len(content) != entry["bytes"]:
            raise DamagedCheckpoint(f"{name} has {len(content)} bytes instead of {entry['bytes']}")
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise DamagedCheckpoint(f"{name} does not match its SHA-256")

        if name == _LOG_COPY:
            log = content
            continue
        try:
            groups[name.removesuffix(".safetensors")] = safetensors.torch.load(content)
        except safetensors.SafetensorError as error:
            raise DamagedCheckpoint(f"{name} is not a safetensors file ({error})") from None

    return Checkpoint(step, groups, log, float(manifest.get("seconds", 0.0)), manifest.get("best"))


def newest_checkpoint(trial: Storage, fingerprints: Fingerprints, notify: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is not damaged, or None where a trial has no checkpoint.

    Newer ones that are damaged are set aside. If all are damaged, they stay as they are.

    Args:
        notify: called with a line for each damaged one.

    Raises:
        NoGoodCheckpoint: all checkpoints are damaged.
    """
    trial.at(CHECKPOINTS).finish_replacements()
    damaged: dict[int, DamagedCheckpoint] = {}

    for step in checkpoint_steps(trial):
        try:
            found = read_checkpoint(trial, step, fingerprints)
        except DamagedCheckpoint as error:
            damaged[step] = error
            continue
        # Only now, when there is one to go on from: what can't be replaced is not touched.
        for bad, problem in damaged.items():
            notify(f"checkpoint {checkpoint_name(bad)}: {problem}; set aside as {_set_aside(trial, bad)}")
        return found

    if damaged:
        tried = "".join(f"\n  {checkpoint_name(bad)}: {problem}" for bad, problem in damaged.items())
        raise NoGoodCheckpoint(f"none of the checkpoints can be used:{tried}")
    return None


def _set_aside(trial: Storage, step: int) -> str:
    """Renames a damaged checkpoint, so that it is not used again; returns its new name."""
    name = checkpoint_name(step)
    # The random part: a second one of the same step may be set aside later.
    aside = f"{DAMAGED_PREFIX}{name}_{secrets.token_hex(3)}"
    trial.at(CHECKPOINTS).set_aside(name, aside)
    return f"{CHECKPOINTS}/{aside}"


def remove_old_checkpoints(trial: Storage, keep: int, keeps_epoch: Callable[[int], bool] = lambda epoch: False) -> None:
    """Deletes all but the `keep` newest checkpoints, and what unfinished writes have left.

    Args:
        keeps_epoch: whether an older checkpoint is kept as well, by the epoch at whose end it was taken, 0 for none.
    """
    folder = trial.at(CHECKPOINTS)
    steps, unfinished = _list_checkpoints(folder)
    for step in steps[keep:]:
        if not keeps_epoch(finished_epoch(trial, step)):
            folder.remove(checkpoint_name(step))
    folder.remove_unfinished(MANIFEST)
    for name in unfinished:
        folder.remove(name)


def finished_epoch(trial: Storage, step: int) -> int:
    """The epoch at whose end a checkpoint was taken; 0 in the middle of one, or where the manifest can't be read."""
    try:
        return int(json.loads(trial.read(f"{CHECKPOINTS}/{checkpoint_name(step)}/{MANIFEST}"))["finished_epoch"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_unreachable(error)
        return 0


def best_in_checkpoints(trial: Storage, fingerprints: Fingerprints) -> list[Mapping[str, Any]]:
    """What the manifests say of the best weights, the newest first; manifests that can't be read are left out."""
    found = []
    for step in checkpoint_steps(trial):
        with suppress(DamagedCheckpoint):
            if (best := _read_manifest(trial, step, fingerprints).get("best")) is not None:
                found.append(best)
    return found


def runtime_in_checkpoints(trial: Storage, fingerprints: Fingerprints) -> dict[str, Any]:
    """Threads, precision and kernels of the run, from the newest readable manifest; empty where there is none."""
    for step in checkpoint_steps(trial):
        try:
            return dict(_read_manifest(trial, step, fingerprints)["settled"])
        except DamagedCheckpoint:
            continue
    return {}
