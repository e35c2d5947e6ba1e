"""Checkpoints on storage: a folder counts once its manifest is written; what is loaded is verified.

A checkpoint holds the training's state and the log up to its step. Its bytes are a function of these
alone. The manifest is written last and holds sizes and SHA-256 of every file, so that a torn or altered
checkpoint is known for what it is: it is set aside under another name, never deleted, and the next older
one is used.
"""

import hashlib
import json
import secrets
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import safetensors
import safetensors.torch

from gan.training.snapshot import Groups
from runner.records.fingerprint import Fingerprints
from runner.records.trial_file import record_digest
from runner.storage.folder import TEMPORARY, Storage
from runner.storage.hashing import HashingStream
from runner.storage.run_folder import CHECKPOINTS, MANIFEST
from runner.storage.tensor_writer import write_tensors

MANIFEST_FORMAT = 3
STEP_PREFIX = "step_"
DAMAGED_PREFIX = "damaged_"
REPLACED_PREFIX = "replaced_"
LOG_COPY = "metrics.jsonl"


class DamagedCheckpoint(Exception):
    """A checkpoint that is not what its manifest says, or has none; the text says in what."""


class NoGoodCheckpoint(Exception):
    """There are checkpoints, and none of them can be used; the text names each and says what is wrong with it."""


class RunPosition(NamedTuple):
    """Where in the run a checkpoint stands.

    Attributes:
        finished_epoch: the epoch that has just ended, 0 in the middle of one.
        runtime: threads, precision and kernels of the run, in case the trial's own record is lost.
    """

    step: int
    finished_epoch: int
    runtime: Mapping[str, Any]


class Checkpoint(NamedTuple):
    """What was read and verified: the state's groups of tensors, and the log up to that step."""

    step: int
    groups: Groups
    log: bytes


def checkpoint_name(step: int) -> str:
    """`step_00004384`."""
    return f"{STEP_PREFIX}{step:08d}"


def checkpoint_steps(trial: Storage) -> list[int]:
    """Steps of the checkpoint folders that stand in a trial, newest first, verified or not."""
    names = trial.names(CHECKPOINTS)
    steps = [name.removeprefix(STEP_PREFIX) for name in names if name.startswith(STEP_PREFIX)]
    return sorted((int(step) for step in steps if step.isdigit()), reverse=True)


def write_checkpoint(
    trial: Storage,
    groups: Groups,
    log: bytes,
    place: RunPosition,
    fingerprints: Fingerprints,
    committing: Callable[[], AbstractContextManager[None]] = nullcontext,
    on_tensor: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Writes one file a group and the log, then the manifest, and puts the folder in place by a rename.

    Args:
        groups: named groups of named host tensors, as TrainState.state_dict gives them.
        committing: around the rename; raises where another attempt has taken over, and nothing is committed.
        on_tensor: called after each tensor: a sign of work, however slow the storage is.

    Returns:
        The manifest.
    """
    folder, name = trial.at(CHECKPOINTS), checkpoint_name(place.step)
    temporary = f"{TEMPORARY}{name}-{secrets.token_hex(4)}"
    writing = folder.at(temporary)
    writing.make_folder()
    try:
        files = {}
        for group, tensors in groups.items():
            with writing.writing(f"{group}.safetensors") as stream:
                hashing = HashingStream(stream, hashlib.sha256())
                write_tensors(hashing, tensors, on_tensor)
            files[f"{group}.safetensors"] = {"bytes": hashing.size, "sha256": hashing.digest.hexdigest()}
        writing.write(LOG_COPY, log)
        files[LOG_COPY] = {"bytes": len(log), "sha256": hashlib.sha256(log).hexdigest()}
        manifest = {
            "format": MANIFEST_FORMAT,
            "step": place.step,
            "finished_epoch": place.finished_epoch,
            "config_fingerprint": fingerprints.config,
            "data_fingerprint": fingerprints.data,
            "settled": dict(place.runtime),
            "files": files,
        }
        manifest["digest"] = record_digest(manifest)
        writing.write(MANIFEST, json.dumps(manifest, indent=1).encode())
        with committing():
            if folder.exists(name):
                folder.rename(name, REPLACED_PREFIX + name)
            folder.rename(temporary, name)
            folder.remove(REPLACED_PREFIX + name)
    finally:
        folder.remove(temporary)
    return manifest


def read_manifest(trial: Storage, step: int, fingerprints: Fingerprints) -> dict[str, Any]:
    """The manifest, checked against what the trial is; raises DamagedCheckpoint."""
    try:
        manifest = json.loads(trial.read(f"{CHECKPOINTS}/{checkpoint_name(step)}/{MANIFEST}"))
        found = (
            manifest["format"],
            manifest["step"],
            manifest["config_fingerprint"],
            manifest["data_fingerprint"],
        )
        digest = manifest.pop("digest")
    except FileNotFoundError:
        raise DamagedCheckpoint("it has no manifest") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(f"its manifest can't be read ({type(error).__name__})") from None
    if digest != record_digest(manifest):
        raise DamagedCheckpoint("its manifest is not as it was written")
    wanted = (MANIFEST_FORMAT, step, fingerprints.config, fingerprints.data)
    for what, is_, should in zip(("format", "step", "config", "data"), found, wanted, strict=True):
        if is_ != should:
            raise DamagedCheckpoint(f"its manifest is for another {what} ({is_} instead of {should})")
    return dict(manifest)


def read_checkpoint(
    trial: Storage, step: int, fingerprints: Fingerprints, only: Collection[str] | None = None
) -> Checkpoint:
    """One checkpoint, verified. Safetensors hold numbers only: loading runs no code.

    Args:
        only: the groups to read; all, and the log, where None.

    Raises:
        DamagedCheckpoint: a file is missing, or is not the one that was written.
    """
    manifest = read_manifest(trial, step, fingerprints)
    folder = trial.at(f"{CHECKPOINTS}/{checkpoint_name(step)}")
    groups: Groups = {}
    log = b""
    for name, entry in manifest["files"].items():
        if only is not None and name.removesuffix(".safetensors") not in only:
            continue
        try:
            content = folder.read(name)
        except OSError as error:
            raise DamagedCheckpoint(f"{name} can't be read ({type(error).__name__})") from None
        if len(content) != entry["bytes"]:
            raise DamagedCheckpoint(f"{name} has {len(content)} bytes instead of {entry['bytes']}")
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise DamagedCheckpoint(f"{name} does not match its SHA-256")
        if name == LOG_COPY:
            log = content
            continue
        try:
            groups[name.removesuffix(".safetensors")] = safetensors.torch.load(content)
        except safetensors.SafetensorError as error:
            raise DamagedCheckpoint(f"{name} is no safetensors file ({error})") from None
    return Checkpoint(step, groups, log)


def newest_checkpoint(trial: Storage, fingerprints: Fingerprints, notify: Callable[[str], None]) -> Checkpoint | None:
    """The newest verified checkpoint, or None where there is none at all.

    Damaged ones that are newer are named and set aside. Where no other is left they stay as they are.

    Raises:
        NoGoodCheckpoint: there are some, and all are damaged.
    """
    put_back_replaced(trial)
    damaged: dict[int, DamagedCheckpoint] = {}
    for step in checkpoint_steps(trial):
        try:
            found = read_checkpoint(trial, step, fingerprints)
        except DamagedCheckpoint as error:
            damaged[step] = error
            continue
        for bad, problem in damaged.items():
            notify(f"checkpoint {checkpoint_name(bad)}: {problem}; set aside as {set_aside(trial, bad)}")
        return found
    if damaged:
        tried = "".join(f"\n  {checkpoint_name(bad)}: {problem}" for bad, problem in damaged.items())
        raise NoGoodCheckpoint(f"none of the checkpoints can be used:{tried}")
    return None


def put_back_replaced(trial: Storage) -> None:
    """A checkpoint that was about to be replaced by a later one of its step stands in for it, if need be."""
    folder = trial.at(CHECKPOINTS)
    for replaced in folder.names():
        name = replaced.removeprefix(REPLACED_PREFIX)
        if name == replaced:
            continue
        if folder.exists(name):
            folder.remove(replaced)
        else:
            folder.rename(replaced, name)


def set_aside(trial: Storage, step: int) -> str:
    """Moves a damaged checkpoint out of the way, never deleting it; its new name."""
    name = checkpoint_name(step)
    aside = f"{DAMAGED_PREFIX}{name}_{secrets.token_hex(3)}"
    trial.at(CHECKPOINTS).rename(name, aside)
    return f"{CHECKPOINTS}/{aside}"


def remove_old_checkpoints(trial: Storage, keep: int, keeps_epoch: Callable[[int], bool] = lambda epoch: False) -> None:
    """Deletes all but the `keep` newest checkpoints, and what broken-off writes left behind.

    Args:
        keeps_epoch: told the epoch that an older checkpoint ends (0 in the middle of one); True where it stays too.
    """
    folder = trial.at(CHECKPOINTS)
    for step in checkpoint_steps(trial)[keep:]:
        if not keeps_epoch(finished_epoch(trial, step)):
            folder.remove(checkpoint_name(step))
    for leftover in folder.temporary_names():
        folder.remove(leftover)


def finished_epoch(trial: Storage, step: int) -> int:
    """The epoch that a checkpoint ends; 0 where it ends none, or does not say."""
    try:
        return int(json.loads(trial.read(f"{CHECKPOINTS}/{checkpoint_name(step)}/{MANIFEST}"))["finished_epoch"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def runtime_in_checkpoints(trial: Storage, fingerprints: Fingerprints) -> dict[str, Any]:
    """Threads, precision and kernels as the newest checkpoint that can say so has them; empty where none can."""
    for step in checkpoint_steps(trial):
        try:
            return dict(read_manifest(trial, step, fingerprints)["settled"])
        except DamagedCheckpoint:
            continue
    return {}
