"""An experiment's table of trials as a W&B run of its own, in one group with the trials' runs."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runner.metrics_log import only_finite
from runner.storage import Storage
from runner.tracking import NOT_FAILURES, read_state, run_id, write_state
from runner.wandb_session import Identity, OpenRun, Uplink

JOB_TYPE = "sweep"
TABLE = "trials"


class SweepTracking:
    """The run of job type `sweep`: the table of results, one row a trial, and how many trials stand how.

    One run an experiment, however often it is started. No method raises because of W&B.
    """

    def __init__(self, experiment: Storage, config: Mapping[str, Any], uplink: Uplink) -> None:
        """Of an experiment's folder.

        Args:
            config: recorded as it is; must hold no secret.
        """
        name = experiment.name
        self._experiment, self._uplink = experiment, uplink
        # No trial's folder is named like this: a trial that sweeps has `=` in its name, one that doesn't is `trial`.
        self._identity = Identity(run_id(name, JOB_TYPE), f"{name} (sweep)", name, JOB_TYPE, config)
        self._run: OpenRun | None = None
        self._logged = ""
        self._over = False

    def update(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Logs the table of these rows of results, unless it is the one that was logged last."""
        self._attempt(lambda: self._update(rows))

    def finish(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Logs the table and closes the run. Does nothing where W&B has it already."""
        self._attempt(lambda: self._finish(rows))

    def _attempt(self, work: Callable[[], None]) -> None:
        if self._over:
            return
        self._over = not self._uplink.attempt(self._identity.name, work)
        if self._over and self._run is not None:
            self._run.abandon()

    def _update(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if self._run is None and read_state(self._experiment) == self._state(rows):
            return
        self._log_table(rows)

    def _finish(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._update(rows)
        run, self._run = self._run, None
        if run is None:
            return
        statuses = Counter(row["status"] for row in rows)
        summary = {"trials_in_all": len(rows), **{f"trials_{status}": count for status, count in statuses.items()}}
        run.close(summary, failed=not statuses.keys() <= set(NOT_FAILURES))
        write_state(self._experiment, self._state(rows))

    def _log_table(self, rows: Sequence[Mapping[str, Any]]) -> None:
        import wandb

        if self._run is None or self._run.mode != self._uplink.mode:
            self._run, self._logged = None, ""
            self._run = OpenRun(self._experiment, self._identity, self._uplink.mode)
        if self._logged == digest(rows):
            return
        columns: list[str | int] = list(dict.fromkeys(name for row in rows for name in row))
        data = [[only_finite(row).get(str(name)) for name in columns] for row in rows]
        self._run.log({TABLE: wandb.Table(columns, data, allow_mixed_types=True)})
        self._logged = digest(rows)

    def _state(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"id": self._identity.id, "mode": self._uplink.mode, "rows": digest(rows)}


def digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a table is known by."""
    return hashlib.sha256(json.dumps([only_finite(row) for row in rows]).encode()).hexdigest()
