"""Ends workers that hang, which Ray takes for a fault like any other, and trials whose workers do not even start."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal

import ray

from runner.on_ray.private import is_own_ray
from runner.process.lease import Superseded
from runner.records.trial_file import read_outcome
from runner.trial.heartbeat import IdleTime
from runner.trial.job import TrialJob
from runner.trial.outcome import record_outcome

STEPS = 50
MIN_TIMEOUT_S = 120.0
FIRST_STEP_TIMEOUT_S = 900.0


@contextlib.contextmanager
def hang_watchdog(job: TrialJob, coordinator: Any) -> Iterator[None]:
    """Watches a trial's workers from a thread of its driver.

    Args:
        coordinator: the handle of the Coordinator actor, to which workers report all progress.
    """
    ray.get(coordinator.take_workers.remote(job.name))  # those of a driver before this one
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(job, coordinator, over), name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(job: TrialJob, coordinator: Any, over: threading.Event) -> None:
    """Ends the trial's workers whenever they have made no progress for too long."""
    setting = job.config.resources.hang_timeout
    interval_s = min(5.0, (MIN_TIMEOUT_S if setting == "auto" else setting) / 5)
    had_worker_at = time.monotonic()

    while not over.wait(interval_s):
        try:
            idle_time: IdleTime | None = ray.get(coordinator.idle_time.remote(job.name))
            if idle_time is None:
                if is_own_ray() and time.monotonic() - had_worker_at > timeout_s(setting, 0):
                    _give_up(job, coordinator, timeout_s(setting, 0))
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


def _give_up(job: TrialJob, coordinator: Any, waited_s: float) -> None:
    """Ends a trial without workers, and this process, whose other thread waits for Ray to start some, for ever.

    Tune starts another driver, which finds the trial given up. A cluster that others use may be without room for days,
    so that nobody is given up there.
    """
    ray.get(coordinator.give_up.remote(job.name))
    reason = f"no worker has started within {waited_s:.0f} s; Ray's own logs may say why"
    with contextlib.suppress(Superseded, OSError):
        if read_outcome(job.trial)["status"] == "running":
            job.log_line(reason)
            record_outcome(job, "failed", reason)
    os._exit(1)


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
