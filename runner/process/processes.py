"""Finding and ending the processes of a start of the command.

A start marks its processes by an environment variable, which every process passes on to those that it starts. So
they can be found after the command itself was killed.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from runner.process.control_groups import core_set, cpu_quota

MARK = "PIX2PIX_RUNNER_START"

_MAX_WAIT_S = 10.0
_PAUSE_S = 0.01
_START_TIME = 19  # place of `starttime` (field 22 of proc_pid_stat(5)) among the fields after the command's name


@contextlib.contextmanager
def marked(token: str) -> Iterator[None]:
    """Processes that are started inside the block, and all their descendants, carry the mark of this start."""
    os.environ[MARK] = token
    try:
        yield
    finally:
        del os.environ[MARK]


def end_marked(token: str) -> int:
    """Kills all processes with the mark of a start, except this one, and waits until they have ended.

    A worker that outlives a killed command can't write any more, but it holds its GPU's memory. Ray's agents would
    stay for more than a minute.

    Returns:
        The number of processes that were killed.
    """
    ended: set[int] = set()
    deadline = time.monotonic() + _MAX_WAIT_S

    # A process may start another one while we look, so we look again until nothing is found. psutil.wait_procs
    # can't wait for us: a zombie counts as running there, and one whose parent is gone may stay for ever.
    while time.monotonic() < deadline:
        found = _kill_marked(token)
        ended |= found
        if not found and not any(map(is_alive, ended)):
            break
        time.sleep(_PAUSE_S)

    return len(ended)


def is_alive(pid: int) -> bool:
    """False where there is no such process, or only a zombie.

    A process that is being killed is alive until its memory is freed. It has no environment by then.
    """
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except (psutil.Error, ValueError):  # ValueError: a negative number, from a damaged file
        return False


def is_running(name: str, token: str) -> bool:
    """True where a process of this name carries the mark of a start. A zombie does not count."""
    return any(_has_name(process, name) and _has_mark(process, token) for process in psutil.process_iter())


def children(name: str) -> list[int]:
    """The numbers of the processes with this name that this process has started itself."""
    return [process.pid for process in psutil.Process().children() if _has_name(process, name)]


def process_start(pid: int) -> str | None:
    """When a process started, in the kernel's ticks since the machine's boot. None where it is not alive.

    Number and start together identify a process, because the system uses a number again. psutil's `create_time` can't
    serve here: it is by the wall clock, and changes when that is set.
    """
    if not is_alive(pid):
        return None
    if not psutil.LINUX:
        return "alive"
    try:
        # The command's name is in parentheses, and may contain spaces and parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[_START_TIME]
    except OSError:
        return None  # it ended between the two looks


def _kill_marked(token: str) -> set[int]:
    """Looks at all processes once. Returns the numbers of those that were killed."""
    # This process may carry the mark too, if a marked process has started it.
    killed = set()
    for process in psutil.process_iter():
        if process.pid != os.getpid() and _has_mark(process, token):
            with contextlib.suppress(psutil.Error):
                process.kill()
                killed.add(process.pid)
    return killed


# A process may end while we look at it, and other users' processes hide their environment: neither is an error.


def _has_mark(process: psutil.Process, token: str) -> bool:
    try:
        return process.environ().get(MARK) == token
    except (psutil.Error, OSError):
        return False


def _has_name(process: psutil.Process, name: str) -> bool:
    try:
        return process.name() == name
    except (psutil.Error, OSError):
        return False


def num_cores() -> int:
    """Cores that this process may use, 1 at least: by its affinity, and by its container's set of cores and quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = os.sched_getaffinity(0)
        # A sandbox may number its cores anew: a set that shares none with the affinity is about others.
        num = len(cores & (core_set() or cores)) or len(cores)
    else:
        num = os.cpu_count() or 1

    quota = cpu_quota()
    # Rounded down, because the threads of a step wait for each other: with one too many, all wait for the next period.
    return num if quota is None else max(1, min(num, int(quota)))
