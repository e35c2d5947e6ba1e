"""metrics.jsonl, the log of a trial: one JSON object a row, with `step` strictly increasing."""

import json
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from gan.evaluation.metrics import METRICS
from runner.storage.run_folder import METRICS_LOG
from runner.storage.storage import Storage
from runner.storage.write_behind import WriteBehind

_TAIL_BYTES = 2**14  # some dozens of rows, or several of an evaluation
_MODE_SUFFIXES = {"study": "", "eval": "_eval"}


def log_column(split: str, mode: str, metric: str) -> str:
    """The column of a metric's mean, as `val_eval/ssim`.

    Args:
        split: `val` for the sample of an epoch, `final` for all validation patches.
        mode: `study`, which has no mark in a name, or `eval`.
    """
    return f"{split}{_MODE_SUFFIXES[mode]}/{metric}"


def selection_column(metric: str) -> str:
    """The column of a metric's mean over the pictures to choose by, as `selection/swd`: in the rows of rungs."""
    return f"selection/{metric}"


def sample_column(metric: str) -> str:
    """The log's column of a metric's mean over the sample's patches of the selection half, as `val_selection/swd`."""
    return f"val_selection/{metric}"


def best_column(name: str) -> str:
    """The column of the best weights' epoch, and of their metrics on the report half, as `best/ssim`: in last rows."""
    return f"best/{name}"


def log_columns(split: str, mode: str, metric: str, parts: Mapping[str, float]) -> dict[str, float]:
    """The columns of all parts of a metric: `final/ssim` for the mean, `final/ssim_min` and so on for the others."""
    column = log_column(split, mode, metric)
    return {column if part == "mean" else f"{column}_{part}": value for part, value in parts.items()}


def read_rows(trial: Storage) -> list[dict[str, Any]]:
    """The rows of a trial's log, up to the first that is damaged."""
    return _parse(trial.read_if_there(METRICS_LOG))[0]


def read_last_row(trial: Storage) -> dict[str, Any] | None:
    """The last row of a trial's log; None where there is none. Of a long log only the end is read."""
    try:
        start = max(trial.size(METRICS_LOG) - _TAIL_BYTES, 0)
        data, _ = trial.read_from(METRICS_LOG, start)
    except FileNotFoundError:
        return None

    # The first line of the end may have begun before it.
    rows = _parse(data.partition(b"\n")[2] if start else data)[0] or read_rows(trial)
    return rows[-1] if rows else None


def _parse(data: bytes, last_step: int | None = None) -> tuple[list[dict[str, Any]], bool]:
    """The rows up to the first that is damaged, and whether there is one.

    Args:
        last_step: of the row before these; None where they are the first ones.
    """
    rows: list[dict[str, Any]] = []
    # After the last newline there is nothing, or a row whose write was broken off.
    for line in data.split(b"\n")[:-1]:
        try:
            row = json.loads(line.decode())  # of bytes, `loads` guesses the encoding of each line
        except ValueError:
            return rows, True
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            return rows, True
        # Steps that go back can't come from MetricsLog: from here on the file is damaged.
        if last_step is not None and row["step"] <= last_step:
            return rows, True
        rows.append(row)
        last_step = row["step"]
    return rows, False


class MetricsLog:
    """The writer of a trial's log, in the one process that trains.

    On opening it writes the log that the restored checkpoint holds. Rows after the checkpoint go away: their steps will
    be done and logged again. This also undoes any damage to the file.

    Attributes:
        last_step: of the last row; -1 where there is none.
        seconds: the training time up to the last row that was kept.
        size: bytes of the log so far.
    """

    def __init__(
        self,
        trial: Storage,
        restored: bytes,
        last_step: int,
        committing: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Opens the log.

        Args:
            restored: the log in the checkpoint that training goes on from, b"" for none.
            last_step: the step of that checkpoint; rows of later steps are left out.
            committing: entered for each write; raises where another worker has taken over the trial.
        """
        self._trial, self._committing = trial, committing
        rows = [row for row in _parse(restored)[0] if row["step"] <= last_step]
        self.last_step = rows[-1]["step"] if rows else -1
        self.seconds = float(rows[-1].get("seconds", 0.0)) if rows else 0.0
        # Written as a new file, by whose identity a MetricsReader sees that it must read from the start.
        content = b"".join(map(encode_row, rows))
        self.size = len(content)
        with committing():
            trial.write(METRICS_LOG, content)

        self._behind: WriteBehind | None = None
        if trial.row_interval_s:
            self._behind = WriteBehind(self._append, trial.row_interval_s)

    def first_bytes(self, size: int) -> bytes:
        """The first bytes of the log: what it held when it had that size. They are in the storage then."""
        self.flush()
        return self._trial.read(METRICS_LOG)[:size]

    def flush(self) -> None:
        """Waits until all rows are in the storage; raises what has kept a write from it."""
        if self._behind is not None:
            self._behind.flush()

    def close(self) -> None:
        """As `flush`, after the last row."""
        if self._behind is not None:
            self._behind.close()

    def add(self, row: Mapping[str, Any], *, synced: bool = True) -> None:
        """Appends a row; raises ValueError where its step is not after the last one.

        Args:
            synced: see `Storage.append`. A row that a power cut takes is written again after the restart.
        """
        if row["step"] <= self.last_step:
            raise ValueError(f"step {row['step']} is logged already (last: {self.last_step})")
        line = encode_row(row)
        if self._behind is not None:
            self._behind.add(line)
        else:
            self._append(line, synced=synced)
        self.last_step = row["step"]
        self.size += len(line)

    def _append(self, lines: bytes, *, synced: bool = True) -> None:
        with self._committing():
            self._trial.append(METRICS_LOG, lines, synced=synced)


def encode_row(row: Mapping[str, Any]) -> bytes:
    """One line of JSON."""
    return json.dumps(only_finite(row), allow_nan=False).encode() + b"\n"


def only_finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with None for NaN and infinity, which JSON does not have."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


class _GrowingLog:
    """The rows that `read_rows` gives, read from where the file ended the last time."""

    def __init__(self, trial: Storage) -> None:
        self._trial = trial
        self._size = 0
        self._file = ""
        self._last_step: int | None = None
        self._is_damaged = False

    def new_rows(self) -> tuple[list[dict[str, Any]], bool]:
        """The rows since the last call; and whether they begin with the first one, because it is another file."""
        is_other = False
        try:
            data, file = self._trial.read_from(METRICS_LOG, self._size)
            if file != self._file:
                # A later worker has opened the log, which may have got shorter.
                if self._size:
                    data, _ = self._trial.read_from(METRICS_LOG, 0)
                is_other = True
                self._size, self._file, self._last_step, self._is_damaged = 0, file, None, False
        except FileNotFoundError:
            is_other, self._size, self._file = bool(self._file), 0, ""
            return [], is_other
        if self._is_damaged:
            return [], False

        # The last line may not be written to its end yet.
        whole = data[: data.rfind(b"\n") + 1]
        self._size += len(whole)
        rows, self._is_damaged = _parse(whole, self._last_step)
        if rows:
            self._last_step = rows[-1]["step"]
        return rows, is_other


class MetricsReader:
    """Reads the log while a worker writes it. Each step's row comes once, even where a restart writes it again."""

    def __init__(self, trial: Storage, after_step: int = -1) -> None:
        self._log = _GrowingLog(trial)
        self.last_step = after_step

    def new_rows(self) -> list[dict[str, Any]]:
        """The rows of steps after the last one that was returned; only the new part of the file is read."""
        rows = [row for row in self._log.new_rows()[0] if row["step"] > self.last_step]
        if rows:
            self.last_step = rows[-1]["step"]
        return rows


class LogSummary:
    """What a trial's log comes to. It is read while a worker writes it, each row once, and no row but the last is kept.

    Attributes:
        row: the last row.
        evaluation: the last row that has metrics of an evaluation.
        metrics: of the last evaluation that measured L1, in the study's mode, by their keys.
        epochs: the last epoch that has ended; 0 before.
        steps_per_epoch: 0 before the end of an epoch has been read.
    """

    def __init__(self, trial: Storage) -> None:
        self._log = _GrowingLog(trial)
        self._begin()

    def _begin(self) -> None:
        self.row: Mapping[str, Any] = {}
        self.evaluation: Mapping[str, Any] = {}
        self.metrics: Mapping[str, Any] = {}
        self.epochs = self.steps_per_epoch = 0
        self._pictures = self._seconds = 0.0

    def read(self) -> None:
        """Takes in what is new, or all where a later worker has opened the log: it does some steps again."""
        rows, is_other = self._log.new_rows()
        if is_other:
            self._begin()
        for row in rows:
            self._add(row)

    @property
    def images_per_second(self) -> float | None:
        """Over the whole training time; None before there is any."""
        return round(self._pictures / self._seconds, 3) if self._seconds else None

    def _add(self, row: Mapping[str, Any]) -> None:
        self.row = row
        # The rate of a row is that of the time since the row before it.
        seconds = row.get("seconds", self._seconds)
        self._pictures += row.get("images_per_second", 0.0) * (seconds - self._seconds)
        self._seconds = seconds

        # Most rows are of losses alone: they lie between two evaluations, and within an epoch.
        kinds = {key.partition("/")[0] for key in row if "/" in key}
        if "epoch_mean" in kinds:
            self.epochs = row["epoch"]
            self.steps_per_epoch = row["step"] // row["epoch"]
        # Only the last row has `final/`, over all validation patches. `val/` is over a fixed sample of them.
        if "final" in kinds or "val" in kinds:
            self.evaluation = row
            measured = {m.key: row.get(f"final/{m.key}", row.get(f"val/{m.key}")) for m in METRICS}
            if measured["l1"] is not None:
                self.metrics = measured
