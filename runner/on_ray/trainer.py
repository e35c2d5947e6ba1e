"""Ray's TorchTrainer, with its controller in the process that calls `fit`."""

import asyncio
from typing import Any

from ray.train import Result
from ray.train.torch import TorchTrainer

# One hands out Ray Data's sets, of which we give none. The other removes the workers' placement group once their
# controller is gone, which Ray itself does for a group whose maker, as ours, is no detached actor.
NEEDLESS = ("DatasetsCallback", "PlacementGroupCleanerCallback")


class TrialTrainer(TorchTrainer):
    """A TorchTrainer whose controller runs here, not in an actor of its own.

    A trial's driver is an actor already and would only wait for the controller's. That process costs five
    seconds of processor time and as long a wait at each trial's start, for it imports Ray Train and torch
    again. Where a later Ray has no such method, its own way is taken.
    """

    def _create_default_callbacks(self) -> list[Any]:
        """Without those that start a process for each trial in vain."""
        return [callback for callback in super()._create_default_callbacks() if type(callback).__name__ not in NEEDLESS]

    def _initialize_and_run_controller(self, **settings: Any) -> Result:
        from ray.train.v2._internal.execution.controller import TrainController

        controller = TrainController(**settings)
        asyncio.run(controller.run())
        return controller.get_result()
