"""Faults of a cluster: nodes that go and come, a head that is lost, and what only some nodes see.

Each has a cluster of its own, whose nodes are processes of this machine.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from runner.config.schema import Synthetic
from runner.data.sources import read_picture, synthetic_source
from runner.drill.comparison import differences
from runner.drill.local_cluster import LocalCluster, local_cluster
from runner.drill.target_run import EXPERIMENT, NotSurvived, TargetRun
from runner.errors import Exit
from runner.records.starts import read_starts

# Another folder for each process: that in which its node was started.
_OWN_FOLDER = "/proc/self/cwd"


@contextlib.contextmanager
def _cluster(target: TargetRun, *nodes: Path | None) -> Iterator[LocalCluster]:
    """A cluster with a head without cores, which works in the run's folder, and a node of one core in each of these."""
    target.folder.make_folder()
    with local_cluster(target.folder.local_path / "cluster", cwd=target.folder.local_path) as cluster:
        started = [cluster.add_node(cwd=folder) for folder in nodes]
        cluster.await_start(*started)
        yield cluster


def _worker(target: TargetRun) -> int:
    """The process number of the trial's last worker."""
    return int(read_starts(target.trial)[-1]["pid"])


def _early_step(target: TargetRun) -> int:
    """A step after which enough is left: what follows takes seconds."""
    return target.random_steps(1)[0] // 2


def preempt_node(target: TargetRun) -> None:
    """Preempts the worker's node, with notice. The run continues on the other node."""
    notice_s = target.setup.pace.training_s / 8
    with _cluster(target, None, None) as cluster:
        command = target.start("--address", cluster.address)
        target.wait_for_step(command, _early_step(target))
        before = target.moment()
        cluster.preempt(cluster.node_of(_worker(target)), notice_s)
        target.recovered(command, before)
        target.finish(command)


def lose_head(target: TargetRun) -> None:
    """Kills the cluster's head. The command ends with exit code 75, and goes on at another head."""
    with _cluster(target, None) as cluster:
        command = target.start("--address", cluster.address)
        target.wait_for_step(command, _early_step(target))
        with target.killing() as before:
            cluster.head.kill()
        target.expect(command, Exit.STOPPED)
        if "is gone" not in command.output:
            raise NotSurvived("the command did not say that the head is gone")

    with local_cluster(target.folder.local_path / "next_cluster", "--num-cpus=1") as cluster:
        command = target.start("--address", cluster.address)
        target.recovered(command, before)
        target.finish(command)


def replace_node(target: TargetRun) -> None:
    """Kills the only node with cores, and adds another one. The run waits, and continues there."""
    with _cluster(target, None) as cluster:
        command = target.start("--address", cluster.address)
        target.wait_for_step(command, _early_step(target))
        with target.killing() as before:
            cluster.nodes[-1].kill()
        target.wait_until(
            command, lambda: "waiting for machines" in command.output or None, "the command said what it waits for"
        )
        cluster.await_start(cluster.add_node())
        target.recovered(command, before)
        target.finish(command)


def add_node_late(target: TargetRun) -> None:
    """Starts the run on a head without cores. It waits; once there is a node, it trains."""
    with _cluster(target) as cluster:
        before = target.moment()
        command = target.start("--address", cluster.address)
        target.wait_until(
            command, lambda: "waiting for machines" in command.output or None, "the command said what it waits for"
        )
        cluster.await_start(cluster.add_node())
        target.recovered(command, before)
        target.finish(command)


def hide_storage(target: TargetRun) -> None:
    """A node does not see the storage. The run is refused before anything is made; without that node it trains."""
    hidden = target.folder.at("another_machine")
    hidden.make_folder()
    with _cluster(target, target.folder.local_path, hidden.local_path) as cluster:
        address = ("--address", cluster.address)
        own = ("--storage", f"{_OWN_FOLDER}/{target.results_name}")
        command = target.start(*address, *own, cwd=target.folder.local_path)
        target.expect(command, Exit.BAD_INPUT)
        if hidden.exists(target.results_name):
            raise NotSurvived("the node that does not see the storage wrote to a folder of its own")

        cluster.nodes[-1].kill()
        before = target.moment()
        # By its path, which is the same folder for the command: Ray Train's workers are in folders of their own.
        command = target.start(*address)
        target.recovered(command, before)
        target.finish(command)


def hide_source(target: TargetRun) -> None:
    """A node does not see the pictures. They are cut elsewhere, and none counts as bad."""
    other = target.folder.at("another_machine")
    other.make_folder()
    # As files, the pictures that all other runs have drawn.
    drawn = synthetic_source(Synthetic(**EXPERIMENT["data"]["synthetic"]))
    for picture in drawn.pictures:
        folder = target.folder.at(f"pairs/{picture.split}")
        folder.make_folder()
        folder.write(picture.name, read_picture(picture, drawn.seed)[0])

    with _cluster(target, other.local_path) as cluster:
        before = target.moment()
        source = f"data.source={_OWN_FOLDER}/pairs"
        command = target.start("--address", cluster.address, "--set", source, cwd=target.folder.local_path)
        target.recovered(command, before)
        target.finish(command)


def preempt_first_of_two(target: TargetRun) -> None:
    """Of two workers' nodes the first one's is preempted, and another joins. Same bits as with two undisturbed."""
    two_workers = ("--set", "resources.workers=2")
    undisturbed = target.results_name
    target.results_name = "undisturbed"
    target.use_prepared_patches()
    with _cluster(target, None, None) as cluster:
        options = ("--address", cluster.address, *two_workers)
        target.expect(target.start(*options), Exit.FINISHED)
        reference, target.results_name = target.trial, undisturbed

        command = target.start(*options)
        target.wait_for_step(command, _early_step(target))
        before = target.moment()
        with target.killing():
            node = cluster.node_of(_worker(target))
            cluster.preempt(node, target.setup.pace.training_s / 8)
            cluster.await_start(cluster.add_node())
        target.recovered(command, before)
        target.expect(command, Exit.FINISHED)
    if different := differences(target.trial, reference):
        raise NotSurvived("; ".join(different))
