"""Compares a run that was broken with an undisturbed one, byte by byte."""

import json
from typing import Any

from runner.records.checkpoints import checkpoint_name, checkpoint_steps
from runner.records.metrics_log import read_rows
from runner.storage.run_folder import CHECKPOINTS, MANIFEST, WEIGHTS
from runner.storage.storage import Storage

# Columns of the log that differ between any two runs.
_WALL_TIMES = ("seconds", "images_per_second")


def differences(trial: Storage, reference: Storage) -> list[str]:
    """Lists how a finished trial differs from an undisturbed one. Empty where it does not.

    Weights, the state of the last checkpoint, and the log are compared. Times may differ.
    """
    found = [] if _same_file(trial, reference, WEIGHTS) else [f"{WEIGHTS} differs"]
    return found + _checkpoint_differences(trial, reference) + _log_differences(trial, reference)


def _same_file(trial: Storage, reference: Storage, name: str, other_name: str | None = None) -> bool:
    """True where both trials have the file, with the same bytes.

    Args:
        other_name: of the reference's file; None for the same.
    """
    try:
        return trial.read(name) == reference.read(other_name or name)
    except FileNotFoundError:
        return False


def _checkpoint_differences(trial: Storage, reference: Storage) -> list[str]:
    """Lists the files of the newest checkpoint that differ, or says that its step does."""
    step, expected = (max(checkpoint_steps(one), default=0) for one in (trial, reference))
    if step != expected:
        return [f"the last checkpoint is of step {step} instead of {expected}"]
    folder = f"{CHECKPOINTS}/{checkpoint_name(step)}"

    # The manifest has times in it.
    paths, others = (_state_paths(one, folder) for one in (trial, reference))
    return [
        f"{folder}/{name} differs"
        for name in sorted(paths | others)
        if name not in paths or name not in others or not _same_file(trial, reference, paths[name], others[name])
    ]


def _state_paths(trial: Storage, folder: str) -> dict[str, str]:
    """Where the files of a checkpoint's state lie, by their names: those in a bucket have names of their writer's."""
    files = json.loads(trial.read(f"{folder}/{MANIFEST}"))["files"]
    return {
        name: f"{folder}/{entry.get('path', name)}" for name, entry in files.items() if name.endswith(".safetensors")
    }


def _log_differences(trial: Storage, reference: Storage) -> list[str]:
    """Gives the first row of metrics.jsonl that differs, or the number of rows if that does."""
    # The first difference is enough: later rows differ because of it.
    rows, expected = _comparable_rows(trial), _comparable_rows(reference)
    for number, (row, wanted) in enumerate(zip(rows, expected, strict=False), start=1):
        if row != wanted:
            return [f"metrics.jsonl differs from row {number} on: {row[:120]} instead of {wanted[:120]}"]
    if len(rows) == len(expected):
        return []
    return [f"metrics.jsonl has {len(rows)} {'row' if len(rows) == 1 else 'rows'} instead of {len(expected)}"]


def _comparable_rows(trial: Storage) -> list[str]:
    """The rows of a trial's log, without wall times."""
    return [json.dumps(_without_wall_times(row)) for row in read_rows(trial)]


def _without_wall_times(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what depends on the clock."""
    return {name: value for name, value in row.items() if name not in _WALL_TIMES}
