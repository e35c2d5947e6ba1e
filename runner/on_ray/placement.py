"""Waits for the resources of a trial's workers, and hears a request to stop meanwhile."""

import threading
from typing import Any

import ray
from ray.util.placement_group import remove_placement_group

from runner.on_ray.private import PlacementGroupHandle

_LOOK_S = 1.0


class NotPlaced(BaseException):
    """The trial's workers do not begin: it is to stop, or was given up.

    No Exception, because Ray Train takes each for a fault and tries again.
    """


class Placement:
    """The resources of a trial's workers, as its driver waits for them.

    Attributes:
        is_waiting: while the cluster has no room for the workers.
    """

    def __init__(self, trial: str, coordinator: Any) -> None:
        """Waits for nothing yet; `coordinator` is the handle of the Coordinator actor."""
        self._trial, self._coordinator = trial, coordinator
        self.is_waiting = False
        self._handle: PlacementGroupHandle | None = None
        self._is_given_up = threading.Event()

    def free_earlier(self) -> None:
        """Frees what workers had of a controller before this one, whose process is gone.

        Ray keeps the placement groups of an actor that it starts again.
        """
        earlier = ray.get(self._coordinator.take_placement.remote(self._trial))
        if earlier is not None:
            remove_placement_group(ray.cloudpickle.loads(earlier))

    def wait(self, handle: PlacementGroupHandle) -> None:
        """Returns once a placement group has its resources.

        Raises:
            NotPlaced: the trial was asked to stop, or `give_up` was called; the group is removed.
        """
        self._handle = handle
        ray.get(self._coordinator.set_placement.remote(self._trial, ray.cloudpickle.dumps(handle.placement_group)))
        is_placed = False
        while not is_placed:
            is_placed = handle.wait(_LOOK_S)
            must_end = self._is_given_up.is_set() or (not is_placed and ray.get(self._coordinator.stop_reason.remote()))
            if must_end:
                handle.shutdown()
                raise NotPlaced
            self._note(is_waiting=not is_placed)
        ray.get(self._coordinator.begin_hold.remote(self._trial))

    def _note(self, *, is_waiting: bool) -> None:
        """Tells the Coordinator whether the trial waits, where that has changed."""
        if is_waiting == self.is_waiting:
            return
        self.is_waiting = is_waiting
        change = self._coordinator.add_waiting if is_waiting else self._coordinator.remove_waiting
        ray.get(change.remote(self._trial))

    def give_up(self) -> None:
        """Takes the workers' resources away from another thread: whoever waits for the workers gets an error."""
        self._is_given_up.set()
        if self._handle is not None:
            self._handle.shutdown()
