"""An experiment's report.html while it runs."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from runner.records.results import TrialResult
from runner.storage.run_folder import REPORT
from runner.storage.storage import Storage
from runner.trial.job import first_line

if TYPE_CHECKING:
    from runner.report.writer import Report

_MIN_INTERVAL_S = 30.0
_MAX_SHARE = 0.01  # of the time, for a page that takes long because it has many trials


class LiveReport:
    """Writes the page every 30 seconds, or less often, so that it takes no more than 1 % of the time.

    No method raises: a problem with the page is reported, and does not end a run.
    """

    def __init__(self, experiment: Storage, notify: Callable[[str], None]) -> None:
        """Writes nothing yet.

        Args:
            notify: called with a line for the person, where the page can't be written.
        """
        self._experiment, self._notify = experiment, notify
        self._report: Report | None = None
        self._due_at = time.monotonic() + _MIN_INTERVAL_S

    def update(self, results: Sequence[TrialResult]) -> None:
        """Writes the page for these results, unless it was written a short time ago."""
        if time.monotonic() >= self._due_at:
            self.write(results)

    def write(self, results: Sequence[TrialResult]) -> None:
        """Writes the page now; the longer that takes, the later the next time comes."""
        started = time.monotonic()
        try:
            self._write(results)
        except Exception as error:
            self._notify(f"{REPORT} could not be written ({first_line(error)}); the trials do not depend on it")
        # A failed attempt counts as well, so that it is not repeated at each update.
        now = time.monotonic()
        self._due_at = now + max(_MIN_INTERVAL_S, (now - started) / _MAX_SHARE)

    def _write(self, results: Sequence[TrialResult]) -> None:
        if self._report is None:
            # Loads Jinja, which would delay the start of the trials.
            from runner.report.writer import Report

            self._report = Report([self._experiment])
        self._experiment.write(REPORT, self._report.render([results]))
