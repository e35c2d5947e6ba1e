"""The table of an experiment's results as a W&B run, in one group with the runs of its trials."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from runner.records.metrics_log import only_finite
from runner.records.results import ENDED_BADLY
from runner.storage.storage import Storage
from runner.tracking.wandb_runs import WandbDestination, WandbRun
from runner.tracking.wandb_session import Identity
from runner.tracking.wandb_trial import NOT_FAILURES, run_id

_JOB_TYPE = "sweep"
_TABLE = "trials"


class WandbSweep:
    """The W&B run of an experiment that sweeps: the table of results, and the number of trials of each status.

    It is one run, however often the command is started. No method raises an error of W&B.
    """

    def __init__(self, experiment: Storage, config: Mapping[str, Any], destination: WandbDestination) -> None:
        """Takes the experiment's folder.

        Args:
            config: of the experiment, uploaded as it is; it must hold no secret.
        """
        name = experiment.name
        # No trial's folder is named `sweep`: trials of a sweep have `=` in their names.
        identity = Identity(run_id(name, _JOB_TYPE), f"{name} (sweep)", name, _JOB_TYPE, config)
        self._run = WandbRun(experiment, identity, destination)
        self._logged = ""

    def update(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Logs the table of these rows of results, unless it has not changed."""
        self._run.run_safely(lambda: self._log(rows, _digest(rows)))

    def finish(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Logs the table and closes the run. Does nothing where W&B has the table."""
        self._run.run_safely(lambda: self._finish(rows))

    def _finish(self, rows: Sequence[Mapping[str, Any]]) -> None:
        digest = _digest(rows)
        self._log(rows, digest)
        if not self._run.is_open:
            return

        statuses = Counter(row["status"] for row in rows)
        counts = {f"trials_{status}": statuses[status] for status in (*NOT_FAILURES, *ENDED_BADLY)}
        failed = not statuses.keys() <= set(NOT_FAILURES)
        self._run.close({"trials_in_all": len(rows), **counts}, {"rows": digest}, failed=failed)

    def _log(self, rows: Sequence[Mapping[str, Any]], digest: str) -> None:
        """Logs the table, unless the run has it.

        Args:
            digest: of the rows.
        """
        if self._run.is_recorded({"rows": digest}, with_files=True):
            return

        # A run that is opened again, offline after a failure for example, does not have the table yet.
        if not self._run.is_open:
            # A newly opened run has no table yet.
            self._logged = ""
        run = self._run.open()
        if self._logged == digest:
            return

        import wandb

        # Values of a column may differ in type, as the values of a swept parameter may.
        columns: list[str | int] = list(dict.fromkeys(name for row in rows for name in row))
        data = [[only_finite(row).get(str(name)) for name in columns] for row in rows]
        run.log({_TABLE: wandb.Table(columns, data, allow_mixed_types=True)})
        self._logged = digest


def _digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of rows of results."""
    return hashlib.sha256(json.dumps([only_finite(row) for row in rows]).encode()).hexdigest()
