"""An experiment's report.html while it runs."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from runner.records.results import TrialResult
from runner.storage.folder import Storage
from runner.storage.run_folder import REPORT
from runner.trial.job import first_line

if TYPE_CHECKING:
    from runner.report.writer import Report

MIN_INTERVAL_S = 30.0
MAX_SHARE = 0.01


class LiveReport:
    """Writes the page every half minute, or less often, so that no more than a hundredth of the time goes into it.

    Whatever goes wrong with it is told, and is no reason to end a run.
    """

    def __init__(self, experiment: Storage, notify: Callable[[str], None]) -> None:
        """Of an experiment's folder."""
        self._experiment, self._notify = experiment, notify
        self._report: Report | None = None
        self._due_at = time.monotonic() + MIN_INTERVAL_S

    def update(self, results: Sequence[TrialResult]) -> None:
        """Writes the page for these results unless that was done not long ago."""
        if time.monotonic() >= self._due_at:
            self.write(results)

    def write(self, results: Sequence[TrialResult]) -> None:
        """Writes the page; the longer that takes, the later the next time comes."""
        started = time.monotonic()
        try:
            self._write(results)
        except Exception as error:
            self._notify(f"{REPORT} could not be written ({first_line(error)}); the trials do not depend on it")
        now = time.monotonic()
        self._due_at = now + max(MIN_INTERVAL_S, (now - started) / MAX_SHARE)

    def _write(self, results: Sequence[TrialResult]) -> None:
        if self._report is None:
            from runner.report.writer import Report  # loads the templates' engine: not while trials start

            self._report = Report([self._experiment])
        self._experiment.write(REPORT, self._report.render([results]))
