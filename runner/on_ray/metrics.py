"""Each trial's losses, speed and restarts as Ray's metrics: `ray_pix2pix_...` at every node's Prometheus endpoint."""

import math
from collections.abc import Sequence

from ray.util.metrics import Counter, Gauge

from gan.training.loss_names import LOSSES
from runner.trial.progress import TrialProgress

_PREFIX = "pix2pix"
_TAGS = ("experiment", "trial")


class TrialMetrics:
    """The state of an experiment's trials, for Ray to export together with its own measurements.

    It lives in the main process, which gets all of it anyway: the workers have nothing to do for it.
    """

    def __init__(self, experiment: str) -> None:
        """Registers the metrics of the experiment of this name; Ray must have been started."""
        self._experiment = experiment
        self._losses = {loss.name: Gauge(f"{_PREFIX}_{loss.name}", f"Loss: {loss.meaning}", _TAGS) for loss in LOSSES}
        speed = "Training steps per second, 0 while a trial does not run"
        self._speed = Gauge(f"{_PREFIX}_steps_per_second", speed, _TAGS)
        restarts = "After how many faults a trial went on, over all runs of the command"
        self._restarts = Counter(f"{_PREFIX}_restarts", restarts, _TAGS)
        self._counted_restarts: dict[str, int] = {}

    def update(self, trials: Sequence[TrialProgress]) -> None:
        """Sets all values, the old ones too: Ray exports only what was set since the last export."""
        for trial in trials:
            tags = {"experiment": self._experiment, "trial": trial.name}

            for name, gauge in self._losses.items():
                if name in trial.row:
                    # The log has null for a loss that is not finite.
                    value = trial.row[name]
                    gauge.set(math.nan if value is None else value, tags)

            runs = trial.status == "running" and trial.step_s > 0
            self._speed.set(1 / trial.step_s if runs else 0.0, tags)

            if (more := trial.restarts - self._counted_restarts.get(trial.name, 0)) > 0:
                self._restarts.inc(more, tags)
                self._counted_restarts[trial.name] = trial.restarts
