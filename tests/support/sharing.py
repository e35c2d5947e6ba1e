"""How the processes of one test run share the work: which tests each begins with, and what only one of them makes."""

import fcntl
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def deal(items: list[pytest.Item], num_processes: int) -> list[pytest.Item]:
    """The tests in the order in which `pytest -n N --dist worksteal` balances best.

    It gives each process an equal part of the list, in order, and a process that is done takes from the end of
    another's part. So each part begins with long tests and ends with short ones, and the tests of a module, which
    share what is made for them, stay together.
    """
    ray = [[item] for item in items if item.get_closest_marker("ray")]
    others = [item for item in items if not item.get_closest_marker("ray")]
    slow = [item for item in others if item.get_closest_marker("slow")]
    quick = [item for item in others if not item.get_closest_marker("slow")]
    slow_modules = [list(group) for _, group in itertools.groupby(slow, lambda item: item.path)]

    parts: list[list[pytest.Item]] = [[] for _ in range(num_processes)]
    for groups in (ray, slow_modules):
        for number, group in enumerate(groups):
            parts[number % num_processes] += group

    for number, part in enumerate(parts):
        done = sum(map(len, parts[:number]))
        size = (len(items) - done) // (num_processes - number)
        missing = max(size - len(part), 0)
        part += quick[:missing]
        del quick[:missing]
    dealt = [item for part in parts for item in part]
    assert len(dealt) == len(items), "no test may be lost here"
    return dealt


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that one of the test run's processes fills with `make`; all of them read it, and none changes it."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, is_made = base / name, base / f"{name}.made"
    with open(base / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_made.exists():
            folder.mkdir()
            make(folder)
            is_made.touch()
    return folder
