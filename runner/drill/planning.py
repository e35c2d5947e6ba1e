"""Chooses which fault comes next in the time that is left. It only computes: it knows no run and no clock."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

_BREADTH_SHARE = 0.5


@dataclass(frozen=True)
class Cost:
    """What a fault takes time for, in addition to one whole training.

    Attributes:
        ray_starts: starts of the command that also start Ray.
        quick_starts: starts of the command that do not start Ray where they need not.
        restarts: restarts of a worker by Ray, and waits of the same length.
    """

    ray_starts: int = 0
    quick_starts: int = 0
    restarts: int = 0


@dataclass
class Pace:
    """How long things take on this machine: estimates, which measurements correct.

    Attributes:
        training_s: one whole training, without the start of the command.
        quick_start_s: a start of the command without Ray.
        ray_start_s: a start of the command with Ray.
        restart_s: a restart of a worker by Ray.
        factors: by how much measured times exceeded the estimates, for faults with Ray (True) and without (False).
    """

    training_s: float
    quick_start_s: float
    # First guesses. `factors` correct the estimates for this machine.
    ray_start_s: float = 28.0
    restart_s: float = 10.0
    factors: dict[bool, float] = field(default_factory=dict)

    def estimate_s(self, cost: Cost) -> float:
        """Seconds that a fault will take."""
        return self._modelled_s(cost) * self.factors.get(cost.ray_starts > 0, 1.0)

    def learn(self, cost: Cost, took_s: float) -> None:
        """Corrects the estimates for faults of the same kind, with Ray or without."""
        # The mean of the old factor and the new one, so that one slow run does not spoil the plan.
        seen, kind = took_s / self._modelled_s(cost), cost.ray_starts > 0
        self.factors[kind] = (self.factors.get(kind, seen) + seen) / 2

    def _modelled_s(self, cost: Cost) -> float:
        starts_s = cost.ray_starts * self.ray_start_s + cost.quick_starts * self.quick_start_s
        return self.training_s + starts_s + cost.restarts * self.restart_s


def choose_next(waiting: Sequence[T], estimate_s: Callable[[T], float], left_s: float) -> T | None:
    """The most important fault that fits into the time that is left. None where none does.

    A fault that would take more than half of that time comes after those that would not, because several faults tell
    more than one.

    Args:
        waiting: the faults, the most important first.
        estimate_s: the seconds that a fault will take.
    """
    # Twice through the list: first only what leaves time for others.
    for share in (_BREADTH_SHARE, 1.0):
        for candidate in waiting:
            if estimate_s(candidate) <= share * left_s:
                return candidate
    return None
