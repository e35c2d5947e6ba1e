"""Trials of different settings whose losses are equal to the bit: then a swept field has had no effect."""

from collections.abc import Iterable
from typing import Any

from gan.training.loss_names import LOSSES
from runner.records.metrics_log import read_last_row
from runner.records.results import ENDED_WELL
from runner.storage.storage import Storage

_MAX_GROUPS, _MAX_NAMED = 5, 4


def equal_losses(trials: Iterable[tuple[str, Storage, str]]) -> list[list[str]]:
    """Groups of trials that have ended at the same step with the same losses and the same means over the last epoch.

    Of each log the end alone is read: a training in which anything was different does not come back to the same bits.

    Args:
        trials: each with its name, its folder and its status.
    """
    columns = ("step", *(f"{part}{loss.name}" for part in ("", "epoch_mean/") for loss in LOSSES))
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, folder, status in trials:
        row = (read_last_row(folder) if status in ENDED_WELL else None) or {}
        key = tuple(row.get(column) for column in columns)
        if None not in key:
            groups.setdefault(key, []).append(name)
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
