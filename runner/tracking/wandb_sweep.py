"""An experiment's table of trials as a W&B run, in one group with the trials' runs."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from runner.records.metrics_log import only_finite
from runner.records.results import ENDED_BADLY
from runner.storage.folder import Storage
from runner.tracking.wandb_runs import WandbDestination, WandbRun
from runner.tracking.wandb_session import Identity
from runner.tracking.wandb_trial import NOT_FAILURES, run_id

_JOB_TYPE = "sweep"
_TABLE = "trials"


class WandbSweep:
    """The run of job type `sweep`: the table of results with a row for each trial, and the number of trials by status.

    An experiment has one such run, however often it is started. No method raises because of W&B.
    """

    def __init__(self, experiment: Storage, config: Mapping[str, Any], destination: WandbDestination) -> None:
        """Opens no run yet.

        Args:
            experiment: its folder.
            config: recorded as it is; must hold no secret.
        """
        name = experiment.name
        # No trial has this name: that of a trial in a sweep has `=` in it, and without a sweep it is `trial`.
        identity = Identity(run_id(name, _JOB_TYPE), f"{name} (sweep)", name, _JOB_TYPE, config)
        self._run = WandbRun(experiment, identity, destination)
        self._logged = ""

    def update(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Logs the table of these rows of results, unless the last one was the same."""
        self._run.attempt(lambda: self._log(rows, _digest(rows)))

    def finish(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Logs the table and closes the run. Does nothing where W&B has both already."""
        self._run.attempt(lambda: self._finish(rows))

    def _finish(self, rows: Sequence[Mapping[str, Any]]) -> None:
        shown = _digest(rows)
        self._log(rows, shown)
        # It was not opened if W&B has this table already.
        if not self._run.is_open:
            return

        statuses = Counter(row["status"] for row in rows)
        counts = {f"trials_{status}": statuses[status] for status in (*NOT_FAILURES, *ENDED_BADLY)}
        failed = not statuses.keys() <= set(NOT_FAILURES)
        self._run.close({"trials_in_all": len(rows), **counts}, {"rows": shown}, failed=failed)

    def _log(self, rows: Sequence[Mapping[str, Any]], shown: str) -> None:
        """Logs the table, unless the run has it.

        Args:
            shown: the digest of the rows.
        """
        if self._run.is_recorded({"rows": shown}, with_files=True):
            return

        # A run that is opened again, offline after a failure for example, does not have the table yet.
        if not self._run.is_open:
            self._logged = ""
        run = self._run.open()
        if self._logged == shown:
            return

        import wandb

        # Values of a column may differ in type, as the values of a swept parameter may.
        columns: list[str | int] = list(dict.fromkeys(name for row in rows for name in row))
        data = [[only_finite(row).get(str(name)) for name in columns] for row in rows]
        run.log({_TABLE: wandb.Table(columns, data, allow_mixed_types=True)})
        self._logged = shown


def _digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """The digest that identifies a table."""
    return hashlib.sha256(json.dumps([only_finite(row) for row in rows]).encode()).hexdigest()
