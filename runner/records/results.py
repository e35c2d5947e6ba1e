"""What a sweep comes to: one row of results a trial."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from runner.records.metrics_log import read_rows
from runner.records.starts import read_starts
from runner.records.trial_file import read_outcome
from runner.storage.folder import Storage

METRICS = ("ssim", "psnr", "l1", "hp_l1", "swd", "spectrum")
PARTS = ("", "_low", "_high")
MODES = {"": "", "_eval": "eval_"}
METRIC_COLUMNS = tuple(f"{prefix}{name}" for prefix in MODES.values() for name in METRICS)
INTERRUPTED = ("stopped", "running", "")
ENDED_BADLY = ("failed", "diverged", "out_of_memory")


class TrialResult(NamedTuple):
    """A trial's swept parameters and its row of results, whose columns may hide a parameter of the same name."""

    params: Mapping[str, Any]
    row: Mapping[str, Any]


def trial_row(trial: Storage, name: str, params: Mapping[str, Any], status: str) -> dict[str, Any]:
    """A trial's parameters, status, progress and final metrics.

    The metrics are those over all validation patches where the trial has finished, else the last ones
    over the fixed sample; `eval_` marks eval mode, the others are as the study evaluates. A finished trial's have
    `_low` and `_high` beside them, the ends of their 95 % intervals.
    """
    rows = read_rows(trial)
    last = rows[-1] if rows else {"step": 0, "epoch": 1, "seconds": 0.0}
    starts = read_starts(trial)
    whole_epochs = [row["epoch"] for row in rows if any(key.startswith("epoch_mean/") for key in row)]
    progress = {"epochs": whole_epochs[-1] if whole_epochs else 0}  # a swept `epochs` is told by the trial's name
    return {
        **params,
        "trial": name,
        "status": status,
        **progress,
        "steps": last["step"],
        **final_metrics(rows),
        "seconds": last["seconds"],
        "images_per_second": mean_rate(rows),
        "restarts": max(len(starts) - 1, 0),
        "steps_lost": sum(start["lost_steps"] for start in starts),
    }


def final_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The metrics of the last evaluation, with the ends of their intervals; None for what it did not take."""
    last: Mapping[str, Any] = next((row for row in reversed(rows) if "final/l1" in row or "val/l1" in row), {})
    split = "final" if "final/l1" in last else "val"
    return {
        f"{prefix}{name}{part}": last.get(f"{split}{suffix}/{name}{part}")
        for suffix, prefix in MODES.items()
        for name in METRICS
        for part in PARTS
    }


def mean_rate(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Pictures a second over the whole training time."""
    pictures = previous = 0.0
    for row in rows:
        pictures += row["images_per_second"] * (row["seconds"] - previous)
        previous = row["seconds"]
    return round(pictures / previous, 3) if previous else None


def trial_status(trial: Storage, *, finished: bool, running: bool) -> str:
    """finished, running, stopped, failed, diverged or out_of_memory.

    A trial whose last run left no word was cut off: it stands as `stopped`, for it can be resumed.
    """
    if finished:
        return "finished"
    if running:
        return "running"
    status = read_outcome(trial)["status"]
    return "stopped" if status in INTERRUPTED or status == "finished" else status
