"""Trials that differ in their seed alone, as one trial of the page."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from runner.config.loading import trial_name
from runner.records.results import TrialResult
from runner.records.seeds import RepeatedCell, by_cell, counting, repeated_cells
from runner.report.trials import PageTrial


def over_seeds(trials: Sequence[PageTrial]) -> list[PageTrial]:
    """One trial for each cell of the sweep; its trials themselves where no cell is repeated.

    A cell's figures are the means over its seeds. Their intervals go from the lowest to the highest value; a figure of
    a single seed has no interval.
    """
    return [cell for cell, _ in with_trials(trials)]


def with_trials(trials: Sequence[PageTrial]) -> list[tuple[PageTrial, list[PageTrial]]]:
    """As `over_seeds`, each cell with the trials that it is made of; without trials that left the sweep."""
    trials = [trial for trial in trials if trial.in_sweep]
    cells = _cells_of(trials)
    if not cells:
        return [(trial, [trial]) for trial in trials]
    # repeated_cells groups in the same way, so groups and cells have the same order.
    groups = by_cell(trials, [trial.params for trial in trials])
    return [(_merge(group, cell), group) for group, cell in zip(groups.values(), cells, strict=True)]


def seed_table(trials: Sequence[PageTrial]) -> list[tuple[str, RepeatedCell]]:
    """Each cell with its name on the page; empty where none is repeated."""
    cells = _cells_of([trial for trial in trials if trial.in_sweep])
    return list(zip([cell.shown for cell in over_seeds(trials)], cells, strict=True)) if cells else []


def _cells_of(trials: Sequence[PageTrial]) -> list[RepeatedCell]:
    """The cells of the trials; empty where none is repeated."""
    return repeated_cells([TrialResult(trial.params, trial.row) for trial in trials])


def _merge(group: Sequence[PageTrial], cell: RepeatedCell) -> PageTrial:
    """A cell's trials as one: the first one that counts, with the cell's figures."""
    counted = counting([trial.status for trial in group])
    first = group[counted[0] if counted else 0]

    row: dict[str, Any] = {"status": first.status}
    for key, spread in cell.metrics.items():
        ends = {} if spread.std is None else {f"{key}_low": spread.min, f"{key}_high": spread.max}
        row |= {key: spread.mean, **ends}

    # On a page of several experiments `experiment` is a parameter, and no part of a trial's name.
    experiment = first.params.get("experiment")
    name = trial_name({name: value for name, value in cell.params.items() if name != "experiment"})
    return replace(
        first,
        name=name,
        shown=f"{experiment}/{name}" if experiment else name,
        params=cell.params,
        row=row,
        num_seeds=cell.num_seeds,
        num_counted=cell.num_counted,
    )
