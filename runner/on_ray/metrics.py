"""Each trial's losses, speed and restarts as Ray's metrics: `ray_pix2pix_...` at every node's Prometheus endpoint."""

import math
from collections.abc import Sequence

from ray.util.metrics import Counter, Gauge

from runner.console import TrialView

PREFIX = "pix2pix"
TAGS = ("experiment", "trial")
LOSSES = {
    "total_gen_loss": "Loss of the generator",
    "fake_d_real_class_loss": "How well the generator fools the discriminator",
    "l1_loss": "Mean distance of generated from target pixels",
    "total_disc_loss": "Loss of the discriminator",
    "real_d_loss": "Loss of the discriminator on targets",
    "fake_d_loss": "Loss of the discriminator on generated pictures",
}


class TrialMetrics:
    """What the main process knows of an experiment's trials, for Ray to export with what it measures itself.

    The main process is where all of it arrives in any case: no worker has to do anything for it.
    """

    def __init__(self, experiment: str) -> None:
        """Of the experiment of this name; Ray must have been started."""
        self._experiment = experiment
        self._losses = {name: Gauge(f"{PREFIX}_{name}", text, TAGS) for name, text in LOSSES.items()}
        self._speed = Gauge(f"{PREFIX}_steps_per_second", "Training steps a second, 0 while a trial does not run", TAGS)
        self._restarts = Counter(f"{PREFIX}_restarts", "How often a trial has been started again, in all starts", TAGS)
        self._told: dict[str, int] = {}

    def update(self, trials: Sequence[TrialView]) -> None:
        """Sets all of them anew: what is not set between two exports is not exported."""
        for view in trials:
            tags = {"experiment": self._experiment, "trial": view.name}
            for name, gauge in self._losses.items():
                if name in view.row:
                    value = view.row[name]  # the log says null for what is not finite
                    gauge.set(math.nan if value is None else value, tags)
            runs = view.status == "running" and view.step_s > 0
            self._speed.set(1 / view.step_s if runs else 0.0, tags)
            if (more := view.restarts - self._told.get(view.name, 0)) > 0:
                self._restarts.inc(more, tags)
                self._told[view.name] = view.restarts
