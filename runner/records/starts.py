"""starts.jsonl: a row for each time that a worker began on a trial. The last one's token owns the trial."""

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.storage.folder import Storage
from runner.storage.run_folder import STARTS


def record_start(trial: Storage, attempt: int, token: str, from_step: int, lost_steps: int) -> None:
    """Adds a line for each time that a worker begins or begins again; the last one's token owns the trial."""
    row = {
        "attempt": attempt,
        "token": token,
        "from_step": from_step,
        "lost_steps": lost_steps,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "oom_kills": count_oom_kills(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    content = trial.read(STARTS) if trial.exists(STARTS) else b""
    torn = b"\n" if content and not content.endswith(b"\n") else b""
    trial.append(STARTS, torn + json.dumps(row).encode() + b"\n")


def read_starts(trial: Storage) -> list[dict[str, Any]]:
    """The starts so far; lines that can't be understood are left out."""
    rows = []
    for line in trial.read(STARTS).splitlines() if trial.exists(STARTS) else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"attempt", "token", "from_step", "lost_steps"} <= row.keys():
            rows.append(row)
    return rows


def newest_start(trial: Storage) -> dict[str, Any]:
    """The last start; empty where there is none."""
    starts = read_starts(trial)
    return starts[-1] if starts else {}


def count_oom_kills() -> int:
    """How many processes the system has ended for lack of memory: in this container, else on this machine."""
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
    """How many of the last starts in a row the system seems to have ended for lack of memory.

    Of a worker that the system kills no word is left; that the count of such kills has grown on its
    machine by the time the next one starts there is the sign.

    Args:
        starts: the earlier ones and that of now.
    """
    count = 0
    for before, after in zip(reversed(starts[:-1]), reversed(starts), strict=False):
        same_place = before.get("host") == after.get("host") and before["attempt"] == after["attempt"]
        if not same_place or before.get("oom_kills", 0) >= after.get("oom_kills", 0):
            break
        count += 1
    return count
