"""A Ray cluster of several nodes on this machine, as `ray start` makes one, with its token. Nodes come and go.

`python -m runner.drill.local_cluster ADDRESS NODE SECONDS` gives notice that a node will be preempted, as a cloud does
before it takes a machine away.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from runner.drill.processes import kill_session
from runner.drill.target_run import NotTried
from runner.on_ray.connection.folders import TOKEN_MODE, TOKEN_PATH, prepare_token
from runner.on_ray.private import RAYLET, node_drainer

_START_WITHIN_S = 120.0
_SETTINGS = {TOKEN_MODE: "token", "RAY_USAGE_STATS_ENABLED": "0"}
# What Ray's autoscaler needs to start nodes as processes of this machine, and how often it looks.
_AUTOSCALER_SETTINGS = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}


_LISTS = (
    "cluster_synced_files", "initialization_commands", "setup_commands", "head_setup_commands",
    "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands", "rsync_exclude", "rsync_filter",
)  # fmt: skip


@dataclass
class LocalNode:
    """A node: the processes of a session.

    Attributes:
        name: as Ray lists it.
        start: starts its processes.
        starter: the process that does so, and ends then. Its number is that of the session.
    """

    name: str
    start: Callable[[], "subprocess.Popen[bytes]"]
    starter: "subprocess.Popen[bytes]" = field(init=False)

    def __post_init__(self) -> None:
        self.starter = self.start()

    def has_started(self) -> bool:
        """Waits until it has, or has given up."""
        try:
            return self.starter.wait(_START_WITHIN_S) == 0
        except subprocess.TimeoutExpired:
            return False

    def has_worker(self, pid: int) -> bool:
        """True where a worker process belongs to this node: its parent is the node's raylet."""
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(pid).parent()
            return parent is not None and parent.name() == RAYLET and os.getsid(parent.pid) == self.starter.pid
        return False

    def kill(self) -> None:
        """Kills all its processes at once, as when the machine loses its power."""
        kill_session(self.starter.pid)
        self.starter.wait()


class LocalCluster:
    """A running cluster, which has a head only until nodes are added.

    Attributes:
        address: what a command gets as --address.
        head: its node.
    """

    def __init__(
        self,
        folder: Path,
        temporary: Path,
        *head_options: str,
        max_added: int = 0,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Starts the head, which gives no core unless its options say so.

        Args:
            folder: for what the nodes print.
            temporary: for Ray's sockets; its path must be short.
            head_options: more options of `ray start`.
            max_added: how many nodes of one core each Ray's autoscaler may add where there is a need.
            cwd: the working folder of the head's processes.
            env: more variables of the head's environment.

        Raises:
            NotTried: it does not start on this machine.
        """
        self._folder, self._temporary = folder, temporary
        self._num_nodes = 0
        self.nodes: list[LocalNode] = []
        prepare_token()
        port = _free_port()
        self.address = f"127.0.0.1:{port}"
        options = ["--head", f"--port={port}", f"--ray-client-server-port={_free_port()}", "--include-dashboard=false"]
        options += [f"--temp-dir={temporary}", *(head_options or ["--num-cpus=0"])]
        if max_added:
            path = folder / "autoscaling.json"
            path.write_text(json.dumps(_autoscaling(self.address, max_added)))
            options.append(f"--autoscaling-config={path}")
            env = _AUTOSCALER_SETTINGS | dict(env or {})
        self.head = self._begin(options, cwd=cwd, env=env)
        self.await_start(self.head)

    def add_node(
        self, num_cpus: int = 1, *options: str, cwd: Path | None = None, python: Sequence[str] = (sys.executable,)
    ) -> LocalNode:
        """Starts a node that joins the cluster; `await_start` waits for it.

        Args:
            options: more options of `ray start`.
            cwd: the working folder of all its processes.
            python: the interpreter of all its processes; before it, a program that starts it.
        """
        return self._begin([f"--address={self.address}", f"--num-cpus={num_cpus}", *options], cwd=cwd, python=python)

    def await_start(self, *nodes: LocalNode) -> None:
        """Waits until nodes have started. Raises NotTried where one does not."""
        for node in nodes:
            if node.has_started():
                continue
            # Ray gives a node half a minute, which is not enough on a busy machine.
            node.kill()
            node.starter = node.start()
            if not node.has_started():
                raise NotTried(f"a node of a cluster could not be started; see {self._folder}/{node.name}.txt")

    def node_of(self, worker: int) -> LocalNode:
        """The node on which a worker process runs."""
        return next(node for node in self.nodes if node.has_worker(worker))

    def preempt(self, node: LocalNode, notice_s: float) -> None:
        """Tells Ray that a node will be gone in `notice_s` seconds. Raises CalledProcessError where it is not there."""
        command = [sys.executable, "-m", __spec__.name, self.address, node.name, str(notice_s)]
        subprocess.run(command, check=True, env=os.environ | {TOKEN_MODE: "token"}, capture_output=True)

    def close(self) -> None:
        """Kills all nodes."""
        for node in self.nodes:
            node.kill()

    def _begin(
        self,
        options: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        python: Sequence[str] = (sys.executable,),
    ) -> LocalNode:
        self._num_nodes += 1
        name = f"node_{self._num_nodes}"
        # Free ports, because all nodes are on one machine; workers take any.
        shared = [f"--node-name={name}", "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
        shared += ["--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={_free_port()}"]
        shared += [f"--object-store-memory={200 * 2**20}"]

        def start() -> "subprocess.Popen[bytes]":
            with open(self._folder / f"{name}.txt", "ab") as stream:
                # In a session of its own, by which the node's processes are found at the end.
                return subprocess.Popen(
                    [*python, "-m", "ray.scripts.scripts", "start", *options, *shared],
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env={**os.environ, **_SETTINGS, **(env or {})},
                    start_new_session=True,
                )

        node = LocalNode(name, start)
        self.nodes.append(node)
        return node


@contextlib.contextmanager
def local_cluster(
    folder: Path,
    *head_options: str,
    max_added: int = 0,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[LocalCluster]:
    """A cluster that ends with the block, with all its processes. Raises NotTried where it can't be started.

    Args:
        folder: for what the nodes print.
        head_options, max_added, cwd, env: as LocalCluster's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Ray's sockets need a short path.
    temporary = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))
    token_path = os.environ.get(TOKEN_PATH)
    cluster = None
    try:
        cluster = LocalCluster(folder, temporary, *head_options, max_added=max_added, cwd=cwd, env=env)
        yield cluster
    finally:
        if cluster is not None:
            cluster.close()
        shutil.rmtree(temporary, ignore_errors=True)
        if token_path is None:
            os.environ.pop(TOKEN_PATH, None)  # it was set for the cluster


def _autoscaling(address: str, max_added: int) -> dict[str, Any]:
    """The settings of Ray's autoscaler for nodes that are processes of the head's machine."""
    node_types = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "one_core": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": max_added},
    }
    return {
        "cluster_name": "drill",
        "max_workers": max_added,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 10,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": node_types,
        "head_node_type": "ray.head.default",
        "file_mounts_sync_continuously": False,
        # All of these must be there.
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{name: [] for name in _LISTS},
    }


def _free_port() -> int:
    """A port that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(address: str, name: str, notice_s: float) -> None:
    """Gives notice that a node of this name will be preempted."""
    import ray

    ray.init(address=address, log_to_driver=False)
    (node,) = (node for node in ray.nodes() if node["Alive"] and node["NodeName"] == name)
    node_drainer(address)(node["NodeID"], notice_s)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
