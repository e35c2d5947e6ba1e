"""A cluster whose nodes have less than Ray counts: each is asked, and trials run where they can."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from runner.drill.processes import kill_session
from tests.support.commands import ROOT, finish, start, write_experiment

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("own_home")]

# Ray is told of a GPU on the first node, which this machine has not, and of four cores on the second, whose processes
# may use one.
CLUSTER = """
import os
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
from ray.cluster_utils import Cluster
head = {"num_cpus": 1, "num_gpus": 1, "labels": {"zone": "a"}, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head)
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
cluster.add_node(num_cpus=4, labels={"zone": "b"}, resources={"accelerator_type:T4": 1}, wait=True)
print(cluster.address, flush=True)
import sys
sys.stdin.read()
"""


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """The address of that cluster."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
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


@pytest.mark.skipif(bool(list(Path("/dev").glob("nvidia*"))), reason="the GPU would be there")
def test_trials_run_by_what_the_nodes_have_and_not_by_what_ray_counts(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, training={"epochs": 1}, resources={"cpus_per_worker": "auto"})

    def run(*settings: str) -> tuple[int, str]:
        options = [part for setting in settings for part in ("--set", f"resources.{setting}")]
        process = start("runner.tune", path, "--address", address, "--storage", tmp_path / "results", *options)
        output = finish(process)
        return process.returncode, output

    with cluster() as address:
        code, output = run()
        assert code == 2, output
        assert ": Ray counts 1 GPU, but torch can use no GPU: it has no GPU device" in output
        assert "ControllerError" not in output
        assert not (tmp_path / "results/patches").exists()

        code, output = run("label_selector.zone=b", "accelerator_type=T4")
        assert code == 0, output
        assert "Ray counts 4 cores, but its processes may use 1" in output
        assert "1 worker a trial with 1 core each, 1 trial at a time" in output
        trial = tmp_path / "results/small/trials/trial"
        assert yaml.safe_load((trial / "trial.yaml").read_text())["threads"] == 1
