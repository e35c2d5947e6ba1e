"""How far a trial is."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class TrialProgress(NamedTuple):
    """A moment of a trial, as the screen and monitoring systems show it.

    Attributes:
        status: as in results.csv, or `waiting` before its turn.
        epochs, total_steps: of the whole training.
        step_s: seconds that a step takes; 0 where that is not known.
        row: the last one of its log.
        metrics: of its last evaluation, by their keys.
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

    @property
    def epoch(self) -> int:
        """The epoch of the last row."""
        return int(self.row.get("epoch", 0))

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the present speed; None where that is not known."""
        return (self.total_steps - self.step) * self.step_s if self.step_s else None
