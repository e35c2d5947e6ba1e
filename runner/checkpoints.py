"""Checkpoints on storage: a folder counts once its manifest is written; what is loaded is verified.

A checkpoint's bytes are a function of the state alone. The manifest is written last and holds sizes and
SHA-256 of every file, so that a torn or altered checkpoint is known for what it is: it is set aside under
another name, never deleted, and the next older one is used.
"""

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from runner.records import Fingerprints
from runner.storage import TEMPORARY, Storage

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
CHECKPOINTS = "checkpoints"
STEP_PREFIX = "step_"
DAMAGED_PREFIX = "damaged_"


class DamagedCheckpoint(Exception):
    """A checkpoint that is not what its manifest says, or has none; the text says in what."""


Groups = dict[str, dict[str, Tensor]]


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
    step: int,
    fingerprints: Fingerprints,
    still_current: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Writes one file a group, then the manifest, and puts the folder in place by a rename.

    Args:
        groups: named groups of named tensors, as TrainState.state_dict gives them.
        still_current: called just before the folder gets its name; raises where another attempt has
            taken over, and nothing is committed.

    Returns:
        The manifest.
    """
    folder = trial.at(CHECKPOINTS)
    temporary = f"{TEMPORARY}{checkpoint_name(step)}-{secrets.token_hex(4)}"
    writing = folder.at(temporary)
    writing.make_folder()
    try:
        files = {}
        for group, tensors in groups.items():
            content = tensor_bytes(tensors)
            files[f"{group}.safetensors"] = {
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            writing.write(f"{group}.safetensors", content)
        manifest = {
            "format": MANIFEST_FORMAT,
            "step": step,
            "config_fingerprint": fingerprints.config,
            "data_fingerprint": fingerprints.data,
            "files": files,
        }
        writing.write(MANIFEST, json.dumps(manifest, indent=1).encode())
        still_current()
        if folder.exists(checkpoint_name(step)):
            folder.remove(checkpoint_name(step))
        folder.rename(temporary, checkpoint_name(step))
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
        if not isinstance(manifest["files"], dict):
            raise TypeError("files")
    except FileNotFoundError:
        raise DamagedCheckpoint("it has no manifest") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"its manifest can't be read ({type(error).__name__})") from None
    wanted = (MANIFEST_FORMAT, step, fingerprints.config, fingerprints.data)
    for what, is_, should in zip(("format", "step", "config", "data"), found, wanted, strict=True):
        if is_ != should:
            raise DamagedCheckpoint(f"its manifest is for another {what} ({is_} instead of {should})")
    return dict(manifest)


def read_checkpoint(trial: Storage, step: int, fingerprints: Fingerprints) -> Groups:
    """The verified groups of one checkpoint. Safetensors hold numbers only: loading runs no code.

    Raises:
        DamagedCheckpoint: a file is missing, or is not the one that was written.
    """
    manifest = read_manifest(trial, step, fingerprints)
    folder = trial.at(f"{CHECKPOINTS}/{checkpoint_name(step)}")
    groups: Groups = {}
    for name, entry in manifest["files"].items():
        try:
            content = folder.read(name)
        except OSError as error:
            raise DamagedCheckpoint(f"{name} can't be read ({type(error).__name__})") from None
        if len(content) != entry["bytes"]:
            raise DamagedCheckpoint(f"{name} has {len(content)} bytes instead of {entry['bytes']}")
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise DamagedCheckpoint(f"{name} does not match its SHA-256")
        try:
            groups[name.removesuffix(".safetensors")] = safetensors.torch.load(content)
        except safetensors.SafetensorError as error:
            raise DamagedCheckpoint(f"{name} is no safetensors file ({error})") from None
    return groups


def newest_checkpoint(
    trial: Storage, fingerprints: Fingerprints, say: Callable[[str], None]
) -> tuple[int, Groups] | None:
    """The newest verified checkpoint, or None where there is none; damaged ones are named and set aside."""
    for step in checkpoint_steps(trial):
        try:
            return step, read_checkpoint(trial, step, fingerprints)
        except DamagedCheckpoint as error:
            name = checkpoint_name(step)
            aside = f"{DAMAGED_PREFIX}{name}_{secrets.token_hex(3)}"
            trial.at(CHECKPOINTS).rename(name, aside)
            say(f"checkpoint {name}: {error}; set aside as {CHECKPOINTS}/{aside}")
    return None


def remove_old_checkpoints(trial: Storage, keep: int) -> None:
    """Deletes all but the `keep` newest checkpoints, and what broken-off writes left behind."""
    folder = trial.at(CHECKPOINTS)
    for step in checkpoint_steps(trial)[keep:]:
        folder.remove(checkpoint_name(step))
    for leftover in folder.temporary_names():
        folder.remove(leftover)


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file of named tensors; its bytes depend on them alone."""
    return safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
