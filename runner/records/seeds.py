"""Trials that differ in their seed alone: their mean and spread."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from runner.config.loading import trial_name
from runner.number_format import significant_or_dash, to_width
from runner.records.results import DONE, ENDED_BADLY, METRIC_COLUMNS, TrialResult

Item = TypeVar("Item")

_SEED = "seed"


class Spread(NamedTuple):
    """A metric over some seeds.

    Attributes:
        std: the standard deviation as an estimate for all seeds (n - 1); None for a single value.
    """

    mean: float
    std: float | None
    min: float
    max: float

    @property
    def text(self) -> str:
        """Mean and standard deviation, in as many decimals as show two digits of the latter."""
        if self.std is None:
            return significant_or_dash(self.mean)
        return f"{self._in_decimals(self.mean)} ± {self._in_decimals(self.std)}"

    @property
    def ends(self) -> str:
        """The lowest and the highest value; empty for a single one."""
        return "" if self.std is None else f"{self._in_decimals(self.min)} to {self._in_decimals(self.max)}"

    def _in_decimals(self, value: float) -> str:
        # Equal values have no width to go by.
        return to_width(value, self.std) if self.std else f"{value:.4f}"


class RepeatedCell(NamedTuple):
    """A cell of the sweep over its seeds.

    Attributes:
        params: without the seed.
        num_seeds: trials of the cell.
        num_counted: those that the metrics are of.
        metrics: by the columns of results.csv, without those that no trial has.
    """

    name: str
    params: Mapping[str, Any]
    num_seeds: int
    num_counted: int
    metrics: Mapping[str, Spread]


def repeated_cells(results: Sequence[TrialResult]) -> list[RepeatedCell]:
    """Each cell of the sweep over its seeds, in order; empty where no cell has more than one."""
    results = [result for result in results if result.row.get("in_sweep", True)]
    groups = by_cell(results, [result.params for result in results])
    if not any(len(group) > 1 and _SEED in group[0].params for group in groups.values()):
        return []

    cells = []
    for name, group in groups.items():
        counted = [group[i].row for i in counting([result.row["status"] for result in group])]
        known = {key: [row[key] for row in counted if row.get(key) is not None] for key in METRIC_COLUMNS}
        metrics = {key: spread(values) for key, values in known.items() if values}
        cells.append(RepeatedCell(name, _without_seed(group[0].params), len(group), len(counted), metrics))
    return cells


def by_cell(items: Iterable[Item], params: Iterable[Mapping[str, Any]]) -> dict[str, list[Item]]:
    """Groups items by the cell of the sweep that they belong to, under the cell's name.

    Args:
        params: the parameters of each item.
    """
    groups: dict[str, list[Item]] = {}
    for item, params_of_item in zip(items, params, strict=True):
        groups.setdefault(trial_name(_without_seed(params_of_item)), []).append(item)
    return groups


def counting(statuses: Sequence[str]) -> list[int]:
    """Which of a cell's trials count for its means: those that are done, or all that did not end badly if none is."""
    # An unfinished trial was measured on a sample of the patches: its metrics are not comparable.
    done = [i for i, status in enumerate(statuses) if status in DONE]
    return done or [i for i, status in enumerate(statuses) if status not in ENDED_BADLY]


def spread(values: Sequence[float]) -> Spread:
    """Mean, standard deviation and extremes of one value or more."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), std, min(values), max(values))


def _without_seed(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if key != _SEED}
