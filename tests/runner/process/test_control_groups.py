"""What a container may use of its machine, from files laid as the kernel shows them."""

import os
from pathlib import Path

import pytest

from runner.process import processes
from runner.process.control_groups import core_set, cpu_quota, memory_limit

V2 = "30 20 0:26 {shown} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate"
V1 = "32 31 0:29 {shown} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
OTHER = "22 1 0:20 / /proc rw - proc proc rw\n34 31 0:31 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids"


V1_MEMORY = "32 31 0:29 {shown} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
V1_CORES = "33 31 0:30 {shown} /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset"


def lay(root: Path, membership: str, mount: str, files: dict[str, str]) -> Path:
    """A machine's /proc and control groups below a folder."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"7:pids:/other\n{membership}\n")
    (root / "proc/self/mountinfo").write_text(f"{OTHER}\n{mount}\n")
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    ("membership", "mount", "files", "expected"),
    [
        # A container sees its own group as the topmost one.
        ("0::/", V2.format(shown="/"), {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/", V2.format(shown="/"), {"cpu.max": "max 100000\n"}, None),
        ("0::/", V2.format(shown="/"), {}, None),
        # A service of a machine: the least of all groups above it counts, whichever that is.
        ("0::/a/b", V2.format(shown="/"), {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/a/b", V2.format(shown="/"), {"a/b/cpu.max": "50000 100000", "a/cpu.max": "300000 100000"}, 0.5),
        ("0::/a/b", V2.format(shown="/"), {"c/cpu.max": "50000 100000"}, None),
        # What is mounted may be a group far down: the path begins with it, or is another namespace's.
        ("0::/docker/1f/x", V2.format(shown="/docker/1f"), {"x/cpu.max": "200000 100000"}, 2),
        ("0::/", V2.format(shown="/docker/1f"), {"cpu.max": "200000 100000"}, 2),
        ("0::/../2e", V2.format(shown="/"), {"cpu.max": "200000 100000"}, 2),
        # Version 1 has two files, and -1 for none.
        (
            "4:cpu,cpuacct:/kubepods/pod/c",
            V1.format(shown="/kubepods/pod/c"),
            {"cpu,cpuacct/cpu.cfs_quota_us": "250000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            2.5,
        ),
        (
            "4:cpu,cpuacct:/pod/c",
            V1.format(shown="/"),
            {
                "cpu,cpuacct/pod/c/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/pod/cpu.cfs_quota_us": "100000",
                "cpu,cpuacct/pod/cpu.cfs_period_us": "50000",
            },
            2,
        ),
        # Both versions at once, version 1 having the processors.
        (
            "0::/\n4:cpu,cpuacct:/",
            f"{V2.format(shown='/')}\n{V1.format(shown='/')}",
            {"cpu,cpuacct/cpu.cfs_quota_us": "400000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            4,
        ),
        # A space in a path is written as \040.
        ("0::/", V2.format(shown="/").replace("/sys/fs/cgroup", r"/sys/fs/cgroup/my\040groups"),
         {"my groups/cpu.max": "100000 100000"}, 1),
    ],
)  # fmt: skip
def test_the_least_quota_of_all_groups_counts(
    tmp_path: Path, membership: str, mount: str, files: dict[str, str], expected: float | None
) -> None:
    assert cpu_quota(lay(tmp_path, membership, mount, files)) == expected


@pytest.mark.parametrize(
    ("membership", "mount", "files", "expected"),
    [
        ("0::/", V2.format(shown="/"), {"memory.max": "4294967296\n"}, 4 << 30),
        ("0::/", V2.format(shown="/"), {"memory.max": "max\n"}, None),
        # The least of the groups above, whichever that is.
        (
            "0::/a/b",
            V2.format(shown="/"),
            {"a/b/memory.max": "max", "a/memory.max": "1000", "memory.max": "2000"},
            1000,
        ),
        ("0::/a/b", V2.format(shown="/"), {"a/b/memory.max": "500", "a/memory.max": "1000"}, 500),
        ("0::/a/b", V2.format(shown="/"), {"c/memory.max": "500"}, None),
        # Version 1 says "no limit" by a number. A quota's tree has nothing to say of memory.
        ("4:memory:/c", V1_MEMORY.format(shown="/"), {"memory/c/memory.limit_in_bytes": "9223372036854771712"}, None),
        (
            "4:memory:/docker/1f",
            V1_MEMORY.format(shown="/docker/1f"),
            {"memory/memory.limit_in_bytes": "2147483648", "cpu,cpuacct/memory.limit_in_bytes": "1"},
            2 << 30,
        ),
        (
            "4:memory:/pod/c",
            V1_MEMORY.format(shown="/"),
            {
                "memory/pod/c/memory.limit_in_bytes": "9223372036854771712",
                "memory/pod/memory.limit_in_bytes": "1073741824",
            },
            1 << 30,
        ),
    ],
)
def test_the_least_memory_limit_of_all_groups_counts(
    tmp_path: Path, membership: str, mount: str, files: dict[str, str], expected: int | None
) -> None:
    assert memory_limit(lay(tmp_path, membership, mount, files)) == expected


@pytest.mark.parametrize(
    ("membership", "mount", "files", "expected"),
    [
        ("0::/a", V2.format(shown="/"), {"a/cpuset.cpus.effective": "0-2,8\n"}, {0, 1, 2, 8}),
        ("0::/a", V2.format(shown="/"), {"a/cpuset.cpus.effective": "0-3", "cpuset.cpus.effective": "2-9"}, {2, 3}),
        ("0::/a", V2.format(shown="/"), {"a/cpuset.cpus.effective": "\n"}, None),
        ("0::/a", V2.format(shown="/"), {}, None),
        (
            "4:cpuset:/c",
            V1_CORES.format(shown="/c"),
            {"cpuset/cpuset.cpus": "0-7", "cpuset/cpuset.effective_cpus": "1"},
            {1},
        ),
        ("4:cpuset:/c", V1_CORES.format(shown="/"), {"cpuset/c/cpuset.cpus": "4,6"}, {4, 6}),
    ],
)
def test_a_core_counts_that_all_groups_may_use(
    tmp_path: Path, membership: str, mount: str, files: dict[str, str], expected: set[int] | None
) -> None:
    assert core_set(lay(tmp_path, membership, mount, files)) == expected


def test_a_system_without_control_groups_limits_nothing(tmp_path: Path) -> None:
    assert (cpu_quota(tmp_path), core_set(tmp_path), memory_limit(tmp_path)) == (None, None, None)


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (0.5, 1), (1.0, 1), (2.9, 2), (8.0, 8), (64.0, 8)])
def test_the_cores_that_count_are_what_the_container_may_use(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, cores: int
) -> None:
    monkeypatch.setattr(processes, "cpu_quota", lambda: quota)
    monkeypatch.setattr(processes, "core_set", lambda: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert processes.num_cores() == cores


@pytest.mark.parametrize(("numbers", "cores"), [({0, 1, 2}, 3), ({6, 7, 8}, 2), ({64, 65}, 8)])
def test_a_core_counts_that_is_in_the_affinity_and_in_the_containers_set(
    monkeypatch: pytest.MonkeyPatch, numbers: set[int], cores: int
) -> None:
    monkeypatch.setattr(processes, "cpu_quota", lambda: None)
    monkeypatch.setattr(processes, "core_set", lambda: frozenset(numbers))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert processes.num_cores() == cores
