"""Trials of different settings whose losses are equal to the bit: then a swept field has had no effect."""

from collections.abc import Iterable
from typing import Any

from gan.training.loss_names import LOSS_NAMES
from runner.records.metrics_log import read_last_row
from runner.records.results import ENDED_WELL, TrialResult
from runner.storage.folder import Storage
from runner.storage.run_folder import trial_path

_MAX_GROUPS, _MAX_NAMED = 5, 4


def equal_losses(experiment: Storage, results: Iterable[TrialResult]) -> list[list[str]]:
    """Groups of trials that have ended at the same step with the same losses and the same means over the last epoch.

    Of each log the end alone is read: a training in which anything was different does not come back to the same bits.
    """
    groups: dict[tuple[Any, ...], list[str]] = {}
    for result in results:
        if result.row["status"] not in ENDED_WELL:
            continue
        row = read_last_row(experiment.at(trial_path(result.row["trial"]))) or {}
        means = [f"epoch_mean/{name}" for name in LOSS_NAMES]
        key = tuple(row.get(name) for name in ("step", *LOSS_NAMES, *means))
        if None not in key:
            groups.setdefault(key, []).append(str(result.row["trial"]))
    return [names for names in groups.values() if len(names) > 1]


def describe_equal_losses(groups: list[list[str]]) -> list[str]:
    """A sentence for each of the first groups."""
    lines = []
    for names in groups[:_MAX_GROUPS]:
        more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        lines.append(
            f"suspicious: the losses of {', '.join(names[:_MAX_NAMED])}{more} are equal to the bit, so what is swept "
            "between them has had no effect"
        )
    if len(groups) > _MAX_GROUPS:
        lines.append(f"and {len(groups) - _MAX_GROUPS} more groups of trials with equal losses")
    return lines
