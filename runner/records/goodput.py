"""Goodput of a trial: the seconds of its steps that count, over the seconds that its workers were held.

Steps that count are those that its log has: a restart cuts off the steps that it does again. Their seconds are the
log's `seconds`, without evaluation and saving.

Workers are held from the moment when they have their places until the last sign of life of the first of them; all of a
trial's workers are held together, and count once. On Ray they have their places when the cluster gives them, so that
the start of their processes counts; with `--in-process` when the trial's turn comes. Waiting for machines, and time in
which no command runs, does not count, nor does the time that it takes Ray to notice that a worker is gone.

A worker that is killed can't say when: so it says every few seconds that it is still there, in held.jsonl. A row of
its log that is newer than that says it, too. What is missed of a killed worker is 6 seconds at most, or 1 % of the time
that workers were held, and all of one that is killed before it has restored its state.

Beside the time stands what the first worker has used meanwhile: processor seconds and peaks of memory. They count from
the moment when it has restored its state.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from runner.number_format import finite
from runner.process.usage import Usage
from runner.storage.run_folder import HELD
from runner.storage.storage import Storage

_TAIL_BYTES = 1024  # several rows


class Hold(NamedTuple):
    """What was known at some moment.

    Attributes:
        held_s: seconds that the trial's workers had been held by then, over all starts.
        trained_s: the training time at that moment: of the steps that counted then.
        usage: what the first worker had used by then, over all starts; None where a release did not record that.
    """

    held_s: float
    trained_s: float
    usage: Usage | None = None

    def held_until(self, trained_s: float) -> float:
        """Seconds held, where the log has a later row with this training time: the worker was alive that long."""
        return self.held_s + max(trained_s - self.trained_s, 0.0)


def record_hold(trial: Storage, hold: Hold) -> None:
    """Adds a row. It does not wait for the disk: what a power cut takes is a few seconds."""
    trial.append(HELD, json.dumps(hold_row(hold)).encode() + b"\n", synced=False)


def hold_row(hold: Hold | None) -> dict[str, float | None]:
    """The columns of a hold, in held.jsonl and in starts.jsonl; None where it is not known."""
    if hold is None:
        return {"held_s": None, "trained_s": None}
    row: dict[str, float | None] = {"held_s": round(hold.held_s, 3), "trained_s": round(hold.trained_s, 3)}
    return row if hold.usage is None else row | hold.usage._replace(cpu_s=round(hold.usage.cpu_s, 3))._asdict()


def newest_hold(trial: Storage, starts: Sequence[Mapping[str, Any]]) -> Hold | None:
    """The newest record of a trial's holds, of its newest start or later; None where a release did not record them.

    Args:
        starts: the rows of starts.jsonl.
    """
    # Once a start has not recorded it, the sum is not known any more.
    if starts and _hold_of(starts[-1]) is None:
        return None
    # They are sums over all starts: the larger one is the newer one.
    found = [hold for row in (*starts[-1:], *_last_rows(trial)) if (hold := _hold_of(row))]
    return max(found, default=None, key=lambda hold: (hold.held_s, hold.trained_s))


def goodput(trained_s: float, held_s: float | None) -> float | None:
    """Their ratio, 0 to 1; None where it is not known, or nothing has been held yet."""
    return round(trained_s / held_s, 4) if held_s else None


def usage_columns(hold: Hold | None) -> dict[str, float | None]:
    """The columns of results for what a trial's first worker has used; None where that is not known.

    Without a GPU there is no peak of its memory.
    """
    usage = hold.usage if hold is not None else None
    return {
        "cpu_seconds": usage and usage.cpu_s,
        "peak_memory_bytes": usage and usage.peak_bytes,
        "peak_gpu_memory_bytes": usage and (usage.peak_gpu_bytes or None),
    }


def cores_used(row: Mapping[str, Any]) -> float | None:
    """How many cores a trial's first worker kept busy while it was held, by its row of results; None if not known."""
    cpu_s, held_s = finite(row.get("cpu_seconds")), finite(row.get("held_seconds"))
    return cpu_s / held_s if cpu_s is not None and held_s else None


def total_goodput(rows: Iterable[Mapping[str, Any]]) -> float | None:
    """Goodput of all trials together: the sum of their seconds over the sum of what was held for them.

    Args:
        rows: of results; those in which it is not known are left out.
    """
    known = [row for row in rows if row.get("held_seconds")]
    return goodput(sum(row["seconds"] for row in known), sum(row["held_seconds"] for row in known))


def _hold_of(row: Mapping[str, Any]) -> Hold | None:
    """The hold in a row; None where it has none."""
    held_s, trained_s = row.get("held_s"), row.get("trained_s")
    if not isinstance(held_s, int | float) or not isinstance(trained_s, int | float):
        return None
    return Hold(float(held_s), float(trained_s), _usage_of(row))


def _usage_of(row: Mapping[str, Any]) -> Usage | None:
    """The usage in a row; None where it has none."""
    cpu_s, peak_bytes, peak_gpu_bytes = (finite(row.get(name)) for name in Usage._fields)
    if cpu_s is None or peak_bytes is None or peak_gpu_bytes is None:
        return None
    return Usage(cpu_s, int(peak_bytes), int(peak_gpu_bytes))


def _last_rows(trial: Storage) -> list[dict[str, Any]]:
    """The last rows of held.jsonl, without those that are damaged. The rest of the file is not read."""
    try:
        data, _ = trial.read_from(HELD, max(trial.size(HELD) - _TAIL_BYTES, 0))
    except FileNotFoundError:
        return []

    rows = []
    for line in data.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the first one may have begun before, and the last one may be written at this moment
        if isinstance(row, dict):
            rows.append(row)
    return rows
