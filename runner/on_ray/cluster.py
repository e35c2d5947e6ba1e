"""Ray, started or joined: quiet, on loopback, without the main process's secrets."""

import contextlib
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.errors import ResourceError
from runner.on_ray import private
from runner.process.allocator import KEEP_FREED_MEMORY
from runner.process.processes import marked, num_cores
from runner.trial.resources import Node

# What Ray reads at import or passes on to the processes it starts.
_RAY_SETTINGS = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # logs beside ours, for which the main process would load torch
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "PYTHONWARNINGS": "ignore",
    "SPT_NOENV": "1",  # a process that takes a title would overwrite the mark by which it is found and ended
    **private.SETTINGS,
    **KEEP_FREED_MEMORY,  # a worker trains in a thread, for which its process has to know it from the start
}
# A socket's path may have 107 bytes, of which Ray's own part takes 68.
MAX_TEMPORARY_PATH = 39
SHORT_TEMPORARY_PATH = "/tmp/ray"
_SECRET_PREFIXES = ("WANDB_",)


def set_up_ray(address: str | None, *, dashboard: bool) -> None:
    """Sets what Ray reads when it is imported, and what its processes inherit."""
    os.environ.update({name: value for name, value in _RAY_SETTINGS.items() if name not in os.environ})
    # What the dashboard's view of trainings needs costs one process more.
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", str(int(dashboard)))
    if address is None:  # a machine alone gets no notice before it goes, and nobody else is to reach it
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        os.environ.setdefault(private.MULTI_NODE_SETTING, "0")


def start_ray(address: str | None, token: str, *, dashboard: bool) -> str:
    """Starts a local Ray of our own, whose processes carry `token` as a mark, or joins the cluster at `address`.

    Returns:
        The dashboard's address, or "" where there is none.

    Raises:
        ResourceError: the cluster can't be reached.
    """
    set_up_ray(address, dashboard=dashboard)
    import ray

    silence_ray()
    own: dict[str, Any] = {"include_dashboard": dashboard, "dashboard_host": "127.0.0.1"}
    # This process may be allowed fewer cores than the machine has.
    own["num_cpus"] = num_cores()
    if folder := temporary_folder():
        own["_temp_dir"] = folder

    # A cluster's nodes need nothing of this project but its dependencies: the code goes along.
    root = Path(__file__).parents[2]
    packages = {"py_modules": [str(root / "runner"), str(root / "gan")]}
    joined: dict[str, Any] = {"runtime_env": packages | {"env_vars": _RAY_SETTINGS}}

    # Ray's processes inherit the environment: without secrets, and with the mark by which they are found.
    with _without_secrets(), contextlib.nullcontext() if address else marked(token), private.own_process_groups():
        try:
            context = ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **(joined if address else own),
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ResourceError(f"Ray at {address or 'this machine'} can't be reached: {error}") from error
    silence_ray()
    _protect_token()
    if address is None:
        private.prestart_actors(tracks_state=dashboard)
    url = context.dashboard_url or ""
    return f"http://{url}" if url and dashboard else ""


def temporary_folder() -> str | None:
    """Where Ray is to keep its sockets, if its own choice, below TMPDIR, has too long a path."""
    return SHORT_TEMPORARY_PATH if len(tempfile.gettempdir()) > MAX_TEMPORARY_PATH else None


def stop_ray() -> None:
    """Ends what start_ray began; a cluster that was joined goes on."""
    import ray

    ray.shutdown()


def silence_ray() -> None:
    """Turns Ray's own messages off; what matters of them comes as errors."""
    for name in ("ray", "ray.data", "ray.train", "ray.tune", "ray._private"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def cluster_nodes() -> list[Node]:
    """The machines that are alive."""
    import ray

    return [
        Node(node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]
    ]


@contextlib.contextmanager
def _without_secrets() -> Iterator[None]:
    """Takes the keys of this process out of the environment while others inherit from it."""
    hidden = {name: value for name, value in os.environ.items() if name.startswith(_SECRET_PREFIXES)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _protect_token() -> None:
    """Ray makes the file of its access token readable by everybody; only its owner needs it."""
    token = Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):
        token.chmod(stat.S_IRUSR | stat.S_IWUSR)
