"""Ray, started or joined: quiet, on loopback, without the main process's secrets."""

import contextlib
import functools
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gan.training.allocator import KEEP_FREED_MEMORY
from runner.errors import ResourceError
from runner.process.processes import marked
from runner.trial.resources import Node, num_cores

# What Ray reads at import or passes on to the processes it starts.
RAY_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # logs beside ours, for which the main process would load torch
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_maximum_startup_concurrency": "8",  # by default a trial's worker waits for helpers to have started
    "RAY_worker_niceness": "0",  # trainings are what the machine is for
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # of the lines that Ray prints in our name
    "PYTHONWARNINGS": "ignore",
    "SPT_NOENV": "1",  # a process that takes a title would overwrite the mark by which it is found and ended
    **KEEP_FREED_MEMORY,  # a worker trains in a thread, for which its process has to know it from the start
}
# Off, as it is by default on other systems than Linux, all of Ray listens on loopback instead of on every interface.
ONE_MACHINE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# A socket's path may have 107 bytes, of which Ray's own part takes 68.
MAX_TEMPORARY_PATH = 39
SHORT_TEMPORARY_PATH = "/tmp/ray"
SECRET_PREFIXES = ("WANDB_",)


def set_up_ray(address: str | None, *, dashboard: bool) -> None:
    """Sets what Ray reads when it is imported, and what its processes inherit."""
    os.environ.update({name: value for name, value in RAY_SETTINGS.items() if name not in os.environ})
    # What the dashboard's view of trainings needs costs one process more.
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", str(int(dashboard)))
    if address is None:  # a machine by itself is told of nothing before it goes, and nobody else is to reach it
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        os.environ.setdefault(ONE_MACHINE, "0")


def start_ray(address: str | None, token: str, *, dashboard: bool) -> str:
    """Starts a local Ray of our own, whose processes carry `token` as a mark, or joins the cluster at `address`.

    Returns:
        The dashboard's address, or "" where there is none.

    Raises:
        ResourceError: the cluster can't be reached.
    """
    set_up_ray(address, dashboard=dashboard)
    import ray

    quieten()
    own: dict[str, Any] = {"include_dashboard": dashboard, "dashboard_host": "127.0.0.1"}
    own["num_cpus"] = num_cores()
    if folder := temporary_folder():
        own["_temp_dir"] = folder
    root = Path(__file__).parents[2]
    packages = {"py_modules": [str(root / "runner"), str(root / "gan")]}
    joined: dict[str, Any] = {"runtime_env": packages | {"env_vars": RAY_SETTINGS}}
    with without_secrets(), contextlib.nullcontext() if address else marked(token), in_groups_of_their_own():
        try:
            context = ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **(joined if address else own),
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ResourceError(f"Ray at {address or 'this machine'} can't be reached: {error}") from error
    quieten()
    protect_token()
    if address is None:
        with contextlib.suppress(ImportError, AttributeError):  # a Ray that has them elsewhere starts them itself
            start_helpers(tracks_state=dashboard)
    url = context.dashboard_url or ""
    return f"http://{url}" if url and dashboard else ""


def start_helpers(*, tracks_state: bool) -> None:
    """Begins the processes that Ray has once for all trials. Ray Train would begin them as the first trial starts,
    and wait for each: two seconds a process, in which the trial's driver loads its libraries now."""
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )

    get_or_create_autoscaling_coordinator()
    if tracks_state:
        from ray.train.v2._internal.state.state_actor import get_or_create_state_actor

        get_or_create_state_actor()


def temporary_folder() -> str | None:
    """Where Ray is to keep its sockets, if its own choice, below TMPDIR, has too long a path."""
    return SHORT_TEMPORARY_PATH if len(tempfile.gettempdir()) > MAX_TEMPORARY_PATH else None


def stop_ray() -> None:
    """Ends what start_ray began; a cluster that was joined goes on."""
    import ray

    ray.shutdown()


def quieten() -> None:
    """Ray's own messages are off; what matters of them comes as errors."""
    for name in ("ray", "ray.data", "ray.train", "ray.tune", "ray._private"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def cluster_nodes() -> list[Node]:
    """The machines that are alive."""
    import ray

    return [
        Node(node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]
    ]


@contextlib.contextmanager
def in_groups_of_their_own() -> Iterator[None]:
    """Ray's processes, as far as they begin inside the block, are each in a process group of their own.

    `timeout` and many a supervisor send SIGTERM to the whole group of a command. Ray would be gone then
    before its workers have saved; it ends with this process in any case. A Ray that starts its processes
    in another way goes on without.
    """
    from ray._private import services

    popen = getattr(services, "ConsolePopen", None)
    if popen is None:
        yield
        return
    services.ConsolePopen = functools.partial(popen, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = popen


@contextlib.contextmanager
def without_secrets() -> Iterator[None]:
    """Takes the keys of this process out of the environment while others inherit from it."""
    hidden = {name: value for name, value in os.environ.items() if name.startswith(SECRET_PREFIXES)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def protect_token() -> None:
    """Ray makes the file of its access token readable by everybody; only its owner needs it."""
    token = Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):
        token.chmod(stat.S_IRUSR | stat.S_IWUSR)
