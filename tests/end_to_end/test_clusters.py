"""Runs on a cluster of `ray start` with a token, to which nodes come and from which they go."""

import os
import re
import signal
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from runner.drill.local_cluster import LocalCluster, LocalNode, local_cluster
from runner.drill.processes import session_processes
from runner.on_ray.private import WORKER_TITLE
from tests.support.commands import Command, finish, read_until, start, write_experiment

pytestmark = [pytest.mark.slow, pytest.mark.ray]

WAITING = r"waiting for machines, .*: each trial needs 1 worker with 1 core and no GPU each, but there is room for 0"
OWN_FOLDER = "/proc/self/cwd"  # another one for each process: that in which its node was started


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder, in which the token is."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def lab(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster whose head has no core, and no other node at the beginning of each test."""
    with local_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(lab: LocalCluster) -> Iterator[LocalCluster]:
    """The same; nodes that a test adds go with it."""
    yield lab
    for node in lab.nodes[1:]:
        node.kill()


def tune(cluster: LocalCluster, tmp_path: Path, *options: object, **environment: str) -> Command:
    """Starts a run on the cluster."""
    storage = tmp_path / "results"
    arguments = ("--address", cluster.address, "--storage", storage, *options)
    return start("runner.tune", tmp_path / "experiment.yaml", *arguments, env=environment)


def ended(process: Command, code: int) -> str:
    """Waits for the end with this exit code; what was printed since the last look."""
    output = finish(process)
    assert process.returncode == code, output
    return output


def add(cluster: LocalCluster, num_cpus: int = 1, *options: str, cwd: Path | None = None) -> LocalNode:
    node = cluster.add_node(num_cpus, *options, cwd=cwd)
    cluster.await_start(node)
    return node


def test_a_run_waits_for_machines_hears_a_stop_meanwhile_and_follows_those_that_come_and_go(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    write_experiment(tmp_path, training={"epochs": 40}, sweep={"lambda_l1": [1, 2]}, tracking={"wandb": "off"})
    process = tune(cluster, tmp_path)
    read_until(process, WAITING)
    process.send_signal(signal.SIGTERM)
    assert "stopped (SIGTERM)" in ended(process, 75)
    assert not (tmp_path / "results/patches").exists()

    process = tune(cluster, tmp_path)
    read_until(process, WAITING)
    add(cluster)
    read_until(process, r"1 trial at a time[\s\S]*lambda_l1=1  epoch")
    add(cluster)
    read_until(process, r"the cluster has changed: 2 trials at a time[\s\S]*lambda_l1=2  epoch")
    # Preemption is watched by a thread, for which Ray Train would have begun a process with the first trial.
    running = [title for node in cluster.nodes for title in session_processes(node.starter.pid).values()]
    assert any(title.startswith(WORKER_TITLE) for title in running)
    assert not [title for title in running if title.startswith("ray::PreemptionWatcher")]

    # Another run finds no room, for its trials or for cutting pictures, and ends when it is asked to.
    for settings, waits in ((), r"trials?: 2 waiting"), (("--set", "data.synthetic.seed=8"), "preparing 3 pictures"):
        queued = tune(cluster, tmp_path, "--set", "name=queued", *settings)
        read_until(queued, waits)
        queued.send_signal(signal.SIGTERM)
        assert "stopped (SIGTERM)" in ended(queued, 75)

    # Without its nodes it says again what it waits for.
    for node in cluster.nodes[1:]:
        node.kill()
    read_until(process, WAITING)
    process.send_signal(signal.SIGTERM)
    assert "stopped (SIGTERM)" in ended(process, 75)


def test_a_cluster_with_a_token_is_joined_by_those_who_have_it(
    cluster: LocalCluster, tmp_path: Path, home: Path
) -> None:
    write_experiment(tmp_path)
    output = ended(tune(cluster, tmp_path, RAY_AUTH_TOKEN_PATH=str(tmp_path / "none")), 2)
    assert f"that cluster asks for a token, but there is none in {tmp_path}/none" in output
    output = ended(tune(cluster, tmp_path, RAY_AUTH_TOKEN="of-another-cluster"), 2)
    assert "it does not take the one in RAY_AUTH_TOKEN" in output
    assert not (tmp_path / "results").exists()


def test_a_node_with_a_folder_of_its_own_is_named_and_nothing_is_trained(cluster: LocalCluster, tmp_path: Path) -> None:
    path = write_experiment(tmp_path)
    here, other = tmp_path / "here", tmp_path / "other"
    for folder in (here, other):
        folder.mkdir()
    add(cluster, 1, cwd=other)

    # Without the folder, and with an older one of the same name.
    for content in (None, b'{"token": "of an older run", "attempt": 1}'):
        if content:
            (other / "results/small").mkdir(parents=True)
            (other / "results/small/lock").write_bytes(content)
        options = ("--address", cluster.address, "--storage", f"{OWN_FOLDER}/results")
        output = ended(start("runner.tune", path, *options, cwd=here), 2)
        assert f"not every node of the cluster sees {OWN_FOLDER}/results/small" in output
        assert ("sees another folder there" if content else "sees no such folder") in output
        assert not (here / "results/patches").exists()
    assert [path.name for path in (other / "results/small").iterdir()] == ["lock"]


def test_a_node_that_lacks_a_package_is_named_with_it(cluster: LocalCluster, tmp_path: Path) -> None:
    write_experiment(tmp_path)
    venv.create(tmp_path / "venv", symlinks=True)
    (packages,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.name != "torch":
            (packages / path.name).symlink_to(path)
    node = cluster.add_node(python=[str(tmp_path / "venv/bin/python")])
    cluster.await_start(node)

    output = ended(tune(cluster, tmp_path), 2)
    assert "--address: not every node of the cluster can run this project:" in output
    assert " has no torch\n" in output
    assert not (tmp_path / "results/patches").exists()


@pytest.mark.skipif(bool(list(Path("/dev").glob("nvidia*"))), reason="the GPU would be there")
def test_trials_run_by_what_the_nodes_have_and_not_by_what_ray_counts(cluster: LocalCluster, tmp_path: Path) -> None:
    write_experiment(tmp_path, training={"epochs": 1}, resources={"cpus_per_worker": "auto"})
    # Ray is told of a GPU on the first node, which this machine has not, and of four cores on the second, whose
    # processes may use one.
    one_core = ("taskset", "-c", str(min(os.sched_getaffinity(0))), sys.executable)
    second = cluster.add_node(4, "--labels=zone=b", '--resources={"accelerator_type:T4": 1}', python=one_core)
    first = cluster.add_node(1, "--num-gpus=1", "--labels=zone=a")
    cluster.await_start(first, second)

    output = ended(tune(cluster, tmp_path), 2)
    assert ": Ray counts 1 GPU, but torch can use no GPU: it has no GPU device" in output
    assert "ControllerError" not in output
    assert not (tmp_path / "results/patches").exists()

    chosen = ("--set", "resources.label_selector.zone=b", "--set", "resources.accelerator_type=T4")
    too_much = ("--dry-run", "--set", "resources.cpus_per_worker=64")
    assert "1 worker with 64 cores" in ended(tune(cluster, tmp_path, *chosen, *too_much), 2)
    assert "the run would wait" in ended(tune(cluster, tmp_path, *chosen, *too_much, "--wait", "1m"), 0)
    assert not (tmp_path / "results/patches").exists()

    output = ended(tune(cluster, tmp_path, *chosen), 0)
    assert "Ray counts 4 cores, but its processes may use 1" in output
    assert "1 worker a trial with 1 core each, 1 trial at a time" in output
    trial = tmp_path / "results/small/trials/trial"
    assert yaml.safe_load((trial / "trial.yaml").read_text())["threads"] == 1


def test_an_autoscaler_is_asked_for_what_trials_need_and_a_lost_head_ends_the_run_with_a_sentence(
    tmp_path: Path,
) -> None:
    """Without a token, although there is one in the home folder."""
    write_experiment(tmp_path, training={"epochs": 2000}, sweep={"lambda_l1": [1, 2]}, tracking={"wandb": "off"})
    with local_cluster(tmp_path / "cluster", max_added=2, env={"RAY_AUTH_MODE": "disabled"}) as cluster:
        # GPUs may come, for all that anybody knows.
        output = ended(tune(cluster, tmp_path, "--wait", "1s"), 75)
        assert re.search(r"1 worker with 1 core and 1 GPU each.*resources.gpus_per_worker=0", output)

        process = tune(cluster, tmp_path, "--set", "resources.gpus_per_worker=0")
        read_until(process, r"the cluster has changed: 2 trials at a time[\s\S]*lambda_l1=2  epoch")
        cluster.head.kill()
        output = ended(process, 75)
        assert f"the head of the cluster at {cluster.address} does not answer" in output
        assert f"stopped (the head of the cluster at {cluster.address} is gone)" in output
