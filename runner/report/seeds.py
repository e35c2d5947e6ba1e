"""Trials that differ in their seed alone, as one."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from runner.config.loading import trial_name
from runner.records.results import TrialResult
from runner.records.seeds import RepeatedCell, by_cell, counting, repeated_cells
from runner.report.records import TrialRecord


def over_seeds(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """A record for each cell of the sweep; the trials themselves where no cell is repeated.

    A cell's figures are the means over its seeds, and their intervals reach from the lowest to the highest; those of
    a single seed, which say nothing of others, are left out.
    """
    cells = cells_of(trials)
    groups = by_cell(trials, [trial.params for trial in trials])
    if not cells:
        return list(trials)
    return [merge(group, cell) for group, cell in zip(groups.values(), cells, strict=True)]


def seed_table(trials: Sequence[TrialRecord]) -> list[tuple[str, RepeatedCell]]:
    """Each cell, under the name that the page has for it, with means and spreads; empty where none is repeated."""
    cells = cells_of(trials)
    return list(zip([cell.shown for cell in over_seeds(trials)], cells, strict=True)) if cells else []


def cells_of(trials: Sequence[TrialRecord]) -> list[RepeatedCell]:
    """The cells of the trials; empty where none is repeated."""
    return repeated_cells([TrialResult(trial.params, {**trial.row, "status": trial.status}) for trial in trials])


def merge(group: Sequence[TrialRecord], cell: RepeatedCell) -> TrialRecord:
    """A cell's trials as one: of the first one whose figures count, with the cell's figures."""
    counted = counting([trial.status for trial in group])
    first = group[counted[0] if counted else 0]
    row: dict[str, Any] = {"status": first.status}
    for key, spread in cell.metrics.items():
        ends = {} if spread.std is None else {f"{key}_low": spread.min, f"{key}_high": spread.max}
        row |= {key: spread.mean, **ends}
    own = {name: value for name, value in cell.params.items() if name != "experiment"}
    among_others = first.params.get("experiment")
    name = trial_name(own)
    return replace(
        first,
        name=name,
        shown=f"{among_others}/{name}" if among_others else name,
        params=cell.params,
        row=row,
        num_seeds=cell.num_seeds,
        num_counted=cell.num_counted,
    )
