"""One process for the controllers of all trials, on the cluster's head.

A controller waits for its trial's workers and computes next to nothing, but what it needs of Ray Train and torch takes
370 MB in a process of its own.
"""

import asyncio
import gc
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import ray

from runner.on_ray.private import HEAD_NODE
from runner.trial.job import TrialJob
from runner.trial.resources import TrialResources

# Threads are made as trials begin. Each waits for one trial.
_MAX_TRIALS = 4096


class Controllers:
    """Runs trials, each in a thread. Lives in an actor, which Ray starts again if it is lost, with its calls."""

    def __init__(self) -> None:
        """Begins to load what trials need."""
        self._threads = ThreadPoolExecutor(_MAX_TRIALS, "trial")
        self._runs: dict[str, Future[str]] = {}
        self._loaded = threading.Event()
        # At once: the first trial's turn comes while this goes on.
        threading.Thread(target=self._load, name="load").start()

    def _load(self) -> None:
        """Loads what a trial's driver needs, torch too; by one thread, before others use it."""
        try:
            gc.disable()  # imports leave no garbage, and looking for it takes a fifth of their time
            import runner.on_ray.driver  # noqa: F401
        finally:
            gc.enable()
            self._loaded.set()

    async def run_trial(self, job: TrialJob, trial_resources: TrialResources, ray_folder: str, coordinator: Any) -> str:
        """Trains a trial to its end; its status.

        A driver that was lost is started again, and calls again: it then waits for the same end.

        Args:
            ray_folder: where Ray keeps its own files of this start.
            coordinator: the handle of the Coordinator actor.
        """
        run = self._runs.get(job.name)
        if run is None or (run.done() and run.exception() is not None):
            run = self._runs[job.name] = self._threads.submit(
                self._run_trial, job, trial_resources, ray_folder, coordinator
            )
        return await asyncio.wrap_future(run)

    def _run_trial(self, *arguments: Any) -> str:
        self._loaded.wait()
        from runner.on_ray.driver import run_trial

        return run_trial(*arguments)


def start_controllers() -> Any:
    """The handle of a new Controllers actor, on the cluster's head."""
    actor = ray.remote(Controllers)
    options = {"num_cpus": 0, "resources": {HEAD_NODE: 0.001}, "max_restarts": -1, "max_task_retries": -1}
    return actor.options(**options, max_concurrency=_MAX_TRIALS).remote()
