"""The results of a sweep: one row for each trial."""

import heapq
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gan.evaluation.metrics import METRICS, MODES
from runner.number_format import finite
from runner.records.goodput import Hold, goodput, newest_hold, usage_columns
from runner.records.metrics_log import LogSummary, best_column, log_column
from runner.records.starts import count_faults, read_starts
from runner.storage.storage import Storage

_MODE_PREFIXES = {"study": "", "eval": "eval_"}


def result_column(mode: str, metric: str) -> str:
    """The column of results.csv that has the mean of a metric, as `eval_ssim`."""
    return f"{_MODE_PREFIXES[mode]}{metric}"


METRIC_COLUMNS = tuple(result_column(mode, metric.key) for mode in MODES for metric in METRICS)
ENDED_WELL = ("finished", "halted", "early_stopped")
DONE = ("finished", "early_stopped")  # trained to the end, and measured on all validation patches
ENDED_BADLY = ("failed", "diverged", "out_of_memory")
ENDED = (*ENDED_WELL, *ENDED_BADLY)


class TrialResult(NamedTuple):
    """A trial's swept parameters and its row of results.

    They are apart because a column of the row may have the name of a parameter.
    """

    params: Mapping[str, Any]
    row: Mapping[str, Any]


def trial_row(
    name: str,
    params: Mapping[str, Any],
    status: str,
    log: LogSummary,
    starts: Sequence[Mapping[str, Any]],
    hold: Hold | None,
    *,
    in_sweep: bool = True,
) -> dict[str, Any]:
    """A trial's parameters, status, progress and final metrics.

    The metrics of a finished trial are over all validation patches, with the ends of their 95 % intervals as `_low`
    and `_high`. Those of another trial are the last ones over the fixed sample. Columns that begin with `eval_` are of
    eval mode, the others of the study's.

    `best_epoch`, `best_ssim` and so on are of the best weights, measured on the report half of the pictures.

    Args:
        log: as far as it has been read.
        starts: the rows of its starts.
        hold: for how long its workers have been held; None where that is not known.
        in_sweep: False for a trial of an earlier start that the experiment's file does not name any more.
    """
    seconds = log.row.get("seconds", 0.0)
    held_s = None if hold is None else round(hold.held_until(seconds), 3)

    return {
        **params,
        "trial": name,
        "status": status,
        # This column replaces a swept parameter `epochs`, whose value is in the trial's name.
        "epochs": log.epochs,
        "steps": log.row.get("step", 0),
        **_final_metrics(log.evaluation),
        "seconds": seconds,
        "images_per_second": log.images_per_second,
        "restarts": count_faults(starts),
        "steps_lost": sum(start["lost_steps"] for start in starts),
        "held_seconds": held_s,
        "goodput": goodput(seconds, held_s),
        "in_sweep": in_sweep,
        **usage_columns(hold),
    }


def read_trial_row(
    trial: Storage, name: str, params: Mapping[str, Any], status: str, *, in_sweep: bool = True
) -> dict[str, Any]:
    """As `trial_row`, of a trial's folder."""
    log = LogSummary(trial)
    log.read()
    starts = read_starts(trial)
    return trial_row(name, params, status, log, starts, newest_hold(trial, starts), in_sweep=in_sweep)


def trial_status(outcome: str, *, is_finished: bool, is_held: bool, is_stopping: bool = False) -> str:
    """The one status of screen, page and files: one of ENDED, running, waiting or stopped.

    A trial that can go on is `running` or `waiting` while a command has the experiment, and `stopped` when none has.

    Args:
        outcome: the status that its last run recorded; "" for none.
        is_finished: its weights are there, for all epochs that are wanted.
        is_held: whether a command is running the experiment.
        is_stopping: whether that command was asked to stop: then no trial waits for its turn any more.
    """
    if is_finished:
        return "finished"
    # "finished" may stand there, too: of an earlier run with fewer epochs.
    if outcome in ENDED and outcome != "finished":
        return outcome
    if is_held and outcome == "running":
        return "running"
    return "waiting" if is_held and not is_stopping else "stopped"


def best_by_turns(rows: Sequence[Mapping[str, Any]], count: int) -> list[int]:
    """The indices of the best rows: the first on each metric, in the order of METRICS, then the second, and so on.

    Rows of trials that ended badly or were halted are left out, and those without a metric.

    Args:
        rows: of results, or of means over seeds.
        count: how many at most.
    """
    out = (*ENDED_BADLY, "halted")
    good = [index for index, row in enumerate(rows) if row.get("status") not in out]
    ranked = []
    for metric in METRICS:
        key = result_column("study", metric.key)
        values = {index: value for index in good if (value := finite(rows[index].get(key))) is not None}
        ranked.append(heapq.nlargest(count, values, key=lambda index, v=values, m=metric: m.goodness(v[index])))  # type: ignore[misc]

    # A trial may be among the best on several metrics.
    by_turns = (index for turn in itertools.zip_longest(*ranked) for index in turn if index is not None)
    return list(dict.fromkeys(by_turns))[:count]


def _final_metrics(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of the last evaluation, with the ends of their intervals; None for those that it did not measure."""
    split = "final" if any(key.startswith("final/") for key in evaluation) else "val"
    found = {
        f"{result_column(mode, metric.key)}{end}": evaluation.get(f"{log_column(split, mode, metric.key)}{end}")
        for mode in MODES
        for metric in METRICS
        for end in ("", "_low", "_high")
    }
    best = ("epoch", *(metric.key for metric in METRICS))
    return found | {f"best_{name}": evaluation.get(best_column(name)) for name in best}
