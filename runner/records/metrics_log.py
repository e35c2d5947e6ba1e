"""metrics.jsonl, a trial's log of record: one JSON object a row, strictly increasing `step`."""

import json
import math
from collections.abc import Mapping
from typing import Any

from runner.storage.folder import Storage
from runner.storage.run_folder import METRICS_LOG


def read_rows(trial: Storage) -> list[dict[str, Any]]:
    """Every whole row of a trial's log, in order of step; a torn last row is left out."""
    return _parse(trial.read(METRICS_LOG)) if trial.exists(METRICS_LOG) else []


def _parse(data: bytes) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for line in data.split(b"\n")[:-1]:
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            break
        if rows and row["step"] <= rows[-1]["step"]:
            break
        rows.append(row)
    return rows


class MetricsLog:
    """The writing end, held by the one process that trains. On opening, the log becomes what the restored
    checkpoint holds of it: later rows are of work that will be done, and logged, again, and whatever has
    happened to the file since is undone.

    Attributes:
        last_step: of the last row; -1 where there is none.
        seconds: the training time that the rows kept on opening account for.
        size: bytes of the log so far.
    """

    def __init__(self, trial: Storage, restored: bytes, last_step: int) -> None:
        """Opens the log of a trial at the rows of `restored` up to `last_step`."""
        self._trial = trial
        rows = [row for row in _parse(restored) if row["step"] <= last_step]
        self.last_step = rows[-1]["step"] if rows else -1
        self.seconds = float(rows[-1].get("seconds", 0.0)) if rows else 0.0
        content = b"".join(map(encode_row, rows))
        self.size = len(content)
        trial.write(METRICS_LOG, content)

    def first_bytes(self, size: int) -> bytes:
        """The log as it was when it had that size."""
        return self._trial.read(METRICS_LOG)[:size]

    def add(self, row: Mapping[str, Any], *, synced: bool = True) -> None:
        """Appends a row; raises ValueError where its step is not past the last one.

        Args:
            synced: see `Storage.append`. What a power cut takes comes again, once the checkpoint before it is restored.
        """
        if row["step"] <= self.last_step:
            raise ValueError(f"step {row['step']} is logged already (last: {self.last_step})")
        line = encode_row(row)
        self._trial.append(METRICS_LOG, line, synced=synced)
        self.last_step = row["step"]
        self.size += len(line)


def encode_row(row: Mapping[str, Any]) -> bytes:
    """One line of JSON."""
    return json.dumps(only_finite(row), allow_nan=False).encode() + b"\n"


def only_finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with null for what is not finite, which every JSON reader takes."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


class MetricsReader:
    """The reading end: hands out each step's row once, however often the log is cut back and redone."""

    def __init__(self, trial: Storage, after_step: int = -1) -> None:
        self._trial = trial
        self._size = 0
        self._file = ""
        self.last_step = after_step

    def new_rows(self) -> list[dict[str, Any]]:
        """Rows whose step is past every row handed out before; what has been read is not read again."""
        try:
            data, file = self._trial.read_from(METRICS_LOG, self._size)
            if file != self._file:  # opened by a later worker, which may have cut it back
                self._size, self._file = 0, file
                data, _ = self._trial.read_from(METRICS_LOG, 0)
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._size += len(whole)
        rows = [row for row in _parse(whole) if row["step"] > self.last_step]
        if rows:
            self.last_step = rows[-1]["step"]
        return rows
