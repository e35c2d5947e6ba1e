"""Successive halving: what `sweep.halving` says, and which epochs follow from it.

All cells are trained to the first rung, the best part of them to the next one, and so on to the end.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from gan.evaluation.metrics import METRICS
from runner.config.messages import show, suggest
from runner.errors import ConfigError

HALVING = "halving"
_METRIC, _FIRST_EPOCHS, _FACTOR = "metric", "first_epochs", "reduction_factor"
_EXAMPLE = f"`{HALVING}: {{{_METRIC}: swd, {_FIRST_EPOCHS}: 20, {_FACTOR}: 3}}`"
# Cells that differ in these can't be compared at one epoch, or not on the same patches.
_NOT_WITH = {
    "epochs": "all cells of a rung must be trained equally long",
    "patching": "cells would be measured on other patches",
}


class Halving(NamedTuple):
    """How a sweep is halved.

    Attributes:
        metric: the key of the metric that cells are ranked by.
        first_epochs: the first rung.
        reduction_factor: of the cells at a rung, one in so many goes on; each rung has so many times the epochs of the
            one before it.
    """

    metric: str = "swd"
    first_epochs: int = 20
    reduction_factor: int = 3

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """The epochs at whose end cells are ranked, for trainings of so many epochs."""
        found, rung = [], self.first_epochs
        while rung < epochs:
            found.append(rung)
            rung *= self.reduction_factor
        return tuple(found)

    def is_measured(self, epoch: int) -> bool:
        """True where trials are measured at an epoch's end: each that is a rung for some reduction_factor.

        So a sweep can be decided again with another one, though its trials have long passed these epochs.
        """
        return epoch % self.first_epochs == 0

    def num_kept(self, num_cells: int) -> int:
        """How many of the cells at a rung go on."""
        return -(-num_cells // self.reduction_factor)

    def cell_epochs(self, num_cells: int, epochs: int) -> int:
        """The epochs of all cells together, where none of them ends by itself."""
        total, done, left = 0, 0, num_cells
        for rung in (*self.rungs(epochs), epochs):
            total += left * (rung - done)
            done, left = rung, self.num_kept(left)
        return total


def read_halving(sweep: Mapping[str, Any]) -> Halving | None:
    """The halving of an experiment's `sweep:`; None where it has none.

    Raises:
        ConfigError: a field that is unknown, missing, or has a value that breaks its rule.
    """
    if HALVING not in sweep:
        return None
    values = sweep[HALVING]
    if not isinstance(values, Mapping):
        raise ConfigError(f"sweep.{HALVING} is {show(values)}: it must hold fields of its own, for example {_EXAMPLE}")
    for field in values:
        if field not in Halving._fields:
            raise ConfigError(
                f"`sweep.{HALVING}.{field}` is not a field of halving; {suggest(str(field), Halving._fields)}"
            )
    if _FIRST_EPOCHS not in values:
        raise ConfigError(
            f"`sweep.{HALVING}.{_FIRST_EPOCHS}` is missing: say where the first rung is, for example {_EXAMPLE}"
        )

    halving = Halving(**values)
    keys = [metric.key for metric in METRICS]
    if halving.metric not in keys:
        raise _refused(_METRIC, halving.metric, f"must be one of {', '.join(keys)}")
    if not _is_whole(halving.first_epochs, 1):
        raise _refused(_FIRST_EPOCHS, halving.first_epochs, "must be a whole number of epochs, 1 or more")
    if not _is_whole(halving.reduction_factor, 2):
        raise _refused(_FACTOR, halving.reduction_factor, "must be a whole number, 2 or more")
    for field, reason in _NOT_WITH.items():
        if field in (key.rpartition(".")[2] for key in sweep):
            raise ConfigError(f"sweep.{field} with sweep.{HALVING}: {reason}; take one of the two out")
    return halving


def check_fits(halving: Halving, epochs: int) -> None:
    """Raises ConfigError where there is no rung before the end of a training of so many epochs."""
    if halving.first_epochs >= epochs:
        raise _refused(
            _FIRST_EPOCHS,
            halving.first_epochs,
            f"must be less than training.epochs, {epochs}, where nothing is ranked; lower it, or take {HALVING} out",
        )


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _refused(field: str, value: Any, rule: str) -> ConfigError:
    return ConfigError(f"sweep.{HALVING}.{field} is {show(value)}: it {rule}")
