"""Which trials of a page are ranked, by which figures, and what keeps them from it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from gan.evaluation.bootstrap import mean_intervals
from runner.comparison.patch_values import PatchValues
from runner.report.seeds import with_trials
from runner.report.trials import PageTrial

# A cell of the sweep, and its trials.
Cell = tuple[PageTrial, Sequence[PageTrial]]

_OUT = ("diverged", "out_of_memory")  # whatever the cell's other seeds do


class Ranking(NamedTuple):
    """The cells of a page, and who may lead.

    Attributes:
        cells: all of the sweep.
        ranked: those that may lead; once all are done, over the seeds that all of them have.
        waiting: trials that may still win.
        values: of each patch that figures and differences are of, under the folders' paths of trials.
        is_on_report_half: whether figures are of the pictures by which no rung was decided.
        obstacle: why nothing is ranked, a whole sentence; empty where it is.
    """

    cells: Sequence[Cell]
    ranked: Sequence[Cell]
    waiting: Sequence[PageTrial]
    values: Mapping[str, PatchValues]
    is_on_report_half: bool
    obstacle: str


def rank(trials: Sequence[PageTrial], values: Mapping[str, PatchValues]) -> Ranking:
    """Decides who is ranked: trials that have figures, did not end badly, were not halted and are in the sweep.

    Args:
        values: of each patch, under the folders' paths of trials that are done.
    """
    cells = with_trials(trials)
    # A trial that ended badly may still have figures, but neither it nor its other seeds must lead.
    ranked: Sequence[Cell] = [(cell, group) for cell, group in cells if all(trial.is_ranked for trial in group)]
    waiting = [
        trial
        for _, group in cells
        if not any(trial.status in _OUT for trial in group)
        for trial in group
        if trial.may_win
    ]
    if len({trial.data for _, group in ranked for trial in group if trial.data}) > 1:
        obstacle = "These trials were validated on different patches, so they are not ranked."
        return Ranking(cells, [], waiting, values, False, obstacle)
    if waiting or not ranked:
        return Ranking(cells, ranked, waiting, values, False, "")

    ranked = _over_shared_seeds(ranked)
    if not any(trial.status == "halted" for trial in trials):
        return Ranking(cells, ranked, waiting, values, False, "")

    # What was chosen at rungs by one half of the pictures is measured by the other half.
    survivors = [trial for _, group in ranked for trial in group]
    unknown = [trial.shown for trial in survivors if trial.folder.root not in values]
    if unknown and len(ranked) > 1:
        obstacle = (
            f"{unknown[0]} has no sound evaluation.csv, so what is left of this halved sweep is not ranked: it is "
            "compared by the half of the pictures that decided nothing."
        )
        return Ranking(cells, [], waiting, values, True, obstacle)
    if unknown:
        return Ranking(cells, ranked, waiting, values, False, "")
    halves = {trial.folder.root: values[trial.folder.root].report_half() for trial in survivors}
    of_halves = [_with_figures_of(trial, halves[trial.folder.root]) for trial in survivors]
    return Ranking(cells, with_trials(of_halves), waiting, halves, True, "")


def shared_seeds(cells: Sequence[Cell]) -> list[Any]:
    """The seeds that all cells have trials of."""
    by_cell = [[trial.params.get("seed") for trial in trials] for _, trials in cells]
    return [seed for seed in by_cell[0] if all(seed in seeds for seeds in by_cell)]


def _over_shared_seeds(cells: Sequence[Cell]) -> Sequence[Cell]:
    """The cells over the seeds that all have, so that their means can be compared; as they are without two of these."""
    seeds = shared_seeds(cells)
    if len(seeds) < 2 or all(len(trials) == len(seeds) for _, trials in cells):
        return cells
    return with_trials([trial for _, trials in cells for trial in trials if trial.params.get("seed") in seeds])


def _with_figures_of(trial: PageTrial, values: PatchValues) -> PageTrial:
    """The trial with the means of these patches, and their intervals, in its row."""
    row: dict[str, Any] = dict(trial.row)
    intervals = mean_intervals(np.column_stack(list(values.metrics.values())), values.pictures)
    for (key, column), (low, high) in zip(values.metrics.items(), intervals, strict=True):
        row |= {key: float(column.mean()), f"{key}_low": low, f"{key}_high": high}
    return replace(trial, row=row)
