"""Would halving have kept the winner? Asked of a grid that was trained to the end, by its own logs."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gan.evaluation.metrics import METRICS, Metric
from runner.config.halving import Halving
from runner.halving.rungs import TrialValue, decide_rung

_FACTOR = 3
_MIN_CELLS = 3


class Run(NamedTuple):
    """A trial that was trained to the end.

    Attributes:
        cell: its settings without the seed.
        by_epoch: under each metric, its values at the epochs at which it was measured.
        final: under each metric, its value at the end.
    """

    cell: str
    name: str
    by_epoch: Mapping[str, Mapping[int, float]]
    final: Mapping[str, float]


class Replay(NamedTuple):
    """What halving by a metric from a first rung on would have done.

    Attributes:
        winner: the best cell at the end.
        halted_at: the rung at which it would have been halted; None where it would have been kept.
        share_saved: of the epochs of all trials.
    """

    metric: Metric
    first_epochs: int
    winner: str
    halted_at: int | None
    share_saved: float


def replay(runs: Sequence[Run], epochs: int) -> list[Replay]:
    """Each metric that was measured during the training, with each first rung that leaves one rung at least.

    Args:
        runs: all trials of the grid.
        epochs: that each of them was trained for.
    """
    cells: dict[str, list[Run]] = {}
    for run in runs:
        cells.setdefault(run.cell, []).append(run)
    if len(cells) < _MIN_CELLS:
        return []

    found = []
    for metric in METRICS:
        measured = [set(run.by_epoch.get(metric.key, {})) for run in runs]
        common = set.intersection(*measured)
        if not common or not all(metric.key in run.final for run in runs):
            continue
        winner = decide_rung(epochs, _values(cells, metric, None), Halving(metric.key, 1, _FACTOR)).cells[0].name
        for first in _first_rungs(epochs):
            halving = Halving(metric.key, first, _FACTOR)
            # Epochs at which the grid was not measured can't be asked about.
            if not common.issuperset(halving.rungs(epochs)):
                continue
            halted_at = _halted_at(cells, winner, metric, halving, epochs)
            share = halving.cell_epochs(len(cells), epochs) / (len(cells) * epochs)
            found.append(Replay(metric, first, winner, halted_at, 1 - share))
    return found


def _first_rungs(epochs: int) -> list[int]:
    """A twentieth, a tenth and a fifth of the training."""
    return sorted({math.ceil(epochs / part) for part in (20, 10, 5) if math.ceil(epochs / part) < epochs})


def _halted_at(
    cells: Mapping[str, Sequence[Run]], winner: str, metric: Metric, halving: Halving, epochs: int
) -> int | None:
    """The rung at which the winner would have been halted; None for none."""
    left = dict(cells)
    for rung_epochs in halving.rungs(epochs):
        rung = decide_rung(rung_epochs, _values(left, metric, rung_epochs), halving)
        left = {cell.name: left[cell.name] for cell in rung.kept}
        if winner not in left:
            return rung_epochs
    return None


def _values(cells: Mapping[str, Sequence[Run]], metric: Metric, epoch: int | None) -> dict[str, dict[str, TrialValue]]:
    """The values of each cell's trials at an epoch; None for the end."""
    return {
        cell: {
            run.name: TrialValue(run.final[metric.key] if epoch is None else run.by_epoch[metric.key][epoch])
            for run in runs
        }
        for cell, runs in cells.items()
    }
