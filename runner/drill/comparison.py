"""Compares a run that was broken with an undisturbed one, byte by byte."""

import json
from typing import Any

from runner.records.checkpoints import checkpoint_name, checkpoint_steps
from runner.records.metrics_log import read_rows
from runner.storage.folder import Folder
from runner.storage.run_folder import CHECKPOINTS, WEIGHTS

# Columns of the log that differ between any two runs.
_WALL_TIMES = ("seconds", "images_per_second")


def differences(trial: Folder, reference: Folder) -> list[str]:
    """Lists how a finished trial differs from an undisturbed one. Empty where it does not.

    Weights, the state of the last checkpoint, and the log are compared. Times may differ.
    """
    found = [] if _same_file(trial, reference, WEIGHTS) else [f"{WEIGHTS} differs"]
    return found + _checkpoint_differences(trial, reference) + _log_differences(trial, reference)


def _same_file(trial: Folder, reference: Folder, name: str) -> bool:
    """True where both trials have the file, with the same bytes."""
    try:
        return trial.read(name) == reference.read(name)
    except FileNotFoundError:
        return False


def _checkpoint_differences(trial: Folder, reference: Folder) -> list[str]:
    """Lists the files of the newest checkpoint that differ, or says that its step does."""
    step, expected = (max(checkpoint_steps(one), default=0) for one in (trial, reference))
    if step != expected:
        return [f"the last checkpoint is of step {step} instead of {expected}"]
    folder = f"{CHECKPOINTS}/{checkpoint_name(step)}"

    # The manifest has times in it.
    names = {name for one in (trial, reference) for name in one.names(folder) if name.endswith(".safetensors")}
    return [
        f"{folder}/{name} differs" for name in sorted(names) if not _same_file(trial, reference, f"{folder}/{name}")
    ]


def _log_differences(trial: Folder, reference: Folder) -> list[str]:
    """Gives the first row of metrics.jsonl that differs, or the number of rows if that does."""
    # The first difference is enough: later rows differ because of it.
    rows, expected = _comparable_rows(trial), _comparable_rows(reference)
    for number, (row, wanted) in enumerate(zip(rows, expected, strict=False), start=1):
        if row != wanted:
            return [f"metrics.jsonl differs from row {number} on: {row[:120]} instead of {wanted[:120]}"]
    if len(rows) == len(expected):
        return []
    return [f"metrics.jsonl has {len(rows)} {'row' if len(rows) == 1 else 'rows'} instead of {len(expected)}"]


def _comparable_rows(trial: Folder) -> list[str]:
    """The rows of a trial's log, without wall times."""
    return [json.dumps(_without_wall_times(row)) for row in read_rows(trial)]


def _without_wall_times(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what depends on the clock."""
    return {name: value for name, value in row.items() if name not in _WALL_TIMES}
