"""A trial as a W&B run, fed from metrics.jsonl by the main process: the only one that may hold a key.

One run a trial, however often the trial is started: online what the server lacks is added to it, offline
the whole of it is written anew. Nothing here may stop a training.
"""

import hashlib
import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.records.metrics_log import MetricsReader
from runner.storage.folder import Storage
from runner.storage.run_folder import WEIGHTS, WEIGHTS_RECORD, image_name
from runner.tracking.wandb_runs import WandbDestination, WandbRun
from runner.tracking.wandb_session import Identity, OpenRun

NOT_FAILURES = ("finished", "stopped")
# Of a row of results: the rest of it is in the run already, as its config and its last values.
IN_SUMMARY = ("status", "epochs", "restarts", "steps_lost")

# About half a second of work: after a restart a long log is handed over piece by piece.
ROWS_PER_UPDATE = 1000


def run_id(experiment: str, part: str) -> str:
    """The W&B id of a part of an experiment, such as a trial: the same at every start, and no other's."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", f"{experiment}-{part}").strip("-")[:48]
    digest = hashlib.sha256(json.dumps([experiment, part]).encode()).hexdigest()[:12]
    return f"{readable}-{digest}"


class WandbTrial:
    """One trial's W&B run.

    No method raises because of W&B. An epoch's picture must be in images/ before the row that ends the
    epoch is in metrics.jsonl: a step can't be added to later.
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
        """Of a trial's folder.

        Args:
            config: recorded as it is; must hold no secret.
            artifacts: whether the finished trial's weights go with it.
        """
        self._trial = trial
        identity = Identity(run_id(experiment, trial.name), trial.name, experiment, "train", config)
        self._run = WandbRun(trial, identity, destination, uploads_weights=artifacts)
        self._artifacts = artifacts
        self._reader = MetricsReader(trial)
        self._pending: list[dict[str, Any]] = []

    def update(self) -> None:
        """Logs rows of metrics.jsonl that are not logged yet, a thousand at most; opens the run for the
        first one, unless W&B has a run of exactly these rows."""
        self._run.attempt(self._update)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Logs what is left, adds what the trial's row of results says to the summary (W&B keeps each
        metric's last value there by itself) and closes the run; rows that come later open it again.

        Does nothing without rows, or where W&B has all of it already.
        """
        self._run.attempt(lambda: self._finish(result))

    def _update(self) -> None:
        if not self._is_recorded({}):
            self._log_rows(ROWS_PER_UPDATE)

    def _finish(self, result: Mapping[str, Any]) -> None:
        summary = {name: result[name] for name in IN_SUMMARY if name in result}
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
        """True where a W&B run of all rows, and of this ending, has been closed before, or there are no rows."""
        if self._run.is_open:
            return False
        self._reader.new_rows()
        last_step = self._reader.last_step
        return last_step < 0 or self._run.is_recorded({"last_step": last_step, **ending}, with_files=with_files)

    def _weights_record(self, status: str) -> dict[str, Any]:
        """What weights/manifest.json says, where the weights are to go along."""
        if not self._artifacts or status != "finished":
            return {}
        record: dict[str, Any] = json.loads(self._trial.read(WEIGHTS_RECORD))
        return record

    def _log_rows(self, limit: int) -> OpenRun:
        if not self._run.is_open:
            self._reader, self._pending = MetricsReader(self._trial), []
        run = self._run.open()
        self._pending += self._reader.new_rows()
        rows, self._pending = self._pending[:limit], self._pending[limit:]
        for row in rows:
            if row["step"] >= run.first_step:
                run.log(self._values(row), row["step"])
        return run

    def _values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What W&B is given of a row."""
        import wandb

        # metrics.jsonl says null for what is not finite; W&B has NaN and shows it.
        values = {k: math.nan if v is None else v for k, v in row.items() if k != "step"}
        picture = _picture(self._trial, row)
        if picture is not None:
            values["images"] = wandb.Image(str(picture), caption="source | target | generated")
        return values


def _picture(trial: Storage, row: Mapping[str, Any]) -> Path | None:
    """The picture of the epoch that the row ends, where the row ends one and there is one."""
    if not any(name.startswith("epoch_mean/") for name in row):
        return None
    name = image_name(row["epoch"])
    return trial.local_path / name if trial.exists(name) else None
