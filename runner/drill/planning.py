"""Which fault comes next in the time that is left. Pure: knows no run and no clock."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

BREADTH_SHARE = 0.5


@dataclass(frozen=True)
class Cost:
    """What a fault's time goes into, beside one whole training.

    Attributes:
        ray_starts: starts of the command that start Ray too.
        quick_starts: starts that do without where they may.
        restarts: starts of a worker by Ray, and waits as long.
    """

    ray_starts: int = 0
    quick_starts: int = 0
    restarts: int = 0


@dataclass
class Pace:
    """How long things take here: guesses that what was seen corrects.

    Attributes:
        training_s: one whole training, without its start.
        quick_start_s: a start without Ray.
    """

    training_s: float
    quick_start_s: float
    ray_start_s: float = 28.0
    restart_s: float = 10.0
    factors: dict[bool, float] = field(default_factory=dict)

    def estimate_s(self, cost: Cost) -> float:
        """Seconds that a fault will take."""
        return self._modelled_s(cost) * self.factors.get(cost.ray_starts > 0, 1.0)

    def learn(self, cost: Cost, took_s: float) -> None:
        """Corrects the guesses for faults of that kind, with Ray or without."""
        seen, kind = took_s / self._modelled_s(cost), cost.ray_starts > 0
        self.factors[kind] = (self.factors.get(kind, seen) + seen) / 2

    def _modelled_s(self, cost: Cost) -> float:
        starts_s = cost.ray_starts * self.ray_start_s + cost.quick_starts * self.quick_start_s
        return self.training_s + starts_s + cost.restarts * self.restart_s


def choose_next(waiting: Sequence[T], estimate_s: Callable[[T], float], left_s: float) -> T | None:
    """The most important fault that fits; None where none does.

    One that would take more than half of what is left waits for those that would not: where time is short,
    several faults tried tell more than one.
    """
    for share in (BREADTH_SHARE, 1.0):
        for candidate in waiting:
            if estimate_s(candidate) <= share * left_s:
                return candidate
    return None
