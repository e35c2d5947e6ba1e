"""Signals to the workers of a run, on this machine or on any node of a cluster."""

from typing import Any, Protocol

from runner.drill.command_run import CommandRun
from runner.drill.processes import kill_worker_during_write, processes_titled, signal_worker
from runner.on_ray.private import WORKER_TITLE
from runner.records.starts import read_starts
from runner.storage.run_folder import CHECKPOINTS, MANIFEST
from runner.storage.storage import Storage


class Workers(Protocol):
    """What a fault can do to the workers of a run."""

    def signal(self, command: CommandRun, trial: Storage, number: int) -> bool:
        """Sends a signal to the trial's worker. False where it has none at the moment."""

    def kill_during_write(self, command: CommandRun, trial: Storage, within_s: float) -> bool:
        """Kills the worker when it begins to write a checkpoint.

        Returns:
            False where it wrote nothing within `within_s` seconds.
        """


class LocalWorkers:
    """Workers on a local Ray that the command itself started. They are in the session of the command."""

    def signal(self, command: CommandRun, trial: Storage, number: int) -> bool:
        """Sends a signal to the worker."""
        # One worker at a time has this title, apart from one that is just ending.
        return any(signal_worker(pid, number) for pid in processes_titled(command.session, WORKER_TITLE))

    def kill_during_write(self, command: CommandRun, trial: Storage, within_s: float) -> bool:
        """Watches the storage from this process."""
        workers = processes_titled(command.session, WORKER_TITLE)
        # psutil sorts by process number, so the last worker is normally the newest one.
        return bool(workers) and kill_worker_during_write(workers[-1], trial.at(CHECKPOINTS), MANIFEST, within_s)


class ClusterWorkers:
    """Workers on any node of a Ray cluster. A Ray task on the worker's node does the work."""

    def __init__(self, address: str) -> None:
        # Loaded here, because only a drill on a cluster needs Ray in this process.
        from runner.on_ray.connection.cluster import start_ray

        start_ray(address, token="", dashboard=False)

    def signal(self, command: CommandRun, trial: Storage, number: int) -> bool:
        """Sends a signal to the process that the trial's last start has recorded."""
        return self._on_worker_node(trial, signal_worker, number)

    def kill_during_write(self, command: CommandRun, trial: Storage, within_s: float) -> bool:
        """Watches the storage from the worker's node, because a network drive shows new files late."""
        return self._on_worker_node(trial, kill_worker_during_write, trial.at(CHECKPOINTS), MANIFEST, within_s)

    def num_nodes(self) -> int:
        """The number of machines that are alive."""
        import ray

        return sum(node["Alive"] for node in ray.nodes())

    def close(self) -> None:
        """Disconnects from the cluster."""
        from runner.on_ray.connection.cluster import stop_ray

        stop_ray()

    def _on_worker_node(self, trial: Storage, work: Any, *arguments: Any) -> bool:
        """Calls `work(pid, *arguments)` on the node of the trial's last start. True where it returned True."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Several nodes may have the same host name.
        start = read_starts(trial)[-1]
        nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeManagerHostname"] == start["host"]]
        for node in nodes:
            # soft=False: the task must not move to another node, where the process number means another process.
            pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            # No cores, because the training may hold all of them. No retries, so that a signal is sent once.
            task = ray.remote(work).options(num_cpus=0, max_retries=0, scheduling_strategy=pinned)
            if ray.get(task.remote(start["pid"], *arguments)):
                return True
        return False
