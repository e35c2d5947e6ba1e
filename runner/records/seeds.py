"""What trials come to together that differ in nothing but their seed."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from runner.config.loading import trial_name
from runner.records.results import ENDED_BADLY, METRIC_COLUMNS, TrialResult

SEED = "seed"

Item = TypeVar("Item")


class Spread(NamedTuple):
    """A metric over some seeds.

    Attributes:
        std: the standard deviation as an estimate for all seeds (n - 1); None of a single value.
    """

    mean: float
    std: float | None
    min: float
    max: float

    @property
    def text(self) -> str:
        """Mean and standard deviation, as fine as the latter is worth: two of its digits."""
        if self.std is None:
            return f"{self.mean:.4g}"
        return f"{self._fixed(self.mean)} ± {self._fixed(self.std)}"

    @property
    def ends(self) -> str:
        """The lowest and the highest value; empty of a single one."""
        return "" if self.std is None else f"{self._fixed(self.min)} to {self._fixed(self.max)}"

    def _fixed(self, value: float) -> str:
        decimals = max(1 - math.floor(math.log10(self.std)), 0) if self.std else 4
        return f"{value:.{decimals}f}"


class RepeatedCell(NamedTuple):
    """A cell of the sweep over its seeds.

    Attributes:
        params: without the seed.
        num_seeds: trials that the cell has.
        num_counted: those whose metrics are here.
        metrics: by the columns of results.csv; a metric that none has is absent.
    """

    name: str
    params: Mapping[str, Any]
    num_seeds: int
    num_counted: int
    metrics: Mapping[str, Spread]


def repeated_cells(results: Sequence[TrialResult]) -> list[RepeatedCell]:
    """Each cell over its seeds, in order; empty where no cell has more than one."""
    groups = by_cell(results, [result.params for result in results])
    if not any(len(group) > 1 and SEED in group[0].params for group in groups.values()):
        return []
    cells = []
    for name, group in groups.items():
        counted = [group[i].row for i in counting([result.row["status"] for result in group])]
        known = {key: [row[key] for row in counted if row.get(key) is not None] for key in METRIC_COLUMNS}
        metrics = {key: spread(values) for key, values in known.items() if values}
        cells.append(RepeatedCell(name, without_seed(group[0].params), len(group), len(counted), metrics))
    return cells


def by_cell(items: Iterable[Item], params: Iterable[Mapping[str, Any]]) -> dict[str, list[Item]]:
    """The items under the name of the cell that their parameters are of."""
    groups: dict[str, list[Item]] = {}
    for item, its_params in zip(items, params, strict=True):
        groups.setdefault(trial_name(without_seed(its_params)), []).append(item)
    return groups


def without_seed(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that make a cell what it is."""
    return {key: value for key, value in params.items() if key != SEED}


def counting(statuses: Sequence[str]) -> list[int]:
    """Which trials of a cell its means are taken over: the finished ones, for others were measured on a sample of
    the patches; as long as none is, those that have not ended badly."""
    finished = [i for i, status in enumerate(statuses) if status == "finished"]
    return finished or [i for i, status in enumerate(statuses) if status not in ENDED_BADLY]


def spread(values: Sequence[float]) -> Spread:
    """Of one value or more."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), std, min(values), max(values))
