"""One trial as its worker is given it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.config import Experiment
from runner.lease import check_current
from runner.records import TRIALS, Fingerprints
from runner.storage import Storage

LOG = "log.txt"


@dataclass(frozen=True)
class TrialJob:
    """All that a worker needs to know to train one trial, on any machine that sees the storage.

    `threads` is what the trial has been given; a trial that has begun keeps the number it recorded.
    """

    experiment: Storage
    name: str
    config: Experiment
    params: Mapping[str, Any]
    ids: Fingerprints
    store: Storage
    threads: int
    lease_token: str
    attempt: int

    @property
    def trial(self) -> Storage:
        """The trial's folder."""
        return self.experiment.at(f"{TRIALS}/{self.name}")

    def check_current(self) -> None:
        """Raises Superseded where another start of the command owns the experiment."""
        check_current(self.experiment, self.lease_token)

    def say(self, text: str) -> None:
        """Adds a line to the trial's log.txt."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        self.trial.append(LOG, f"{stamp} attempt {self.attempt}: {text}\n".encode())


def first_line(error: BaseException) -> str:
    """An error's cause on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
