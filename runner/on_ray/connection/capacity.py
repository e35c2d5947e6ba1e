"""What a cluster has, what of it is in use, and what it may get."""

import contextlib
from collections.abc import Iterator, Sequence

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from runner.number_format import counted
from runner.on_ray.private import has_autoscaler, node_types
from runner.trial.resources import Node, TrialResources


class ClusterMachines:
    """The machines of the Ray that this process has joined or started.

    Args:
        may_change: whether machines may come: not to a Ray of our own.
    """

    def __init__(self, *, may_change: bool) -> None:
        self._may_change = may_change

    def nodes(self) -> Sequence[Node]:
        """Those that are alive."""
        return [
            Node(node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0))
            for node in ray.nodes()
            if node["Alive"]
        ]

    def possible_nodes(self) -> Sequence[Node] | None:
        """Those that the cluster may have at most; None where it does not say."""
        if not self._may_change:
            return self.nodes()
        types = node_types()
        if types is None:
            return None
        started = [Node(kind.get("CPU", 0), kind.get("GPU", 0)) for kind, count in types for _ in range(count)]
        return [*self.nodes(), *started]

    def may_grow(self, resource: str = "CPU") -> bool:
        """True where an autoscaler adds machines with this resource, or with what nobody knows."""
        if not self._may_change:
            return False
        types = node_types()
        if types is None:
            return has_autoscaler()
        return any(kind.get(resource, 0) > 0 and count > 0 for kind, count in types)

    @contextlib.contextmanager
    def demand(self, trial: TrialResources) -> Iterator[None]:
        """Inside the block, the cluster's autoscaler is asked for what a trial needs."""
        bundle = {"CPU": float(trial.cpus_per_worker), "GPU": trial.gpus_per_worker}
        bundles = [{name: amount for name, amount in bundle.items() if amount}] * trial.workers
        # It is never used: it shows the need, and goes with this process in any case.
        group = placement_group(bundles)
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
