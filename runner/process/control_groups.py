"""What a container may use of its machine: processor time, cores and memory, as its control groups limit them.

A machine with 64 cores may give a container the time of two. Who starts 64 threads there is stopped by the kernel for
most of each period, all threads at once. Who takes more memory than the group may have is killed, however much of it
the machine has.

Format: https://docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/ beside it; proc_pid_mountinfo(5).
"""

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path

_V2_TYPE, _V1_TYPE = "cgroup2", "cgroup"
# Version 1 says "no limit" by the largest number of bytes that whole pages can have.
_NO_LIMIT = 2**62


# Each takes milliseconds, and is asked for often.


@functools.cache
def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of time that this process may use, the least of all groups that it is in; None without a quota.

    Args:
        root: where /proc and the mounted groups are looked for.
    """
    quotas = [quota for folder in _groups(root, "cpu") if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


@functools.cache
def core_set(root: Path = Path("/")) -> frozenset[int] | None:
    """The cores that all of this process's groups may use, by their numbers; None where no group says any.

    The kernel takes them out of the process's affinity itself, but some sandboxes show them here alone.
    """
    sets = [cores for folder in _groups(root, "cpuset") if (cores := _cores(folder))]
    return frozenset.intersection(*sets) if sets else None


@functools.cache
def memory_limit(root: Path = Path("/")) -> int | None:
    """Bytes that this process's groups may hold, the least of them all; None without a limit. Swap is not counted."""
    limits = [limit for folder in _groups(root, "memory") for limit in _memory_limits(folder)]
    return min(limits, default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the groups that this process is in, and of all groups above, as far as they are mounted here.

    Args:
        controller: what version 1 has a tree of its own for; in version 2 one tree has them all.
    """
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except (OSError, UnicodeDecodeError):  # another system than Linux
        return

    # ID:CONTROLLERS:PATH; version 2 has the ID 0 and names no controllers.
    paths = {}
    for line in memberships:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            paths[_V2_TYPE] = path
        elif controller in controllers.split(","):
            paths[_V1_TYPE] = path

    for line in mounts:
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        shown, mounted_at = (_unescaped(field) for field in before.split(" ")[3:5])
        if kind not in paths or (kind == _V1_TYPE and controller not in options.split(",")):
            continue

        # What is mounted may be a group far down, such as the container's own: paths below it begin with its path.
        top, group = root / mounted_at.lstrip("/"), Path(paths[kind])
        inside = group.relative_to(shown) if group.is_relative_to(shown) and ".." not in group.parts else Path()
        yield from (top / part for part in (inside, *inside.parents))


def _quota(folder: Path) -> float | None:
    """The quota of one group in cores; None where it has none."""
    with contextlib.suppress(OSError, ValueError):
        allowed, period = (folder / "cpu.max").read_text().split()
        return None if allowed == "max" else int(allowed) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        return None if quota_us <= 0 else quota_us / int((folder / "cpu.cfs_period_us").read_text())
    return None


def _cores(folder: Path) -> frozenset[int]:
    """The numbers of the cores of one group; none where it does not say."""
    # "Effective" is what is left of the group's own list by the groups above, and by cores that are switched off.
    for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
        with contextlib.suppress(OSError, ValueError):
            text = (folder / name).read_text().strip()
            ranges = [part.partition("-") for part in text.split(",") if part]
            return frozenset(core for first, _, last in ranges for core in range(int(first), int(last or first) + 1))
    return frozenset()


def _memory_limits(folder: Path) -> Iterator[int]:
    """The limits that one group tells of."""
    for name in ("memory.max", "memory.limit_in_bytes"):  # of version 2, and of version 1
        with contextlib.suppress(OSError, ValueError):  # ValueError: `max`
            limit = int((folder / name).read_text())
            if limit < _NO_LIMIT:
                yield limit


def _unescaped(path: str) -> str:
    r"""A path as mountinfo has it: a space is \040."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), path)
