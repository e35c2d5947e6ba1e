"""starts.jsonl of a trial: a row for each start of its worker.

The worker with the token of the last row owns the trial: no other may write into its folder.
"""

import itertools
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from runner.records.goodput import Hold, hold_row
from runner.storage.run_folder import STARTS
from runner.storage.storage import Storage


class Cause(NamedTuple):
    """Why a trial goes on: what ended its worker before.

    Attributes:
        is_fault: True for what nobody wanted: a crash, a lost worker or machine, a killed command.
    """

    text: str
    is_fault: bool


WORKER_LOST = Cause("its worker ended without a word; log.txt may say more", is_fault=True)


def cause_of(status: str, reason: str) -> Cause:
    """What ended a trial's last run, from the outcome that it recorded."""
    if status == "stopped":
        return Cause(_stopped_by(reason), is_fault=False)
    if status == "finished":
        return Cause("it had finished, and training.epochs was raised", is_fault=False)
    if status in ("paused", "halted"):
        return Cause("it had waited at a rung", is_fault=False)
    if status == "early_stopped":
        return Cause("its patience had ended, and evaluation.patience was raised", is_fault=False)
    if status == "diverged":
        return Cause("it had diverged, and --retry-diverged tries it again", is_fault=False)
    return Cause(reason if status == "cut_off" else f"{status}: {reason}", is_fault=True)


def _stopped_by(reason: str) -> str:
    if not reason:
        return "stopped"
    if reason == "time limit":
        return "stopped by --time-limit"
    # A word is what stopped it, Ctrl-C or SIGTERM; the others are sentences.
    return f"stopped ({reason})" if " " in reason else f"stopped by {reason}"


def record_start(
    trial: Storage,
    attempt: int,
    token: str,
    from_step: int,
    lost_steps: int,
    cause: Cause | None = None,
    hold: Hold | None = None,
    until: int | None = None,
    workers: int = 1,
) -> None:
    """Adds a row for a start of the trial's worker, which owns the trial from then on.

    Args:
        attempt: how often the command has been started for the experiment.
        token: of this start.
        from_step: the step of the checkpoint that it goes on from.
        lost_steps: the steps that were logged after that checkpoint and have to be done again.
        cause: why the trial goes on; None for its first start.
        hold: for how long the trial's workers have been held by now; None where that is not known.
        until: the epoch at whose end this run of the trial is to end.
        workers: how many of them train it together.
    """
    row = {
        "attempt": attempt,
        "token": token,
        "from_step": from_step,
        "lost_steps": lost_steps,
        "after": cause.text if cause else "",
        "fault": cause is not None and cause.is_fault,
        "workers": workers,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "oom_kills": count_oom_kills(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **({} if until is None else {"until": until}),
        **hold_row(hold),
    }

    content = trial.read_if_there(STARTS)
    # A worker that died while it wrote its row has left a part of a line.
    torn = b"\n" if content and not content.endswith(b"\n") else b""
    trial.append(STARTS, torn + json.dumps(row).encode() + b"\n")


def read_starts(trial: Storage) -> list[dict[str, Any]]:
    """The rows so far, without those that are damaged."""
    rows = []
    for line in trial.read_if_there(STARTS).splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"attempt", "token", "from_step", "lost_steps"} <= row.keys():
            rows.append(row)
    return rows


def newest_start(trial: Storage) -> dict[str, Any]:
    """The last row; empty where there is none."""
    starts = read_starts(trial)
    return starts[-1] if starts else {}


def describe_start(trial: str, start: Mapping[str, Any], total_steps: int, steps_per_epoch: int) -> str:
    """From which step a trial goes on, and why; "" for its first start.

    Args:
        trial: its name.
        start: the row.
    """
    if not start.get("after"):
        return ""
    why = f"after a fault: {start['after']}" if start["fault"] else start["after"]
    step = start["from_step"]
    if not step:
        return f"{trial} begins again with its first step: {why}"
    return f"{trial} goes on from step {step} of {total_steps} (epoch {step // steps_per_epoch + 1}): {why}"


def count_faults(starts: Sequence[Mapping[str, Any]]) -> int:
    """How many of a trial's starts came after a fault.

    Earlier releases did not record why a trial went on. There, a start counts that Ray made by itself, or that had to
    do logged steps again: whoever stops a trial loses none.
    """
    count = 0
    for before, start in itertools.pairwise(starts):
        by_itself = start["attempt"] == before["attempt"]
        count += bool(start.get("fault", by_itself or start["lost_steps"] > 0))
    return count


def count_oom_kills() -> int:
    """The number of processes that the system has killed for lack of memory, in this container or on this machine."""
    # In a container the first file counts its kills only; the second one counts those of the whole machine.
    for path in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
        try:
            lines = Path(path).read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def ended_for_lack_of_memory(starts: Sequence[Mapping[str, Any]]) -> int:
    """How many of the last starts in a row the system seems to have killed for lack of memory.

    A worker that the system kills can't report it. The sign is that the count of such kills has grown by the time the
    next worker starts on the same machine.

    Args:
        starts: all rows, the present one included.
    """
    count = 0
    # From the newest pair of neighbours to older ones, until one shows no kill.
    for before, after in zip(reversed(starts[:-1]), reversed(starts), strict=False):
        # Counts can be compared only on one machine, and within one start of the command.
        same_run = before.get("host") == after.get("host") and before["attempt"] == after["attempt"]
        # Between two rungs of a halved sweep other trials may have been killed.
        is_next_stage = len({start["until"] for start in (before, after) if "until" in start}) == 2
        if not same_run or is_next_stage or before.get("oom_kills", 0) >= after.get("oom_kills", 0):
            break
        count += 1
    return count
