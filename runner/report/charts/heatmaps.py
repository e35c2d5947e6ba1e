"""The grid of swept parameters, as a heat map for each metric."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from runner.config.messages import shortest
from runner.report.figures import Figure, Metric, figure, present
from runner.report.records import TrialRecord, swept, values_of

MAX_FACETS = 12


class Cell(NamedTuple):
    """One cell of the grid.

    Attributes:
        strength: 0 for the worst value of this metric to 1 for the best, None where there is no value.
        best: true for the best trials that did not end badly.
        note: what is to be said instead of, or beside, the value.
    """

    figure: Figure | None
    strength: float | None
    best: bool
    note: str


class Facet(NamedTuple):
    """A table of cells; `caption` names the values of the parameters that are on neither axis."""

    caption: str
    rows: Sequence[tuple[str, Sequence[Cell]]]


class HeatMap(NamedTuple):
    """One metric over the grid. `row_name` is empty where one parameter is swept."""

    metric: Metric
    row_name: str
    column_name: str
    columns: Sequence[str]
    facets: Sequence[Facet]
    left_out: int


def heat_maps(trials: Sequence[TrialRecord], metrics: Sequence[Metric]) -> list[HeatMap]:
    """A heat map for each metric that has values; none where nothing is swept."""
    names = swept(trials)
    return [heat_map(trials, metric, names) for metric in present(trials, metrics)] if names else []


def heat_map(trials: Sequence[TrialRecord], metric: Metric, names: Sequence[str]) -> HeatMap:
    """Two parameters are the axes; each combination of the others has a table of its own."""
    row_name, column_name = (names[0], names[1]) if len(names) > 1 else ("", names[0])
    others = names[2:]
    combinations = list(itertools.product(*(values_of(trials, name) for name in others)))
    rate = Rating(trials, metric)
    columns = values_of(trials, column_name)
    facets = []
    for combination in combinations:
        fixed = dict(zip(others, combination, strict=True))
        here = [trial for trial in trials if fits(trial, fixed)]
        if not here:
            continue
        caption = ", ".join(f"{name} {shown(value)}" for name, value in fixed.items())
        rows = []
        for row_value in values_of(trials, row_name) if row_name else [None]:
            wanted = {row_name: row_value} if row_name else {}
            cells = [rate.cell([t for t in here if fits(t, {**wanted, column_name: value})]) for value in columns]
            rows.append((shown(row_value) if row_name else "", cells))
        facets.append(Facet(caption, rows))
    left_out = max(len(facets) - MAX_FACETS, 0)
    return HeatMap(metric, row_name, column_name, [shown(value) for value in columns], facets[:MAX_FACETS], left_out)


def fits(trial: TrialRecord, fixed: Mapping[str, Any]) -> bool:
    """True where the trial has these values."""
    return all(trial.params.get(name) == value for name, value in fixed.items())


def shown(value: Any) -> str:
    """A parameter's value as text; a dash for a trial that has none."""
    return "–" if value is None else shortest(value)


class Rating:
    """How good a value of one metric is among those of all trials."""

    def __init__(self, trials: Sequence[TrialRecord], metric: Metric) -> None:
        self._metric = metric
        able = [found for trial in trials if not trial.ended_badly and (found := figure(trial.row, metric.key))]
        all_of_it = [metric.goodness(found.value) for found in able]
        self._worst, self._best = (min(all_of_it), max(all_of_it)) if all_of_it else (0.0, 0.0)

    def cell(self, trials: Sequence[TrialRecord]) -> Cell:
        """The cell of the trials, or settings over their seeds, that stand there: none, or one."""
        if not trials:
            return Cell(None, None, False, "not run")
        trial = trials[0]
        found = figure(trial.row, self._metric.key)
        note = "" if trial.status == "finished" else trial.status.replace("_", " ")
        if trial.num_counted < trial.num_seeds:
            note = f"{trial.num_counted} of {trial.num_seeds} seeds"
        if found is None:
            return Cell(None, None, False, note or "no value")
        goodness = self._metric.goodness(found.value)
        if trial.ended_badly:
            return Cell(found, None, False, note)
        spread = self._best - self._worst
        strength = (goodness - self._worst) / spread if spread else 1.0
        return Cell(found, strength, goodness == self._best, note)
