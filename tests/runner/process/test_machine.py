"""What a process may use of its machine, seen by a process that may use less, and where torch can't use a GPU."""

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from runner.process import machine
from runner.process.machine import look_at_machine
from tests.support.commands import ROOT

LOOK = """
import os, sys
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
from runner.process.machine import look_at_machine
print(look_at_machine().cores, "torch" in sys.modules)
"""


@pytest.mark.skipif(bool(list(Path("/dev").glob("nvidia*"))), reason="torch is asked where there is a GPU")
def test_a_process_that_may_use_one_core_has_one_and_loads_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]


def test_memory_is_that_of_the_container_where_it_has_less_than_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    physical = psutil.virtual_memory().total
    for limit, expected in ((None, physical), (1 << 60, physical), (1 << 20, 1 << 20)):
        monkeypatch.setattr(machine, "memory_limit", lambda limit=limit: limit)
        assert look_at_machine().memory == expected


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that shows a GPU, and none of the variables that hide it."""
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(machine, "_DEVICES", tmp_path)
    for name in machine._HIDING_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    machine._usable_gpus.cache_clear()
    yield
    machine._usable_gpus.cache_clear()


def test_without_a_device_torch_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_DEVICES", tmp_path)
    seen = look_at_machine()
    assert (seen.gpus, seen.has_gpu_device, seen.gpu_problem) == (0, False, "it has no GPU device")


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(
    ("cuda", "variables", "warning", "problem"),
    [
        (None, {}, "", "its torch is built for processors only"),
        ("13.0", {"CUDA_VISIBLE_DEVICES": ""}, "", "CUDA_VISIBLE_DEVICES is '' there"),
        ("13.0", {"HIP_VISIBLE_DEVICES": "-1"}, "", "HIP_VISIBLE_DEVICES is '-1' there"),
        (
            "13.0",
            {},
            "The driver is too old (found 1). Please update it.",
            "torch says: The driver is too old (found 1)",
        ),
        ("13.0", {}, "", "torch finds no driver for it"),
    ],
)
def test_it_is_said_why_torch_can_not_use_a_gpu(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, variables: dict[str, str], warning: str, problem: str
) -> None:
    import torch

    def is_available() -> bool:
        if warning:
            warnings.warn(warning, stacklevel=2)
        return False

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    seen = look_at_machine()
    assert (seen.gpus, seen.has_gpu_device, seen.gpu_problem) == (0, True, problem)


@pytest.mark.usefixtures("device")
def test_the_gpus_that_count_are_those_that_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    seen = look_at_machine()
    assert (seen.gpus, seen.has_gpu_device, seen.gpu_problem) == (3, True, "")
