"""A trial as a W&B run, written from metrics.jsonl by the main process, the only one that may have a key.

It is one run, however often the trial is started: online the missing rows are added to it, offline it is written again
from the first row. Nothing here may stop a training.
"""

import hashlib
import json
import math
import re
import sys
from collections.abc import Mapping
from typing import Any

from runner.records.metrics_log import MetricsReader, read_last_row
from runner.records.results import ENDED_WELL
from runner.storage.run_folder import WEIGHTS, WEIGHTS_RECORD
from runner.storage.storage import Storage
from runner.tracking.pictures import picture_name
from runner.tracking.wandb_runs import WandbDestination, WandbRun
from runner.tracking.wandb_session import Identity, WandbSession

NOT_FAILURES = (*ENDED_WELL, "stopped")
# The columns of a row of results that W&B does not have as config or as the last value of a metric.
_IN_SUMMARY = ("status", "epochs", "restarts", "steps_lost")

# About half a second of work: after a restart a long log is sent in several parts.
ROWS_PER_UPDATE = 1000


def run_id(experiment: str, part: str) -> str:
    """The W&B id of a part of an experiment, such as a trial: unique, and the same at every start."""
    # Readable in the URL; the digest makes it unique, as `a-b/c` and `a/b-c` read the same.
    readable = re.sub(r"[^A-Za-z0-9]+", "-", f"{experiment}-{part}").strip("-")[:48]
    digest = hashlib.sha256(json.dumps([experiment, part]).encode()).hexdigest()[:12]
    return f"{readable}-{digest}"


class WandbTrial:
    """The W&B run of a trial. No method raises an error of W&B.

    An epoch's picture must be in images/ before its last row is in metrics.jsonl, because W&B takes each step once.
    """

    def __init__(
        self,
        trial: Storage,
        experiment: str,
        config: Mapping[str, Any],
        destination: WandbDestination,
        *,
        artifacts: bool = False,
    ) -> None:
        """Takes the trial's folder.

        Args:
            experiment: its name.
            config: of the trial, uploaded as it is; it must hold no secret.
            artifacts: whether the weights of the finished trial are uploaded, too.
        """
        self._trial = trial
        identity = Identity(run_id(experiment, trial.name), trial.name, experiment, "train", config)
        self._run = WandbRun(trial, identity, destination, uploads_weights=artifacts)
        self._artifacts = artifacts
        self._reader = MetricsReader(trial)
        self._pending: list[dict[str, Any]] = []

    def update(self) -> None:
        """Logs new rows of metrics.jsonl, a thousand at most. The run is opened for the first new row."""
        self._run.run_safely(self._update)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Logs the remaining rows, adds the trial's row of results to the summary, and closes the run.

        Does nothing where there are no rows, or W&B has everything. Later rows open the run again.
        """
        self._run.run_safely(lambda: self._finish(result))

    def _update(self) -> None:
        if not self._is_recorded({}):
            self._log_rows(ROWS_PER_UPDATE)

    def _finish(self, result: Mapping[str, Any]) -> None:
        summary = {name: result[name] for name in _IN_SUMMARY if name in result}
        weights = self._weights_record(result["status"])
        ending = {"summary": summary, "weights": weights.get("sha256", "")}
        if self._is_recorded(ending, with_files=bool(weights)):
            return

        run = self._log_rows(sys.maxsize)
        if weights:
            run.log_weights(WEIGHTS, weights)
        contents = {"last_step": self._reader.last_step, **ending}
        self._run.close(summary, contents, failed=result["status"] not in NOT_FAILURES)

    def _is_recorded(self, ending: Mapping[str, Any], *, with_files: bool = False) -> bool:
        """True where the run was closed with all rows and with this ending, or there are no rows."""
        if self._run.is_open:
            return False
        last = read_last_row(self._trial)
        last_step = last["step"] if last else -1
        return last_step < 0 or self._run.is_recorded({"last_step": last_step, **ending}, with_files=with_files)

    def _weights_record(self, status: str) -> dict[str, Any]:
        """The content of weights/manifest.json, where the weights are to be uploaded; else empty."""
        if not self._artifacts or status not in ENDED_WELL:
            return {}
        record: dict[str, Any] = json.loads(self._trial.read(WEIGHTS_RECORD))
        return record

    def _log_rows(self, limit: int) -> WandbSession:
        if not self._run.is_open:
            # A newly opened run may lack any of the rows: they are read from the first one on.
            self._reader, self._pending = MetricsReader(self._trial), []
        run = self._run.open()
        self._pending += self._reader.new_rows()
        rows, self._pending = self._pending[:limit], self._pending[limit:]
        for row in rows:
            # A run that is resumed online has the earlier rows already.
            if row["step"] >= run.first_step:
                run.log(self._values(row), row["step"])
        return run

    def _values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a row for W&B, with the epoch's picture."""
        import wandb

        # metrics.jsonl has null for numbers that are not finite; W&B shows NaN.
        values = {k: math.nan if v is None else v for k, v in row.items() if k != "step"}
        picture = picture_name(self._trial, row)
        if picture is not None:
            path = self._trial.local_copy(picture)
            values["images"] = wandb.Image(str(path), caption="source | target | generated")
        return values
