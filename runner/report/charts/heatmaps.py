"""The grid of swept parameters, as a heat map for each metric."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from gan.evaluation.metrics import Metric
from runner.report.figures import Figure, figure, present
from runner.report.trials import PageTrial, shown, swept, values_of

_MAX_CELLS = 2500  # of one metric, in all of its tables
_MANY_CELLS = 150  # of a table: each is then a value without its interval
_MAX_FACETS = 12  # more tables than that nobody compares; the table of trials has all values


class Cell(NamedTuple):
    """One cell of the grid.

    Attributes:
        strength: 0 for the worst value of this metric to 1 for the best, None where there is no value.
        best: true for the best trials that did not end badly.
        note: a remark below the value, or in place of it.
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
    """One metric over the grid.

    Attributes:
        row_name: empty where one parameter is swept.
        is_dense: where a table has so many cells that there is room for values only.
        left_out: how many facets the page does not show.
    """

    metric: Metric
    row_name: str
    column_name: str
    columns: Sequence[str]
    facets: Sequence[Facet]
    is_dense: bool
    left_out: int


def heat_maps(trials: Sequence[PageTrial], metrics: Sequence[Metric]) -> list[HeatMap]:
    """A heat map for each metric that has values; none where nothing is swept."""
    names = swept(trials)
    return [_heat_map(trials, metric, names) for metric in present(trials, metrics)] if names else []


def _heat_map(trials: Sequence[PageTrial], metric: Metric, names: Sequence[str]) -> HeatMap:
    """Two parameters are the axes; there is a table for each combination of the others."""
    # `swept` gives the parameters with most values first: these become the axes.
    row_name, column_name = (names[0], names[1]) if len(names) > 1 else ("", names[0])
    row_values = values_of(trials, row_name) if row_name else [None]
    column_values = values_of(trials, column_name)
    rating = _Rating(trials, metric)

    # Found by their values: to go through all trials for each cell takes seconds where there are a thousand.
    others = names[2:]
    by_values: dict[tuple[Any, ...], list[PageTrial]] = {}
    for trial in trials:
        values = [trial.params.get(name) for name in (*others, *((row_name,) if row_name else ()), column_name)]
        by_values.setdefault(tuple(values), []).append(trial)
    facet_values = {values[: len(others)] for values in by_values}

    num_cells = len(row_values) * len(column_values)
    max_facets = min(_MAX_FACETS, _MAX_CELLS // num_cells)
    facets: list[Facet] = []
    num_facets = 0
    # Without other parameters, `product` gives one empty combination, so there is one table.
    for combination in itertools.product(*(values_of(trials, name) for name in others)):
        num_facets += combination in facet_values
        if combination not in facet_values or len(facets) == max_facets:
            continue

        rows = []
        for row_value in row_values:
            row = (row_value,) if row_name else ()
            cells = [rating.cell(by_values.get((*combination, *row, value), ())) for value in column_values]
            rows.append((shown(row_value) if row_name else "", cells))
        caption = ", ".join(f"{name} {shown(value)}" for name, value in zip(others, combination, strict=True))
        facets.append(Facet(caption, rows))

    columns = list(map(shown, column_values))
    is_dense, left_out = num_cells > _MANY_CELLS, num_facets - len(facets)
    return HeatMap(metric, row_name, column_name, columns, facets, is_dense, left_out)


class _Rating:
    """How good a value of one metric is among those of all trials that are ranked."""

    def __init__(self, trials: Sequence[PageTrial], metric: Metric) -> None:
        self._metric = metric
        figures = [found for trial in trials if trial.is_ranked and (found := figure(trial.row, metric.key))]
        goodness = [metric.goodness(found.value) for found in figures]
        self._worst, self._best = min(goodness, default=0.0), max(goodness, default=0.0)

    def cell(self, trials: Sequence[PageTrial]) -> Cell:
        """The cell of a combination of values, which one trial has, or none."""
        if not trials:
            return Cell(None, None, False, "not run")
        trial = trials[0]

        note = "" if trial.status == "finished" else trial.status.replace("_", " ")
        # For a cell of several seeds, their number tells more than the status of one trial.
        if trial.num_counted < trial.num_seeds:
            note = f"{trial.num_counted} of {trial.num_seeds} seeds"

        found = figure(trial.row, self._metric.key)
        if found is None:
            return Cell(None, None, False, note or "no value")
        # It is shown, but takes no part in the ranking, so that its colour would say nothing.
        if not trial.is_ranked:
            return Cell(found, None, False, note)

        goodness = self._metric.goodness(found.value)
        spread = self._best - self._worst
        # Where all values are equal, each of them is the best.
        strength = (goodness - self._worst) / spread if spread else 1.0
        return Cell(found, strength, goodness == self._best, note)
