"""How much processor time a container may use: a quota of its control groups, which the number of cores does not show.

A machine with 64 cores may give a container the time of two. Who starts 64 threads there is stopped by the kernel for
most of each period, all threads at once.

Format: https://docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/ beside it; proc_pid_mountinfo(5).
"""

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path

_V2_TYPE, _V1_TYPE = "cgroup2", "cgroup"
_V1_CONTROLLER = "cpu"


@functools.cache  # it takes milliseconds, and is asked for often
def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of time that this process may use, the least of all groups that it is in; None without a quota.

    Args:
        root: where /proc and the mounted groups are looked for.
    """
    quotas = [quota for folder in _groups(root) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """The folders of the groups that this process is in, and of all groups above, as far as they are mounted here."""
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
        elif _V1_CONTROLLER in controllers.split(","):
            paths[_V1_TYPE] = path

    for line in mounts:
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        shown, mounted_at = (_unescaped(field) for field in before.split(" ")[3:5])
        if kind not in paths or (kind == _V1_TYPE and _V1_CONTROLLER not in options.split(",")):
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


def _unescaped(path: str) -> str:
    r"""A path as mountinfo has it: a space is \040."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), path)
