"""How far a trial is."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from gan.evaluation.metrics import METRICS
from runner.records.metrics_log import MetricsReader
from runner.storage.folder import Storage


class LogTail:
    """What the end of a trial's log says, read while a worker writes it.

    Attributes:
        row: the last row.
        metrics: of the last evaluation, by their keys.
        steps_per_epoch: 0 before the end of an epoch has been read.
    """

    def __init__(self, trial: Storage) -> None:
        self._reader = MetricsReader(trial)
        self.row: Mapping[str, Any] = {}
        self.metrics: Mapping[str, Any] = {}
        self.steps_per_epoch = 0

    def read(self) -> None:
        """Takes in what is new."""
        for row in self._reader.new_rows():
            self.row = row
            # Only the last row has `final/`, over all validation patches. `val/` is over a fixed sample of them.
            evaluated = {m.key: row.get(f"final/{m.key}", row.get(f"val/{m.key}")) for m in METRICS}
            # Most rows are between two evaluations, and the metrics of the last one stay.
            if evaluated["l1"] is not None:
                self.metrics = evaluated
            # Only the row that ends an epoch has means.
            if any(key.startswith("epoch_mean/") for key in row):
                self.steps_per_epoch = row["step"] // row["epoch"]


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
