"""The faults of a drill, the most important first."""

from collections.abc import Callable
from dataclasses import dataclass

from runner.config.schema import Resources
from runner.drill.faults import damaging, killing, nodes, stopping
from runner.drill.planning import Cost
from runner.drill.target_run import TargetRun
from runner.storage.storage import Storage

_HANG_TIMEOUT = "hang_timeout"
_HANG_TIMEOUT_S = 10


@dataclass(frozen=True)
class Fault:
    """One way to break a run.

    Attributes:
        name: also the name of the run's folder.
        title: the name in the table.
        inject: starts a run, injects the fault, and waits for the end. Raises NotSurvived or NotTried.
        cost: what the fault takes time for, given the number of kills.
        kills: how many times one run is killed in a long drill. A short drill does half of them.
        local_only: why the fault can't be tried on an existing cluster; empty where it can.
        folder_only: why it can't be tried on a bucket; empty where it can.
        again: whether to try it again, because it depends on random steps.
        own_patches: whether the run prepares its patches. Other runs get copies.
        options: further arguments of the command.
    """

    name: str
    title: str
    inject: Callable[[TargetRun], None]
    cost: Callable[[int], Cost]
    kills: int = 0
    local_only: str = ""
    folder_only: str = ""
    again: bool = False
    own_patches: bool = False
    options: tuple[str, ...] = ()


_OWN_CLUSTER = "it has a cluster of its own, whose nodes are processes of this machine"
_QUICK_TWICE = Cost(quick_starts=2)

FAULTS: tuple[Fault, ...] = (
    Fault(
        "worker_killed",
        "worker killed",
        killing.kill_worker,
        lambda kills: Cost(ray_starts=1, restarts=kills),
        kills=5,
        again=True,
    ),
    Fault(
        "main_killed",
        "main process killed, started again at once",
        killing.kill_main_process,
        lambda kills: Cost(ray_starts=1 + kills),
        kills=3,
        again=True,
    ),
    Fault(
        "everything_killed",
        "everything killed at once",
        killing.kill_everything,
        lambda kills: Cost(ray_starts=1 + kills),
        kills=2,
        local_only="a drill must not kill the processes of a cluster that others may use",
        again=True,
    ),
    Fault(
        "checkpoint_damaged",
        "newest checkpoint truncated, a bit flipped, no manifest",
        damaging.damage_checkpoints,
        lambda kills: Cost(quick_starts=1 + len(damaging.DAMAGES)),
    ),
    Fault("terminated", "SIGTERM", stopping.terminate, lambda kills: Cost(ray_starts=2)),
    Fault("interrupted", "Ctrl-C, and Ctrl-C twice", stopping.interrupt, lambda kills: Cost(ray_starts=3)),
    Fault(
        "killed_while_saving",
        "worker killed while it writes a checkpoint",
        killing.kill_while_saving,
        lambda kills: Cost(ray_starts=1, restarts=kills),
        kills=3,
        again=True,
    ),
    Fault(
        "driver_killed",
        "the trial's driver killed",
        killing.kill_driver,
        lambda kills: Cost(ray_starts=2, restarts=1),
        kills=1,
        local_only="the drill can't distinguish the trial's driver from those of other runs on the cluster",
        again=True,
    ),
    Fault(
        "killed_while_preparing",
        "killed while the patches are cut",
        killing.kill_while_preparing,
        lambda kills: _QUICK_TWICE,
        kills=1,
        own_patches=True,
    ),
    Fault("time_limit", "--time-limit reached", stopping.reach_time_limit, lambda kills: _QUICK_TWICE),
    Fault("files_torn", "small files torn, Ray's removed", damaging.tear_small_files, lambda kills: _QUICK_TWICE),
    Fault(
        "worker_hangs",
        "worker hangs",
        killing.suspend_worker,
        lambda kills: Cost(ray_starts=1, restarts=3),
        options=("--set", f"resources.{_HANG_TIMEOUT}={_HANG_TIMEOUT_S}"),
    ),
    Fault(
        "disk_full",
        "disk full",
        damaging.fill_disk,
        lambda kills: Cost(ray_starts=2),
        own_patches=True,
        local_only="a drill must not fill the storage of a cluster that others may use",
        folder_only="a bucket has no disk that a drill could fill",
    ),
    Fault("storage_moved", "storage moved to another path", damaging.move_storage, lambda kills: _QUICK_TWICE),
    Fault(
        "node_preempted",
        "node preempted with notice",
        nodes.preempt_node,
        lambda kills: Cost(ray_starts=2, restarts=2),
        local_only=_OWN_CLUSTER,
    ),
    Fault(
        "head_lost",
        "the cluster's head lost",
        nodes.lose_head,
        lambda kills: Cost(ray_starts=4, restarts=4),
        kills=1,
        local_only=_OWN_CLUSTER,
    ),
    Fault(
        "node_replaced",
        "the only node lost, another one added",
        nodes.replace_node,
        lambda kills: Cost(ray_starts=2, restarts=3),
        kills=1,
        local_only=_OWN_CLUSTER,
    ),
    Fault(
        "node_late",
        "no node before the run waits for one",
        nodes.add_node_late,
        lambda kills: Cost(ray_starts=2, restarts=1),
        local_only=_OWN_CLUSTER,
    ),
    Fault(
        "storage_not_shared",
        "a node does not see the storage",
        nodes.hide_storage,
        lambda kills: Cost(ray_starts=3),
        folder_only="all nodes of this machine see the bucket",
        local_only=_OWN_CLUSTER,
    ),
    Fault(
        "source_not_shared",
        "a node does not see the pictures",
        nodes.hide_source,
        lambda kills: Cost(ray_starts=2),
        own_patches=True,
        local_only=_OWN_CLUSTER,
    ),
    Fault(
        "first_of_two_preempted",
        "two workers, the first one's node preempted",
        nodes.preempt_first_of_two,
        lambda kills: Cost(ray_starts=4, restarts=2),
        kills=1,
        local_only=_OWN_CLUSTER,
    ),
)


def why_not(fault: Fault, address: str | None, place: Storage) -> str:
    """Why a fault can't be tried. Empty where it can.

    Args:
        address: of an existing cluster; None for a local Ray.
        place: where results go.
    """
    if place.is_remote and fault.folder_only:
        return fault.folder_only
    if address is not None and fault.local_only:
        return fault.local_only
    if _HANG_TIMEOUT in "".join(fault.options) and _HANG_TIMEOUT not in Resources.model_fields:
        return f"this version knows no resources.{_HANG_TIMEOUT}"
    return ""
