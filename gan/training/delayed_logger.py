"""Steps that are logged: on a GPU some steps later, so that it has work while the host writes."""

from collections.abc import Callable

import torch

from gan.training.losses import LOSS_NAMES
from gan.training.state import TrainState

# Steps that a device has been given, and works at, while the host writes the row of one before them.
STEPS_AHEAD = {"cpu": 0, "cuda": 10}


class LoggedStep:
    """A step just done. Its losses are on their way from the device: the host need not wait for them yet.

    Attributes:
        step: steps done, this one included.
        epoch: the step's epoch, from 1.
    """

    def __init__(self, state: TrainState) -> None:
        """Of the step that the state has just taken."""
        self.step, self.epoch = state.step, state.epoch
        on_gpu = state.device.type == "cuda"
        # The host need not wait for a copy to pinned memory. The event tells when the copy is done.
        self._losses = torch.empty(state.losses.shape, pin_memory=on_gpu)
        self._losses.copy_(state.losses, non_blocking=True)
        self._arrival = torch.cuda.current_stream(state.device).record_event() if on_gpu else None

    @property
    def losses(self) -> dict[str, float]:
        """The six losses by LOSS_NAMES; waits until they are here."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return dict(zip(LOSS_NAMES, self._losses.tolist(), strict=True))


class DelayedLogger:
    """Hands on the steps that are logged, each STEPS_AHEAD steps later, in order."""

    def __init__(self, device: torch.device, write: Callable[[LoggedStep], None]) -> None:
        self._steps_ahead, self._write = STEPS_AHEAD[device.type], write
        self._pending: LoggedStep | None = None

    def add(self, logged: LoggedStep) -> None:
        """Takes a step; the one before it is handed on."""
        self.flush()
        self._pending = logged
        self.write_due(logged.step)

    def write_due(self, step: int) -> None:
        """Hands on what is due once the device has been given this step."""
        if self._pending is not None and step - self._pending.step >= self._steps_ahead:
            self.flush()

    def flush(self) -> None:
        """Hands on what is pending, now: before anything is done with the state."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._write(pending)
