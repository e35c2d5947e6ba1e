"""What a sweep comes to: one row a trial, as results.csv, results.json and a table on the screen."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from runner.metrics_log import only_finite, read_rows
from runner.records import read_outcome
from runner.starts import read_starts
from runner.storage import Storage

METRICS = ("ssim", "psnr", "l1", "hp_l1")
MODES = {"": "", "_eval": "eval_"}
INTERRUPTED = ("stopped", "running", "")


def trial_row(trial: Storage, name: str, params: Mapping[str, Any], status: str) -> dict[str, Any]:
    """A trial's parameters, status, progress and final metrics.

    The metrics are those over all validation patches where the trial has finished, else the last ones
    over the fixed sample; `eval_` marks eval mode, the others are as the study evaluates.
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
    """The metrics of the last evaluation, None where there was none."""
    metrics: dict[str, Any] = {}
    for suffix, prefix in MODES.items():
        for name in METRICS:
            evaluated = (row.get(f"final{suffix}/{name}", row.get(f"val{suffix}/{name}")) for row in reversed(rows))
            metrics[prefix + name] = next((value for value in evaluated if value is not None), None)
    return metrics


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


def write_results(experiment: Storage, rows: Sequence[Mapping[str, Any]]) -> None:
    """results.csv and results.json."""
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    experiment.write("results.csv", text.getvalue().encode())
    text_of_rows = json.dumps([only_finite(row) for row in rows], indent=1, allow_nan=False)
    experiment.write("results.json", text_of_rows.encode())
