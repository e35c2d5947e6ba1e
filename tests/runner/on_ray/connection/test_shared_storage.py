"""A cluster of which a node does not see the storage is refused before anything is made or trained."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.drill.processes import kill_session
from tests.support.commands import ROOT, finish, start, write_experiment

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("own_home")]

# Each node's processes work in the folder that it was started in, so that /proc/self/cwd is another one on each.
CLUSTER = """
import os, sys
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
from ray.cluster_utils import Cluster
os.chdir(sys.argv[1])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
os.chdir(sys.argv[2])
cluster.add_node(num_cpus=1, wait=True)
print(cluster.address, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def nodes_with_folders(*folders: Path) -> Iterator[str]:
    """The address of a cluster of two nodes."""
    for folder in folders:
        folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, *map(str, folders)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        kill_session(process.pid)
        process.communicate()


def test_a_node_with_a_folder_of_its_own_is_named_and_nothing_is_trained(tmp_path: Path) -> None:
    head, other = tmp_path / "head", tmp_path / "other"
    path = write_experiment(tmp_path)
    with nodes_with_folders(head, other) as address:
        # Without the folder, and with an older one of the same name.
        for content in (None, b'{"token": "of an older run", "attempt": 1}'):
            if content:
                (other / "results/small").mkdir(parents=True)
                (other / "results/small/lock").write_bytes(content)
            process = start(
                "runner.tune", path, "--address", address, "--storage", "/proc/self/cwd/results", cwd=head
            )  # fmt: skip
            output = finish(process)
            assert process.returncode == 2, output
            assert "not every node of the cluster sees /proc/self/cwd/results/small" in output
            assert ("sees another folder there" if content else "sees no such folder") in output
            assert not (head / "results/patches").exists()
        assert [path.name for path in (other / "results/small").iterdir()] == ["lock"]

        # What both see is used.
        process = start("runner.tune", path, "--address", address, "--storage", tmp_path / "results")
        output = finish(process)
        assert process.returncode == 0, output
