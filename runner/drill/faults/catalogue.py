"""The faults of a drill, most important first."""

from collections.abc import Callable
from dataclasses import dataclass

from runner.config.schema import Resources
from runner.drill.faults import damaging, killing, stopping
from runner.drill.planning import Cost
from runner.drill.target_run import TargetRun

HANG_TIMEOUT = "hang_timeout"
HANG_TIMEOUT_S = 10


@dataclass(frozen=True)
class Fault:
    """One way to break a run.

    Attributes:
        name: also its folder's.
        title: for the table.
        strike: does it to a run, and raises NotSurvived where the run did not come through.
        cost: what its time goes into, by the number of kills.
        kills: how many times one run is killed in a long drill; a short one does with half.
        local_only: why it can't be done on a cluster that is not the drill's own; empty where it can.
        again: another random moment may tell something new.
        own_patches: what it does begins without patches, which others are given.
        options: further arguments of the command.
    """

    name: str
    title: str
    inject: Callable[[TargetRun], None]
    cost: Callable[[int], Cost]
    kills: int = 0
    local_only: str = ""
    again: bool = False
    own_patches: bool = False
    options: tuple[str, ...] = ()


WHOLE_MACHINE = "the cluster's processes are not the drill's own"
QUICK_TWICE = Cost(quick_starts=2)

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
        local_only=WHOLE_MACHINE,
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
        local_only="the trial's driver can't be told from those of other people's runs",
        again=True,
    ),
    Fault(
        "killed_while_preparing",
        "killed while the patches are cut",
        killing.kill_while_preparing,
        lambda kills: QUICK_TWICE,
        kills=1,
        own_patches=True,
    ),
    Fault("time_limit", "--time-limit reached", stopping.reach_time_limit, lambda kills: QUICK_TWICE),
    Fault("files_torn", "small files torn, Ray's removed", damaging.tear_small_files, lambda kills: QUICK_TWICE),
    Fault(
        "worker_hangs",
        "worker hangs",
        killing.stop_worker_in_its_tracks,
        lambda kills: Cost(ray_starts=1, restarts=3),
        options=("--set", f"resources.{HANG_TIMEOUT}={HANG_TIMEOUT_S}"),
    ),
    Fault(
        "disk_full",
        "disk full",
        damaging.fill_disk,
        lambda kills: Cost(ray_starts=2),
        own_patches=True,
        local_only="the cluster's storage is not the drill's to fill",
    ),
    Fault("storage_moved", "storage moved to another path", damaging.move_storage, lambda kills: QUICK_TWICE),
    Fault(
        "node_preempted",
        "node preempted with notice",
        killing.take_node_away,
        lambda kills: Cost(ray_starts=2, restarts=2),
        local_only="the cluster's nodes are not the drill's to take away",
    ),
)


def why_not(fault: Fault, address: str | None) -> str:
    """Why a fault can't be tried here; empty where it can."""
    if address is not None and fault.local_only:
        return fault.local_only
    if HANG_TIMEOUT in "".join(fault.options) and HANG_TIMEOUT not in Resources.model_fields:
        return f"this version knows no resources.{HANG_TIMEOUT}"
    return ""
