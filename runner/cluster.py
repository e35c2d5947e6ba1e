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
from runner.processes import marked
from runner.resources import Node

# What Ray reads at import or passes on to the processes it starts.
RAY_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # trainings are what the machine is for
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # of the lines that Ray prints in our name
    "PYTHONWARNINGS": "ignore",
}
# A socket's path may have 107 bytes, of which Ray's own part takes 68.
MAX_TEMPORARY_PATH = 39
SHORT_TEMPORARY_PATH = "/tmp/ray"
SECRET_PREFIXES = ("WANDB_",)


def start_ray(address: str | None, token: str, *, dashboard: bool) -> str:
    """Starts a local Ray of our own, whose processes carry `token` as a mark, or joins the cluster at `address`.

    Returns:
        The dashboard's address, or "" where there is none.

    Raises:
        ResourceError: the cluster can't be reached.
    """
    os.environ.update({name: value for name, value in RAY_SETTINGS.items() if name not in os.environ})
    # What the dashboard's view of trainings needs costs one process more a trial.
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", str(int(dashboard)))
    import ray

    quieten()
    own: dict[str, Any] = {"include_dashboard": dashboard, "dashboard_host": "127.0.0.1"}
    if hasattr(os, "sched_getaffinity"):
        own["num_cpus"] = len(os.sched_getaffinity(0))
    if folder := temporary_folder():
        own["_temp_dir"] = folder
    packages = {"py_modules": [str(Path(__file__).parent), str(Path(__file__).parent.parent / "gan")]}
    joined: dict[str, Any] = {"runtime_env": packages | {"env_vars": RAY_SETTINGS}}
    with without_secrets(), contextlib.nullcontext() if address else marked(token):
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
    url = context.dashboard_url or ""
    return f"http://{url}" if url and dashboard else ""


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
