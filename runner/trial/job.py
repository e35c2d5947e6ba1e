"""One trial as its worker is given it."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runner.config.fingerprint import Fingerprints
from runner.config.halving import Halving
from runner.config.schema import Experiment
from runner.process.lease import Superseded, check_held
from runner.records.starts import Cause, newest_start
from runner.storage.run_folder import LOG, trial_path
from runner.storage.storage import Storage, takes_nothing


@dataclass(frozen=True)
class TrialJob:
    """All that a worker needs to know to train one trial, on any machine that sees the storage.

    `threads` is what the trial has been given; a trial that has begun keeps the number it recorded.
    `start_token` names a worker's start among all of the trial, once it has begun.
    `cause` is why this start of the command goes on with it; None for a trial that has not begun before.
    `halving` says at which epochs the sweep ranks it, if at any. It is trained to the end of epoch `until`, a rung or
    the last one, which None stands for.
    """

    experiment: Storage
    name: str
    config: Experiment
    params: Mapping[str, Any]
    fingerprints: Fingerprints
    store: Storage
    threads: int
    lease_token: str
    attempt: int
    start_token: str = ""
    cause: Cause | None = None
    halving: Halving | None = None
    until: int | None = None

    @property
    def trial(self) -> Storage:
        """The trial's folder."""
        return self.experiment.at(trial_path(self.name))

    @property
    def epochs(self) -> int:
        """The epoch at whose end this run of the trial ends."""
        return self.until or self.config.training.epochs

    def check_current(self) -> None:
        """Raises Superseded where another start of the command or of this trial has taken over, or none goes on."""
        # The lease tells starts of the command apart. Within one start Ray may start a trial's workers again: the start
        # token tells these apart.
        check_held(self.experiment, self.lease_token)
        if self.start_token and newest_start(self.trial).get("token") != self.start_token:
            raise Superseded("a later worker of this trial has taken over")

    @contextlib.contextmanager
    def committing(self) -> Iterator[None]:
        """Around whatever changes the trial's folder: one process at a time, and only the one that owns it."""
        # Checked inside the lock, where there is one: a later worker takes the same lock before it takes over.
        with self.trial.exclusive(self.check_current):
            yield

    def log_line(self, text: str) -> None:
        """Adds a line to the trial's log.txt; a storage that takes nothing for now is no reason to fail here."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        try:
            self.trial.append(LOG, f"{stamp} attempt {self.attempt}: {text}\n".encode())
        except OSError as error:
            if not takes_nothing(error):
                raise


def first_line(error: BaseException) -> str:
    """An error's cause on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
