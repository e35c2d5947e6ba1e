"""Signals to the workers of a run: on this machine, or wherever they are on a cluster."""

from typing import Any, Protocol

from runner.drill.command_run import CommandRun
from runner.drill.processes import WORKER_TITLE, kill_worker_during_write, processes_titled, signal_worker
from runner.records.starts import read_starts
from runner.storage.folder import TEMPORARY, Storage


class Reach(Protocol):
    """What a fault needs of the place where workers run."""

    def signal(self, command: CommandRun, trial: Storage, number: int) -> bool:
        """Signals the trial's worker; False where there is none at the moment."""

    def kill_during_write(self, command: CommandRun, trial: Storage, folder: str, within_s: float) -> bool:
        """Kills the worker as it begins to write something new into that folder of the trial; False if it did not."""


class ThisMachine:
    """Workers of a Ray that the command itself started."""

    def signal(self, command: CommandRun, trial: Storage, number: int) -> bool:
        """By the session that they share with the command."""
        return any(signal_worker(pid, number) for pid in processes_titled(command.session, WORKER_TITLE))

    def kill_during_write(self, command: CommandRun, trial: Storage, folder: str, within_s: float) -> bool:
        """By watching the folder from here."""
        workers = processes_titled(command.session, WORKER_TITLE)
        return bool(workers) and kill_worker_during_write(
            workers[-1], str(trial.at(folder).local_path), TEMPORARY, within_s
        )


class Cluster:
    """Workers on any node of a Ray cluster, reached by a task pinned to the node that a start names."""

    def __init__(self, address: str) -> None:
        from runner.on_ray.cluster import start_ray

        start_ray(address, token="", dashboard=False)

    def signal(self, command: CommandRun, trial: Storage, number: int) -> bool:
        """By the process number that the last start noted."""
        return self._on_its_node(trial, signal_worker, number)

    def kill_during_write(self, command: CommandRun, trial: Storage, folder: str, within_s: float) -> bool:
        """By watching the folder from the worker's own node."""
        return self._on_its_node(trial, kill_worker_during_write, str(trial.at(folder).local_path), TEMPORARY, within_s)

    def num_nodes(self) -> int:
        """Machines that are alive."""
        import ray

        return sum(node["Alive"] for node in ray.nodes())

    def close(self) -> None:
        """Leaves the cluster."""
        from runner.on_ray.cluster import stop_ray

        stop_ray()

    def _on_its_node(self, trial: Storage, work: Any, *arguments: Any) -> bool:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        start = read_starts(trial)[-1]
        nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeManagerHostname"] == start["host"]]
        for node in nodes:
            pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(work).options(num_cpus=0, max_retries=0, scheduling_strategy=pinned)
            if ray.get(task.remote(start["pid"], *arguments)):
                return True
        return False
