"""A Ray cluster with two nodes on this machine. One of the nodes can be preempted with notice.

The cluster runs in a separate process, `python -m runner.drill.two_nodes`. It prints the cluster's address. A line
`PID SECONDS` on its standard input drains the node of that worker, as a cloud does before it takes a machine away. The
end of the input ends the cluster.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from runner.drill.processes import kill_session
from runner.drill.target_run import NotTried
from runner.on_ray.private import RAYLET, node_drainer


class TwoNodes:
    """A running cluster.

    Attributes:
        address: what a command gets as --address.
    """

    def __init__(self, process: "subprocess.Popen[str]", address: str) -> None:
        self._process = process
        self.address = address

    def preempt(self, worker: int, notice_s: float) -> None:
        """Tells Ray that the node of a worker will be gone in `notice_s` seconds.

        Args:
            worker: the process number of the worker.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{worker} {notice_s}\n")
        self._process.stdin.flush()


@contextlib.contextmanager
def two_nodes(log: Path) -> Iterator[TwoNodes]:
    """A cluster that ends with the block, with all its processes. Raises NotTried where it can't be started.

    Args:
        log: a file for what the cluster's processes print.
    """
    with open(log, "wb") as stream:
        # In a session of its own, by which all processes of the cluster are found at the end.
        process = subprocess.Popen(
            [sys.executable, "-m", "runner.drill.two_nodes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            start_new_session=True,
        )

    try:
        assert process.stdout is not None
        # The line comes once the cluster is complete. It is empty where the process has ended.
        address = process.stdout.readline().strip()
        if not address:
            raise NotTried(f"a cluster of two nodes could not be started; see {log}")
        yield TwoNodes(process, address)
    finally:
        # The cluster's processes do not end with the process that started them.
        process.kill()
        kill_session(process.pid)
        process.communicate()


def main() -> None:
    """Runs the cluster until the standard input ends."""
    # Set before Ray starts: otherwise it reports its usage over the internet.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    # The head gets no core, so that no worker runs there: it can't be preempted.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1, wait=True) for _ in range(2)]
    drain = node_drainer(cluster.address)
    print(cluster.address, flush=True)

    for line in sys.stdin:
        worker, notice_s = line.split()
        drain(_node_of(nodes, int(worker)), float(notice_s))


def _node_of(nodes: list[Any], worker: int) -> str:
    """The id of the node that a worker runs on: its raylet is the worker's parent process."""
    parent = psutil.Process(worker).ppid()
    return next(str(node.node_id) for node in nodes if node.all_processes[RAYLET][0].process.pid == parent)


if __name__ == "__main__":
    main()
