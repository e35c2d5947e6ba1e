"""Workers' processes that begin before their turn, with all that a trial needs loaded.

A worker's process takes three seconds of a core until its first line of ours: Python, Ray, Ray Train and torch. The
first trials' processes begin while Ray's other processes do, and each next trial's while the one before it ends. Ray
gives a waiting process to the first actor that wants one with the same environment.
"""

import gc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from runner.on_ray.connection.cluster import is_joined
from runner.on_ray.private import begin_process, propagated_variables, setup_hook


def worker_environment(threads: int) -> Mapping[str, Any]:
    """Ray's runtime environment for workers of so many threads, beside that of this process."""
    # Ray itself sets the threads with a process's first task, which is too late: torch reads them as it is loaded.
    variables = setup_hook(f"{__name__}.load_worker") | {"OMP_NUM_THREADS": str(threads)}

    # Processes of a Ray of our own hear only with their first task where the command found this package.
    if not is_joined():
        root = str(Path(__file__).parents[2])
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return {"env_vars": variables}


def load_worker() -> None:
    """Called by Ray in a worker's process, before it is given a trial."""
    gc.disable()  # imports leave no garbage, and looking for it takes a fifth of their time
    try:
        import runner.on_ray.worker  # noqa: F401
    finally:
        gc.enable()


def prestart_first(count: int, threads: int) -> None:
    """Begins the processes of the first trials' workers, on a Ray of our own, from the command's process."""
    # Where this process has an environment, Ray joins both, and writes the result in a way that we do not know.
    if not ray.get_runtime_context().runtime_env:
        variables = propagated_variables() | worker_environment(threads)["env_vars"]
        begin_process(ray.runtime_env.RuntimeEnv(env_vars=variables).serialize(), count)


def prestart_next() -> None:
    """Begins a process like this one, a worker's, on its machine."""
    begin_process(ray.get_runtime_context().get_runtime_env_string())
