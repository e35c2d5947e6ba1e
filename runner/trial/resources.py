"""What a trial is given, and whether that can ever be had."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from runner.config.schema import Resources
from runner.errors import ResourceError
from runner.number_format import counted
from runner.process.processes import num_cores

_MAX_AUTO_CPUS_PER_GPU = 8
_GPU_DEVICES = ("nvidia[0-9]*", "nvidiactl", "kfd", "dxg")  # NVIDIA, AMD, either below Windows


class Node(NamedTuple):
    """One machine of the cluster."""

    cpus: float
    gpus: float


class TrialResources(NamedTuple):
    """What each worker of a trial gets, and how many trials run at once."""

    workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    max_concurrent: int

    @property
    def device(self) -> str:
        """cuda or cpu."""
        return "cuda" if self.gpus_per_worker > 0 else "cpu"

    def describe(self) -> str:
        """For the console: which device, how much of it, how many trials at once."""
        unit = "GPU" if self.gpus_per_worker > 0 else "processor cores (no GPU is used)"
        given = f"{self.gpus_per_worker:g} GPU and " if self.gpus_per_worker > 0 else ""
        return (
            f"training on {unit}: {counted(self.workers, 'worker')} a trial with {given}"
            f"{counted(self.cpus_per_worker, 'core')} each, {counted(self.max_concurrent, 'trial')} at a time"
        )


class NoRoom(ResourceError):
    """The machines that there are can't hold one trial.

    Attributes:
        trial: what it needs.
        problem: the error without its remedy.
    """

    def __init__(self, trial: TrialResources, there_is: str) -> None:
        self.trial = trial
        self.problem = (
            f"each trial needs {counted(trial.workers, 'worker')} with {counted(trial.cpus_per_worker, 'core')} and "
            f"{_gpus(trial.gpus_per_worker)} each, but {there_is}"
        )
        super().__init__(
            f"resources: {self.problem}. Lower resources.workers, cpus_per_worker or gpus_per_worker, or add machines."
        )


def this_machine() -> Node:
    """The cores that this process may use, and the GPUs that torch sees; torch is asked where there may be some."""
    if not any(device for pattern in _GPU_DEVICES for device in Path("/dev").glob(pattern)):
        return Node(num_cores(), 0)
    import torch

    return Node(num_cores(), torch.cuda.device_count())


def resolve_resources(resources: Resources, nodes: Sequence[Node], num_trials: int) -> TrialResources:
    """Resolves `auto` as a fixed function of the cluster and the config, never of what is left to run.

    A GPU for each worker where there are GPUs; without, the cores are shared among all trials of the
    experiment, so that as many run at once as there are cores: two trials with a core each do more in an
    hour than one after the other with two, 1.04 to 1.7 times as much on the two cores where it was measured, for
    a step has parts that one core does alone. A trial by itself has them all.

    Args:
        num_trials: all that the experiment has, finished ones included.

    Raises:
        NoRoom: the machines can't hold one trial, whatever runs on them now.
    """
    gpus = resources.gpus_per_worker
    if gpus == "auto":
        gpus = 1.0 if any(node.gpus >= 1 for node in nodes) else 0.0
    # The cores of a machine that can't host a worker must not count for a worker's share.
    hosts = [node for node in nodes if node.gpus >= gpus] if gpus else list(nodes)
    cpus = resources.cpus_per_worker
    if cpus == "auto":
        cpus = _auto_cpus(hosts, gpus, resources.workers * num_trials)

    # By what the machines have, whatever runs on them now.
    num_fitting = sum(_num_fitting(node, cpus, gpus) for node in nodes)
    trial = TrialResources(resources.workers, cpus, gpus, max(1, min(num_fitting // resources.workers, num_trials)))
    if num_fitting < resources.workers:
        raise NoRoom(trial, f"there is room for {num_fitting} on {_describe_nodes(nodes)}")
    return trial


def _auto_cpus(hosts: Sequence[Node], gpus: float, num_workers: int) -> int:
    """A GPU's worker gets its share of the machine's cores; without GPUs the workers of all trials share them."""
    if not hosts:
        return 1
    if gpus:
        # The smallest share fits on every machine, with all of its GPUs in use.
        shares = [int(node.cpus * gpus // node.gpus) for node in hosts]
        return max(1, min(_MAX_AUTO_CPUS_PER_GPU, *shares))
    # -(-a // b) is a / b, rounded up: the workers of a machine, where all machines take the same number.
    return max(1, int(max(node.cpus for node in hosts)) // -(-num_workers // len(hosts)))


def _num_fitting(node: Node, cpus: int, gpus: float) -> int:
    """Workers that fit on a machine; a fraction of a GPU never spans two."""
    by_cpu = int(node.cpus // cpus)
    if not gpus:
        return by_cpu
    # With 0.3 GPU a worker, a GPU takes int(1 // 0.3) = 3 workers, and the rest of it stays unused.
    by_gpu = int(node.gpus // gpus) if gpus >= 1 else int(node.gpus) * int(1 // gpus)
    return min(by_cpu, by_gpu)


def _describe_nodes(nodes: Sequence[Node]) -> str:
    """What is there, for an error."""
    machines = [f"a machine with {counted(int(node.cpus), 'core')} and {_gpus(node.gpus)}" for node in nodes]
    return ", ".join(machines) or "no machine"


def _gpus(count: float) -> str:
    """`no GPU`, `0.5 GPU`, `1 GPU`, `2 GPUs`."""
    return "no GPU" if count == 0 else f"{count:g} GPU{'s' * (count > 1)}"
