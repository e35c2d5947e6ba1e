"""What this process may use of its machine. Ray, and the machine itself, count more than that."""

import functools
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import psutil

from runner.process.control_groups import memory_limit
from runner.process.processes import num_cores

_DEVICES = Path("/dev")
_GPU_DEVICES = ("nvidia[0-9]*", "nvidiactl", "kfd", "dxg")  # NVIDIA, AMD, either below Windows
_HIDING_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


class Machine(NamedTuple):
    """What a process may use of its machine.

    Attributes:
        cores: by its affinity, and by its container's set of cores and quota of time.
        memory: bytes, of the machine or, where that is less, of the container.
        swap: bytes that the machine has besides.
        gpus: those that torch can use.
        has_gpu_device: whether the system shows a GPU, which torch may be unable to use.
        gpu_problem: why torch can use none; "" where it can.
    """

    cores: int
    memory: int
    swap: int
    gpus: int
    has_gpu_device: bool
    gpu_problem: str


def look_at_machine() -> Machine:
    """Looks at the machine of this process. torch, which takes seconds, is loaded only where there are GPU devices."""
    physical, limit = psutil.virtual_memory().total, memory_limit()
    memory = physical if limit is None else min(physical, limit)

    has_device = any(device for pattern in _GPU_DEVICES for device in _DEVICES.glob(pattern))
    gpus, problem = _usable_gpus() if has_device else (0, "it has no GPU device")
    return Machine(num_cores(), memory, _swap(), gpus, has_device, problem)


@functools.cache
def _swap() -> int:
    with warnings.catch_warnings(action="ignore"):  # psutil misses counters, which we don't use, in some containers
        return psutil.swap_memory().total


@functools.cache  # torch counts once in a process, and says no more than once what keeps it from counting
def _usable_gpus() -> tuple[int, str]:
    """How many GPUs torch can use, and why that is none."""
    import torch

    # torch says by a warning what is wrong with a driver.
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        return count, ""

    if torch.version.cuda is None and torch.version.hip is None:
        return 0, "its torch is built for processors only"
    for name in _HIDING_VARIABLES:
        if (value := os.environ.get(name)) is not None:
            return 0, f"{name} is {value!r} there"
    return 0, f"torch says: {_first_sentence(said)}" if said else "torch finds no driver for it"


def _first_sentence(said: list[warnings.WarningMessage]) -> str:
    """What the first warning says, without its remedies."""
    return str(said[0].message).split(". ")[0].split(" (Triggered")[0]
