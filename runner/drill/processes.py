"""The processes of a command that the drill started, found by their session, and signals to them.

A command is started in a session of its own, which all that it starts stay in, Ray's workers included, and
which outlives it: so that nothing else is ever ended, and nothing is left behind.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

WORKER_TITLE = "ray::RayTrainWorker"
DRIVER_TITLE = "ray::ImplicitFunc"
END_WITHIN_S = 10.0
POLL_S = 0.02


def session_processes(session: int) -> dict[int, str]:
    """The living processes of a session, with their titles."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                found[int(folder.name)] = process_title(int(folder.name))
    return found


def process_title(pid: int) -> str:
    """What `ps` shows of a process; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""


def processes_titled(session: int, title: str) -> list[int]:
    """Processes of a session whose title begins so."""
    return [pid for pid, shown in session_processes(session).items() if shown.startswith(title)]


def kill_session(session: int) -> None:
    """Ends all processes of a session, those too that were being started meanwhile.

    Raises:
        TimeoutError: some could not be ended.
    """
    deadline = time.monotonic() + END_WITHIN_S
    while alive := session_processes(session):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {sorted(alive)} do not end")
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)


def signal_worker(pid: int, number: int) -> bool:
    """Signals a process if it is a training worker still; False where it is not."""
    if not process_title(pid).startswith(WORKER_TITLE):
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def kill_worker_during_write(pid: int, folder: str, prefix: str, within_s: float) -> bool:
    """Kills a training worker as soon as a new name with that prefix stands in a folder; False where none came."""
    before = names_with(folder, prefix)
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if names_with(folder, prefix) - before:
            return signal_worker(pid, signal.SIGKILL)
        if not process_title(pid):
            return False
        time.sleep(0.0005)
    return False


def names_with(folder: str, prefix: str) -> set[str]:
    """Names in a local folder that begin so; none where there is no folder."""
    try:
        return {path.name for path in Path(folder).iterdir() if path.name.startswith(prefix)}
    except OSError:
        return set()
