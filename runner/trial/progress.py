"""How far a trial is."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

Item = TypeVar("Item")

_NUM_BY_TURNS = 20


class TrialProgress(NamedTuple):
    """A moment of a trial, as the screen and monitoring systems show it.

    Attributes:
        status: as in results.csv.
        epochs, total_steps: of the whole training; `total_steps` is 0 where it is not known.
        step_s: seconds that a step takes; 0 where that is not known.
        restarts: after how many faults it went on.
        row: the last one of its log.
        metrics: of its last evaluation, by their keys.
        params: the swept fields.
        batch_size: pictures in a step.
        pace_s: seconds that pass for a step, evaluations and checkpoints included; 0 where that is not known.
    """

    name: str
    status: str
    epochs: int
    step: int
    total_steps: int
    step_s: float
    restarts: int
    row: Mapping[str, Any]
    metrics: Mapping[str, Any]
    params: Mapping[str, Any] = MappingProxyType({})
    batch_size: int = 1
    pace_s: float = 0.0

    @property
    def epoch(self) -> int:
        """The epoch of the last row."""
        return int(self.row.get("epoch", 0))

    @property
    def mean_pace_s(self) -> float:
        """Seconds for a step by the best that is known; of a trial that does not run, by its log. 0 where unknown."""
        logged = self.row.get("seconds", 0.0) / self.row["step"] if self.row.get("step") else 0.0
        return self.pace_s or self.step_s or float(logged)

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the present speed; None where that is not known."""
        pace_s = self.pace_s or self.step_s
        return (self.total_steps - self.step) * pace_s if pace_s and self.total_steps else None


def next_ones(waiting: Sequence[Item], at_once: int, look: int) -> list[Item]:
    """The trials to look at, of those that wait for their turn: to open the files of all each time is too much.

    These are the next ones in order and, because nobody promises that trials begin in order, some others by turns.

    Args:
        at_once: how many may begin at a time.
        look: how many looks there were before.
    """
    near, others = waiting[: max(at_once, 1)], waiting[max(at_once, 1) :]
    first = look * _NUM_BY_TURNS % max(len(others), 1)
    return [*near, *others[first : first + _NUM_BY_TURNS]]
