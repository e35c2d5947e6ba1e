"""Whether a run that was broken ended with the bytes of one that was not."""

import json
from typing import Any

from runner.records.checkpoints import checkpoint_name, checkpoint_steps
from runner.records.metrics_log import read_rows
from runner.storage.folder import Storage
from runner.storage.run_folder import CHECKPOINTS, WEIGHTS

WALL_TIMES = ("seconds", "images_per_second")


def differences(trial: Storage, reference: Storage) -> list[str]:
    """In what a finished trial differs from an undisturbed one; empty where in nothing that matters."""
    found = [] if same_file(trial, reference, WEIGHTS) else [f"{WEIGHTS} differs"]
    return found + checkpoint_differences(trial, reference) + log_differences(trial, reference)


def same_file(trial: Storage, reference: Storage, name: str) -> bool:
    """True where both have the file, and the same bytes in it."""
    try:
        return trial.read(name) == reference.read(name)
    except FileNotFoundError:
        return False


def checkpoint_differences(trial: Storage, reference: Storage) -> list[str]:
    """The files of the newest checkpoint's state that are not the same."""
    step, expected = (max(checkpoint_steps(place), default=0) for place in (trial, reference))
    if step != expected:
        return [f"the last checkpoint is of step {step} instead of {expected}"]
    folder = f"{CHECKPOINTS}/{checkpoint_name(step)}"
    names = {name for place in (trial, reference) for name in place.names(folder) if name.endswith(".safetensors")}
    return [f"{folder}/{name} differs" for name in sorted(names) if not same_file(trial, reference, f"{folder}/{name}")]


def log_differences(trial: Storage, reference: Storage) -> list[str]:
    """Where metrics.jsonl is another one first, wall times left out."""
    rows, expected = comparable_rows(trial), comparable_rows(reference)
    for number, (row, wanted) in enumerate(zip(rows, expected, strict=False), start=1):
        if row != wanted:
            return [f"metrics.jsonl differs from row {number} on: {row[:120]} instead of {wanted[:120]}"]
    return [] if len(rows) == len(expected) else [f"metrics.jsonl has {len(rows)} rows instead of {len(expected)}"]


def comparable_rows(trial: Storage) -> list[str]:
    """The rows of a trial's log without what depends on the clock."""
    return [json.dumps(without_wall_times(row)) for row in read_rows(trial)]


def without_wall_times(row: dict[str, Any]) -> dict[str, Any]:
    """A row as every run must log it."""
    return {name: value for name, value in row.items() if name not in WALL_TIMES}
