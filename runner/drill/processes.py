"""The processes of a command that the drill started, and signals to them.

The drill starts each command in a new session. All that the command starts, Ray's workers included, stays in that
session, even after the command itself has ended. So the drill finds everything that it must end, and ends nothing else.
"""

import contextlib
import os
import signal
import time

import psutil

from runner.on_ray.private import WORKER_TITLE
from runner.storage.folder import Folder
from runner.storage.storage import Storage

POLL_S = 0.02

_END_WITHIN_S = 10.0
_WRITE_POLL_S = 0.0005  # a write takes a few milliseconds


def session_processes(session: int) -> dict[int, str]:
    """The living processes of a session, with their titles."""
    found = {}
    for process in psutil.process_iter():
        # psutil knows nothing of sessions.
        with contextlib.suppress(psutil.Error, OSError):
            # A zombie has ended already. Its parent has not asked for its exit code yet.
            if os.getsid(process.pid) == session and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                found[process.pid] = _process_title(process.pid)
    return found


def processes_titled(session: int, title: str) -> list[int]:
    """The processes of a session whose title begins like this."""
    return [pid for pid, shown in session_processes(session).items() if shown.startswith(title)]


def kill_session(session: int) -> None:
    """Kills all processes of a session, and waits until they have ended.

    Raises:
        TimeoutError: some did not end.
    """
    deadline = time.monotonic() + _END_WITHIN_S
    # A process may start another one while we look, so we look again until none is left.
    while alive := session_processes(session):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {sorted(alive)} do not end")
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)


def signal_worker(pid: int, number: int) -> bool:
    """Sends a signal to a process if it is a training worker. False where it is none, or has ended."""
    # The system may have given the number to another process meanwhile.
    if not _process_title(pid).startswith(WORKER_TITLE):
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def kill_worker_during_write(pid: int, folder: Storage, last: str, within_s: float) -> bool:
    """Kills a training worker as soon as it begins a new folder inside this one.

    Args:
        last: the file that is written last there.

    Returns:
        False where no such name appeared in time, or the worker ended before.
    """
    # What is there already comes from writes that were broken off.
    before = unfinished(folder, last)
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if unfinished(folder, last) - before:
            return signal_worker(pid, signal.SIGKILL)
        if not _process_title(pid):
            return False
        time.sleep(_WRITE_POLL_S)
    return False


def unfinished(place: Storage, last: str) -> set[str]:
    """The folders that are being written inside a place, or were when a write was broken off.

    Args:
        last: the file that is written last there.
    """
    if isinstance(place, Folder):
        return set(place.temporary_names())
    return {name for name in place.names() if place.is_unfinished(name, last)}


def _process_title(pid: int) -> str:
    """The title that `ps` shows of a process. Empty where it has ended."""
    try:
        return " ".join(psutil.Process(pid).cmdline()).strip()
    except psutil.Error:
        return ""
