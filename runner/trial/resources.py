"""What a trial is given, and whether that can ever be had."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from runner.config.label_selector import has_labels
from runner.config.schema import Resources
from runner.errors import ResourceError
from runner.number_format import byte_size, counted
from runner.process.machine import Machine, look_at_machine
from runner.trial.memory import TrainingShape, WorkerMemory, most_expected, worker_memory

_MAX_AUTO_CPUS_PER_GPU = 8
_MAX_NODES_SHOWN = 8
_NODE_ID = "ray.io/node-id"


class Node(NamedTuple):
    """One machine that trials may run on.

    Attributes:
        cpus: cores that can be used: of what Ray counts and what its processes may use, the lesser.
        gpus: the same of GPUs.
        name: how messages call it; "" for the machine that the command runs on.
        memory: bytes that its processes may use; infinite where that is not known.
        swap: bytes beyond these.
        ray_cpus: what Ray counts, by which it places workers; None where that is the same.
        ray_gpus: the same of GPUs.
        gpu_problem: why torch can use no GPU; "" where it can, or where that is not known.
        has_gpu_device: whether the system shows a GPU, even one that torch can't use.
        labels: Ray's, the cluster's own and those of `ray start --labels`.
        accelerator_types: what Ray calls the node's GPUs, such as A100.
    """

    cpus: float
    gpus: float
    name: str = ""
    memory: float = math.inf
    swap: float = 0
    ray_cpus: float | None = None
    ray_gpus: float | None = None
    gpu_problem: str = ""
    has_gpu_device: bool = False
    labels: Mapping[str, str] = {}
    accelerator_types: Sequence[str] = ()

    def with_machine(self, machine: Machine) -> "Node":
        """The node with what its processes say that they may use, where so far it has what Ray counts."""
        return self._replace(
            cpus=min(self.cpus, machine.cores),
            gpus=min(self.gpus, machine.gpus),
            memory=machine.memory,
            swap=machine.swap,
            ray_cpus=self.cpus,
            ray_gpus=self.gpus,
            gpu_problem=machine.gpu_problem,
            has_gpu_device=machine.has_gpu_device,
        )


class TrialResources(NamedTuple):
    """What each worker of a trial gets, and how many trials run at once.

    Attributes:
        accelerator_type: of the nodes that workers may run on, Ray's word; None for any.
        label_selector: labels that these nodes have.
        notes: what the person may not expect of the machines, a sentence each.
    """

    workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    max_concurrent: int
    accelerator_type: str | None = None
    label_selector: Mapping[str, str] = {}
    notes: Sequence[str] = ()

    @property
    def device(self) -> str:
        """cuda or cpu."""
        return "cuda" if self.gpus_per_worker > 0 else "cpu"

    def describe(self) -> str:
        """For the console: which device, how much of it, how many trials at once; and the notes, a line each."""
        unit = "GPU" if self.gpus_per_worker > 0 else "processor cores (no GPU is used)"
        given = f"{self.gpus_per_worker:g} GPU and " if self.gpus_per_worker > 0 else ""
        first = (
            f"training on {unit}: {counted(self.workers, 'worker')} a trial with {given}"
            f"{counted(self.cpus_per_worker, 'core')} each, {counted(self.max_concurrent, 'trial')} at a time"
        )
        return "\n".join([first, *(f"note: {note}" for note in self.notes)])


class NoRoom(ResourceError):
    """The machines that there are can't hold one trial; others may come.

    Attributes:
        problem: the error without its remedy, on a line.
        trial: what one needs at least.
    """

    def __init__(self, problem: str, remedy: str, wanted: Resources) -> None:
        super().__init__(f"{problem}{remedy}")
        self.problem = problem.splitlines()[0].removeprefix("resources: ").removesuffix(":")
        self.trial = TrialResources(
            wanted.workers,
            1 if wanted.cpus_per_worker == "auto" else wanted.cpus_per_worker,
            0.0 if wanted.gpus_per_worker == "auto" else wanted.gpus_per_worker,
            1,
            wanted.accelerator_type,
            wanted.label_selector,
        )


def this_machine() -> Node:
    """The machine that this process runs on."""
    machine = look_at_machine()
    return Node(machine.cores, machine.gpus).with_machine(machine)


def resolve_resources(
    resources: Resources, nodes: Sequence[Node], num_trials: int, shapes: Collection[TrainingShape] = ()
) -> TrialResources:
    """Resolves `auto` as a fixed function of the cluster and the config, never of what is left to run.

    A GPU for each worker where there are GPUs; without, the cores are shared among all trials of the
    experiment, so that as many run at once as there are cores: two trials with a core each do more in an
    hour than one after the other with two, 1.04 to 1.7 times as much on the two cores where it was measured, for
    a step has parts that one core does alone. A trial by itself has them all.

    Without a GPU no more trials run at once than memory is estimated to hold. A number that is given as
    resources.max_concurrent counts more than the estimate. Refused is only what no machine holds by what is sure to be
    needed, swap included: a wrong refusal is worse than a trial that runs out of memory and says so.

    Args:
        num_trials: all that the experiment has, finished ones included.
        shapes: of all these trials; none where memory is not to be looked at.

    Raises:
        NoRoom: the machines can't hold one trial, whatever runs on them now.
        ResourceError: a node has fewer GPUs than Ray would place workers on.
    """
    nodes = _chosen(resources, nodes)
    gpus = resources.gpus_per_worker
    if gpus != 0:
        _refuse_unusable_gpus(nodes)
    if gpus == "auto":
        gpus = 1.0 if any(node.gpus >= 1 for node in nodes) else 0.0
    # A machine that can't host a worker must not count for a worker's share.
    hosts = [node for node in nodes if node.gpus >= gpus and node.cpus >= _least_cpus(resources)]

    # How many trials may run at once: as many as there are, as were asked for, and as memory holds.
    given = resources.max_concurrent
    at_once = num_trials if given == "auto" else min(given, num_trials)
    notes = _notes_on_nodes(hosts, gpus)
    memory = None if gpus else _memory_to_watch(hosts, resources.workers * at_once, shapes)
    if memory is not None:
        _refuse_too_large(resources, hosts, memory)
        held = max(1, sum(_num_held(node, memory) for node in hosts) // resources.workers)
        with_cores = sum(int(node.cpus // _least_cpus(resources)) for node in hosts) // resources.workers
        if given == "auto" and held < min(at_once, with_cores):
            at_once = held
            notes.append(
                f"memory holds {counted(held, 'trial')} at a time: a worker is expected to take "
                f"{byte_size(memory.expected)}; resources.max_concurrent sets another number"
            )
        notes += _notes_on_tight_memory(hosts, memory)

    cpus = resources.cpus_per_worker
    if cpus == "auto":
        cpus = _auto_cpus(hosts, gpus, resources.workers * at_once)

    # By what the machines have, whatever runs on them now.
    num_fitting = sum(_num_fitting(node, cpus, gpus) for node in nodes)
    if num_fitting < resources.workers:
        raise NoRoom(
            f"resources: each trial needs {counted(resources.workers, 'worker')} with {counted(cpus, 'core')} and "
            f"{_gpus(gpus)} each, but there is room for {num_fitting} on {_describe_nodes(nodes)}",
            ". Lower resources.workers, cpus_per_worker or gpus_per_worker, or add machines.",
            resources,
        )
    return TrialResources(
        resources.workers,
        cpus,
        gpus,
        max(1, min(num_fitting // resources.workers, at_once)),
        resources.accelerator_type,
        resources.label_selector,
        notes,
    )


def _chosen(resources: Resources, nodes: Sequence[Node]) -> Sequence[Node]:
    """The nodes with the accelerator type and the labels that were asked for."""
    wanted, selector = resources.accelerator_type, resources.label_selector
    if wanted is None and not selector:
        return nodes
    asked = []
    if wanted is not None:
        asked.append(f"resources.accelerator_type is {wanted!r}")
    if selector:
        asked.append(f"resources.label_selector is {_describe_labels(selector)}")
    if any(not node.name for node in nodes):
        raise ResourceError(
            f"{' and '.join(asked)}, but there is one machine alone, and nothing to choose from. Join a cluster with "
            "--address, or leave it out: --set resources.accelerator_type=null, --set resources.label_selector={}."
        )

    chosen = [
        node
        for node in nodes
        if (wanted is None or wanted in node.accelerator_types) and has_labels(node.labels, selector)
    ]
    if nodes and not chosen:
        lines = [
            f"  {node.name}: accelerator type {', '.join(node.accelerator_types) or 'none'}; labels "
            f"{_describe_labels(node.labels, hides_id=True) or 'none'}"
            for node in nodes
        ]
        raise NoRoom(
            "\n".join([f"{' and '.join(asked)}, but no node of the cluster has that:", *_first_of(lines)]),
            "\nUse what is there, or add such nodes: `ray start --labels NAME=VALUE` gives a node labels.",
            resources,
        )
    return chosen


def _refuse_unusable_gpus(nodes: Sequence[Node]) -> None:
    """Raises ResourceError where Ray would give a worker a GPU that torch can't use there."""
    broken = [node for node in nodes if node.ray_gpus is not None and node.gpus < node.ray_gpus]
    if not broken:
        return

    lines = [
        f"  {node.name}: Ray counts {_gpus(node.ray_gpus or 0)}, but torch can use "
        f"{_gpus(node.gpus)}{f': {node.gpu_problem}' if node.gpu_problem else ''}"
        for node in broken
    ]
    sound = [f"{_gpus(node.gpus)} on {node.name}" for node in nodes if node.gpus and node not in broken]
    rest = f" GPUs that can be used: {', '.join(_first_of(sound))}." if sound else " No other GPU can be used."
    raise ResourceError(
        "\n".join(["resources: workers would be placed on GPUs that they can't use:", *_first_of(lines)])
        + f"\nMend that, take the node out of the cluster, or start its Ray with --num-gpus 0.{rest} On processors: "
        "--set resources.gpus_per_worker=0."
    )


def _notes_on_nodes(hosts: Sequence[Node], gpus: float) -> list[str]:
    """What of the machines is not as Ray counts it, or not as it seems."""
    notes = [
        f"{node.name}: Ray counts {counted(int(node.ray_cpus), 'core')}, but its processes may use {node.cpus:g}; "
        f"start its Ray with --num-cpus {node.cpus:g}, or it gets more workers than it has cores"
        for node in hosts
        if node.ray_cpus is not None and node.cpus < node.ray_cpus
    ]
    if not gpus:
        notes += [
            f"{_named(node)} has a GPU that is not used: {node.gpu_problem}"
            for node in hosts
            if node.has_gpu_device and node.gpu_problem
        ]
    return _first_of(notes)


def _memory_to_watch(hosts: Sequence[Node], num_workers: int, shapes: Collection[TrainingShape]) -> WorkerMemory | None:
    """What a worker takes; None where all that can run at once fits for sure, which is known without loading torch."""
    most = most_expected(shapes)
    if all(most * min(max(1, int(node.cpus)), num_workers) <= node.memory for node in hosts):
        return None
    return worker_memory(shapes)


def _refuse_too_large(resources: Resources, hosts: Sequence[Node], memory: WorkerMemory) -> None:
    """Raises NoRoom where no machine can hold a worker, whatever it does."""
    largest = max(hosts, key=lambda node: node.memory + node.swap, default=None)
    if largest is None or memory.least <= largest.memory + largest.swap:
        return
    swap = f" and {byte_size(largest.swap)} of swap" if largest.swap else ""
    raise NoRoom(
        f"resources: a worker needs more than {byte_size(memory.least)} of memory for "
        f"{memory.shape.describe_model()}, but {_named(largest)} may use {byte_size(largest.memory)}{swap}"
        f"{', and no other node more' if len(hosts) > 1 else ''}",
        ". Lower one of them, or use a machine with more memory.",
        resources,
    )


def _notes_on_tight_memory(hosts: Sequence[Node], memory: WorkerMemory) -> list[str]:
    """Where even one worker may be too much."""
    notes = [
        f"memory may not do on {_named(node)}: a worker is expected to take {byte_size(memory.expected)}, and it may "
        f"use {byte_size(node.memory)}; a smaller training.batch_size, model.channels or data.patch_size takes less"
        for node in hosts
        if node.memory + node.swap < memory.expected
    ]
    return _first_of(notes)


def _named(node: Node) -> str:
    return node.name or "this machine"


def _num_held(node: Node, memory: WorkerMemory) -> int:
    """Workers that a node's memory holds; where that is not known, as many as it has cores."""
    return int(node.memory // memory.expected) if math.isfinite(node.memory) else int(node.cpus)


def _least_cpus(resources: Resources) -> int:
    """Cores that a worker gets at least."""
    return 1 if resources.cpus_per_worker == "auto" else resources.cpus_per_worker


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
    machines = [
        f"{node.name or 'a machine'} with {counted(int(node.cpus), 'core')} and {_gpus(node.gpus)}"
        f"{f' ({node.gpu_problem})' if node.has_gpu_device and node.gpu_problem else ''}"
        for node in nodes
    ]
    return ", ".join(_first_of(machines)) or "no machine"


def _describe_labels(labels: Mapping[str, str], *, hides_id: bool = False) -> str:
    """Labels, or what is asked of them, in a line; without the one that Ray gives each node anew, if that is hidden."""
    shown = {name: value for name, value in labels.items() if not (hides_id and name == _NODE_ID)}
    return ", ".join(f"{name}={value}" for name, value in sorted(shown.items()))


def _first_of(lines: Sequence[str]) -> list[str]:
    """Not more lines than a person reads."""
    more = len(lines) - _MAX_NODES_SHOWN
    return [*lines[:_MAX_NODES_SHOWN], *([f"and {more} more"] if more > 0 else [])]


def _gpus(count: float) -> str:
    """`no GPU`, `0.5 GPU`, `1 GPU`, `2 GPUs`."""
    return "no GPU" if count == 0 else f"{count:g} GPU{'s' * (count > 1)}"
