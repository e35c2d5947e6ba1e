"""What a cluster has, what of it is in use, and what it may get."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from runner.number_format import counted
from runner.on_ray.private import has_autoscaler, node_types
from runner.process.machine import Machine
from runner.trial.resources import Node, TrialResources

# What the resources that Ray makes of a GPU's type begin with.
_ACCELERATOR_TYPE = "accelerator_type:"


class ClusterMachines:
    """The machines of the cluster that this process has joined."""

    def __init__(self, looked_at: Mapping[str, Machine]) -> None:
        """Takes what check_nodes found on each; a node that is not among them has what Ray counts."""
        self._looked_at = looked_at

    def nodes(self) -> Sequence[Node]:
        """Those that are alive."""
        alive = {node["NodeID"]: _counted_by_ray(node) for node in ray.nodes() if node["Alive"]}
        looked_at = self._looked_at
        return [node.with_machine(looked_at[name]) if name in looked_at else node for name, node in alive.items()]

    def possible_nodes(self) -> Sequence[Node] | None:
        """Those that the cluster may have at most; None where it does not say."""
        types = node_types()
        if types is None:
            return None
        started = [Node(kind.get("CPU", 0), kind.get("GPU", 0)) for kind, count in types for _ in range(count)]
        return [*self.nodes(), *started]

    def may_grow(self, resource: str = "CPU") -> bool:
        """True where an autoscaler adds machines with this resource, or with what nobody knows."""
        types = node_types()
        if types is None:
            return has_autoscaler()
        return any(kind.get(resource, 0) > 0 and count > 0 for kind, count in types)

    @contextlib.contextmanager
    def demand(self, trial: TrialResources) -> Iterator[None]:
        """Inside the block, the cluster's autoscaler is asked for what a trial needs."""
        bundle = {"CPU": float(trial.cpus_per_worker), "GPU": trial.gpus_per_worker}
        bundles = [{name: amount for name, amount in bundle.items() if amount}] * trial.workers
        if trial.accelerator_type:
            bundles = [bundle | {f"{_ACCELERATOR_TYPE}{trial.accelerator_type}": 0.001} for bundle in bundles]
        labels = [dict(trial.label_selector)] * trial.workers if trial.label_selector else None
        # It is never used: it shows the need, and goes with this process in any case.
        group = placement_group(bundles, bundle_label_selector=labels)
        try:
            yield
        finally:
            remove_placement_group(group)

    def usage(self) -> str:
        """How much of it is in use, for people."""
        there, free = ray.cluster_resources(), ray.available_resources()
        cores, gpus = (there.get(name, 0) for name in ("CPU", "GPU"))
        used = [f"{cores - free.get('CPU', 0):g} of {counted(int(cores), 'core')}"]
        if gpus:
            used.append(f"{gpus - free.get('GPU', 0):g} of {counted(int(gpus), 'GPU')}")
        return f"{' and '.join(used)} of the cluster are in use"


def node_name(node: Mapping[str, Any]) -> str:
    """How messages call one of ray.nodes()."""
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"


def _counted_by_ray(node: Mapping[str, Any]) -> Node:
    resources = node["Resources"]
    types = [name.removeprefix(_ACCELERATOR_TYPE) for name in resources if name.startswith(_ACCELERATOR_TYPE)]
    return Node(
        resources.get("CPU", 0),
        resources.get("GPU", 0),
        name=node_name(node),
        labels=node.get("Labels", {}),
        accelerator_types=types,
    )
