"""Ends workers that hang, which Ray takes for a fault like any other, and trials whose workers do not even start."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal

import ray

from runner.on_ray.placement import Placement
from runner.process.lease import Superseded
from runner.records.trial_file import read_outcome
from runner.trial.heartbeat import IdleTime
from runner.trial.job import TrialJob
from runner.trial.outcome import record_outcome

STEPS = 50
MIN_TIMEOUT_S = 120.0
FIRST_STEP_TIMEOUT_S = 900.0
STOP_GRACE_S = 20.0  # for workers that are just starting, before a stop does without them


@contextlib.contextmanager
def hang_watchdog(job: TrialJob, coordinator: Any, placement: Placement) -> Iterator[None]:
    """Watches a trial's workers from a thread of its driver.

    Args:
        coordinator: the handle of the Coordinator actor, to which workers report all progress.
        placement: of the trial's workers, which is given up where none starts.
    """
    ray.get(coordinator.take_workers.remote(job.name))  # those of a driver before this one
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(job, coordinator, placement, over), name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(job: TrialJob, coordinator: Any, placement: Placement, over: threading.Event) -> None:
    """Ends the trial's workers whenever they have made no progress for too long."""
    setting = job.config.resources.hang_timeout
    interval_s = min(5.0, (MIN_TIMEOUT_S if setting == "auto" else setting) / 5)
    had_worker_at = time.monotonic()

    while not over.wait(interval_s):
        try:
            idle_time: IdleTime | None = ray.get(coordinator.idle_time.remote(job.name))
            if idle_time is None:
                # A cluster that others use may have no room for days, and that is no fault.
                if placement.is_waiting:
                    had_worker_at = time.monotonic()
                elif _starts_in_vain(time.monotonic() - had_worker_at, job, coordinator):
                    placement.give_up()
                    return
                continue
            had_worker_at = time.monotonic()
            if idle_time.seconds < timeout_s(setting, idle_time.step_s):
                continue
            # They are forgotten there, so that none is ended twice. Those that Ray starts instead register themselves.
            workers = ray.get(coordinator.take_workers.remote(job.name))
        except ray.exceptions.RayError:
            continue  # the actor is gone: the command is ending

        with contextlib.suppress(Exception):
            ended = "its worker is ended" if len(workers) == 1 else f"its {len(workers)} workers are ended"
            job.log_line(
                f"no progress for {idle_time.seconds:.0f} s, where a step takes {idle_time.step_s:.3g} s: {ended}"
            )
        for worker in workers:
            ray.kill(ray.cloudpickle.loads(worker))


def _starts_in_vain(waited_s: float, job: TrialJob, coordinator: Any) -> bool:
    """True where a trial's workers have had their resources for a while and still do not run; then its outcome is
    recorded."""
    if waited_s > STOP_GRACE_S and ray.get(coordinator.stop_reason.remote()):
        return True  # whoever waits for the workers records it
    limit_s = timeout_s(job.config.resources.hang_timeout, 0)
    if waited_s <= limit_s:
        return False
    reason = f"no worker has started within {limit_s:.0f} s; Ray's own logs may say why"
    with contextlib.suppress(Superseded, OSError):
        if read_outcome(job.trial)["status"] == "running":
            job.log_line(reason)
            record_outcome(job, "failed", reason)
    return True


def timeout_s(setting: Literal["auto"] | float, step_s: float) -> float:
    """After how many seconds without progress a worker is taken to hang.

    `auto` is 50 times the mean step, and two minutes at least. Until its first steps are done, a worker
    has a quarter of an hour: it may be reading a large checkpoint over a slow network.

    Args:
        step_s: the mean step; 0 where it is not known yet.
    """
    if not step_s:
        return FIRST_STEP_TIMEOUT_S if setting == "auto" else max(FIRST_STEP_TIMEOUT_S, setting)
    return max(STEPS * step_s, MIN_TIMEOUT_S) if setting == "auto" else setting
