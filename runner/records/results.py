"""The results of a sweep: one row for each trial."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gan.evaluation.metrics import METRICS, MODES
from runner.records.metrics_log import log_column, read_rows
from runner.records.starts import count_faults, read_starts
from runner.records.trial_file import read_outcome
from runner.storage.folder import Storage

_MODE_PREFIXES = {"study": "", "eval": "eval_"}


def result_column(mode: str, metric: str) -> str:
    """The column of results.csv that has the mean of a metric, as `eval_ssim`."""
    return f"{_MODE_PREFIXES[mode]}{metric}"


METRIC_COLUMNS = tuple(result_column(mode, metric.key) for mode in MODES for metric in METRICS)
ENDED_BADLY = ("failed", "diverged", "out_of_memory")


class TrialResult(NamedTuple):
    """A trial's swept parameters and its row of results.

    They are apart because a column of the row may have the name of a parameter.
    """

    params: Mapping[str, Any]
    row: Mapping[str, Any]


def trial_row(trial: Storage, name: str, params: Mapping[str, Any], status: str) -> dict[str, Any]:
    """A trial's parameters, status, progress and final metrics.

    The metrics of a finished trial are over all validation patches, with the ends of their 95 % intervals as `_low`
    and `_high`. Those of another trial are the last ones over the fixed sample. Columns that begin with `eval_` are of
    eval mode, the others of the study's.
    """
    rows = read_rows(trial)
    last = rows[-1] if rows else {"step": 0, "epoch": 1, "seconds": 0.0}
    starts = read_starts(trial)

    # Only the row at the end of an epoch has the means of that epoch.
    whole_epochs = [row["epoch"] for row in rows if any(key.startswith("epoch_mean/") for key in row)]
    # This column replaces a swept parameter `epochs`, whose value is in the trial's name.
    progress = {"epochs": whole_epochs[-1] if whole_epochs else 0}

    return {
        **params,
        "trial": name,
        "status": status,
        **progress,
        "steps": last["step"],
        **_final_metrics(rows),
        "seconds": last["seconds"],
        "images_per_second": _mean_rate(rows),
        "restarts": count_faults(starts),
        "steps_lost": sum(start["lost_steps"] for start in starts),
    }


def trial_status(trial: Storage, *, is_finished: bool, is_held: bool, is_stopping: bool = False) -> str:
    """finished, running, waiting, stopped, failed, diverged or out_of_memory: the one status of screen, page and files.

    A trial that can go on is `running` or `waiting` while a command has the experiment, and `stopped` when none has.

    Args:
        is_finished: its weights are there, for all epochs that are wanted.
        is_held: whether a command is running the experiment.
        is_stopping: whether that command was asked to stop: then no trial waits for its turn any more.
    """
    if is_finished:
        return "finished"
    # "finished" may stand there, too: of an earlier run with fewer epochs.
    outcome = read_outcome(trial)["status"]
    if outcome in ENDED_BADLY:
        return outcome
    if is_held and outcome == "running":
        return "running"
    return "waiting" if is_held and not is_stopping else "stopped"


def _final_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The metrics of the last evaluation, with the ends of their intervals; None for those that it did not measure."""
    last: Mapping[str, Any] = next((row for row in reversed(rows) if _has(row, "final") or _has(row, "val")), {})
    split = "final" if _has(last, "final") else "val"
    return {
        f"{result_column(mode, metric.key)}{end}": last.get(f"{log_column(split, mode, metric.key)}{end}")
        for mode in MODES
        for metric in METRICS
        for end in ("", "_low", "_high")
    }


def _has(row: Mapping[str, Any], split: str) -> bool:
    """True where a row of the log has an evaluation's metrics."""
    return any(key.startswith(f"{split}/") for key in row)


def _mean_rate(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Pictures a second over the whole training time."""
    # The rate of a row is that of the time since the row before it.
    pictures = previous = 0.0
    for row in rows:
        pictures += row["images_per_second"] * (row["seconds"] - previous)
        previous = row["seconds"]
    return round(pictures / previous, 3) if previous else None
