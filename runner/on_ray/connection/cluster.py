"""Ray, started or joined: quiet, on loopback, without the main process's secrets."""

import contextlib
import functools
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.errors import ResourceError
from runner.on_ray import private
from runner.on_ray.connection.address import LOCAL, VARIABLE, check_reachable
from runner.on_ray.connection.folders import TOKEN_MODE, prepare_token, temporary_folder
from runner.process.allocator import KEEP_FREED_MEMORY
from runner.process.machine import look_at_machine
from runner.process.processes import MARK, marked

# What Ray reads at import or passes on to the processes it starts.
_RAY_SETTINGS = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # logs beside ours, for which the main process would load torch
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "PYTHONWARNINGS": "ignore",
    # gRPC's remarks would stand on the screen, and it would meddle with the processes that are started beside a call.
    "GRPC_VERBOSITY": "ERROR",
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    "SPT_NOENV": "1",  # a process that takes a title would overwrite the mark by which it is found and ended
    **private.SETTINGS,
    **KEEP_FREED_MEMORY,  # a worker trains in a thread, for which its process has to know it from the start
}
# What Ray's processes are not to inherit: keys, and the address, which this process has or leaves alone.
_HIDDEN_PREFIXES = ("WANDB_", VARIABLE)

_DASHBOARD_NICENESS = 10  # it begins while the first trials do

_OTHER_VERSION = "Version mismatch"  # how Ray's error begins
_TRY_AGAIN = "Where the machine was only busy, the same command goes on from the last checkpoint."

# What was changed for one connection to a cluster.
_undone_by_stop = contextlib.ExitStack()


def set_up_ray(address: str | None, *, dashboard: bool) -> None:
    """Sets what Ray reads when it is imported, and what its processes inherit."""
    os.environ.update({name: value for name, value in _RAY_SETTINGS.items() if name not in os.environ})
    # What the dashboard's view of trainings needs costs one process more.
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", str(int(dashboard)))
    if address is None:  # a machine alone gets no notice before it goes, and nobody else is to reach it
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        os.environ.setdefault(private.MULTI_NODE_SETTING, "0")
        prepare_token()
    elif (wants_token := check_reachable(address).wants_token) is not None:
        # Ray by itself shows a token only to a cluster of its own.
        _set_token_mode("token" if wants_token else "disabled")


def _set_token_mode(mode: str) -> None:
    """Sets whether Ray shows its token, until stop_ray."""
    before = os.environ.get(TOKEN_MODE)
    if mode == before:
        return
    os.environ[TOKEN_MODE] = mode
    private.read_token_mode_again()

    def restore() -> None:
        if before is None:
            del os.environ[TOKEN_MODE]
        else:
            os.environ[TOKEN_MODE] = before
        private.read_token_mode_again()

    _undone_by_stop.callback(restore)


def start_ray(address: str | None, token: str, *, dashboard: bool) -> str:
    """Starts a local Ray of our own, whose processes carry `token` as a mark, or joins the cluster at `address`.

    Returns:
        The address of the cluster's dashboard; "" for a Ray of our own, where `start_dashboard` is to follow.

    Raises:
        ResourceError: the cluster can't be reached, or Ray does not start.
    """
    set_up_ray(address, dashboard=dashboard)

    silence_ray()
    settings = _local_settings(dashboard=dashboard) if address is None else _cluster_settings()

    # Ray's processes inherit the environment: without secrets, and with the mark by which they are found.
    with (
        _hidden_variables(),
        private.own_process_groups(),
        contextlib.nullcontext() if address else marked(token),
        contextlib.nullcontext() if address else private.without_dashboard(),
    ):
        try:
            context = _init(address or LOCAL, settings)
        except Exception as error:  # of a node that does not come up in time, Ray raises no kind of its own
            raise ResourceError(_explain(address, str(error))) from error
    silence_ray()
    if address is None and dashboard:
        private.prestart_state_actor()
    url = context.dashboard_url or ""
    return f"http://{url}" if url and dashboard else ""


def start_dashboard(token: str) -> str:
    """Begins the dashboard of a Ray of our own, in the thread that has started it; its address.

    Raises:
        ResourceError: it does not start.
    """
    # Other threads are at work by now, which may need the keys, or start processes that are not Ray's: this process
    # keeps its environment.
    with private.own_process_groups(_HIDDEN_PREFIXES, {MARK: token}, _DASHBOARD_NICENESS):
        try:
            return private.start_dashboard()
        except Exception as error:  # Ray raises no kind of its own
            raise ResourceError(f"there is no dashboard: {error}") from error


def _explain(address: str | None, problem: str) -> str:
    """What to say where Ray could not be started or joined."""
    if problem.startswith(_OTHER_VERSION):
        (ray_there, ray_here), (python_there, python_here) = (
            re.findall(rf"{name}: (\S+)", problem) for name in ("Ray", "Python")
        )
        return (
            f"--address: the cluster at {address} has Ray {ray_there} and Python {python_there}, this command has Ray "
            f"{ray_here} and Python {python_here}, and both must be the same: run it with what the cluster has."
        )
    where = f"Ray at {address} can't be reached" if address else "Ray can't be started on this machine"
    return f"{where}: {problem}\n{_TRY_AGAIN}"


def _init(address: str, settings: Mapping[str, Any]) -> Any:
    """Ray's context; of a Ray of our own that did not come up in time, as on a busy machine, that of a second try."""
    import ray

    connect = functools.partial(
        ray.init, address=address, log_to_driver=False, logging_level=logging.ERROR, **settings
    )  # fmt: skip
    try:
        return connect()
    except Exception as error:
        if address != LOCAL or "timed out" not in str(error):
            raise
        ray.shutdown()
        return connect()


def _local_settings(*, dashboard: bool) -> dict[str, Any]:
    """What ray.init is to know of a Ray of our own."""
    machine = look_at_machine()
    settings: dict[str, Any] = {
        "include_dashboard": dashboard,
        "dashboard_host": "127.0.0.1",
        # This process may be allowed less than the machine has, and torch may be unable to use what Ray would find.
        "num_cpus": machine.cores,
        "num_gpus": machine.gpus,
        "_temp_dir": temporary_folder(),
    }
    # Ray starts some workers by a line for a shell, in which it does not quote the interpreter's path.
    if (quoted := shlex.quote(sys.executable)) != sys.executable:
        settings["runtime_env"] = {"py_executable": quoted}
    return settings


def _cluster_settings() -> dict[str, Any]:
    """What ray.init is to know of a cluster: its nodes need nothing of this project but its dependencies."""
    root = Path(__file__).parents[3]
    packages = {"py_modules": [str(root / "runner"), str(root / "gan")]}
    return {"runtime_env": packages | {"env_vars": _RAY_SETTINGS}}


def is_joined() -> bool:
    """True in this command's processes on a cluster that was joined: these packages have been sent to them."""
    import ray

    return ray.is_initialized() and "py_modules" in ray.get_runtime_context().runtime_env


def stop_ray() -> None:
    """Ends what start_ray began; a cluster that was joined goes on."""
    import ray

    ray.shutdown()
    _undone_by_stop.close()


def silence_ray() -> None:
    """Turns Ray's own messages off; what matters of them comes as errors."""
    for name in ("ray", "ray.data", "ray.train", "ray.tune", "ray._private"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def _hidden_variables() -> Iterator[None]:
    """Takes keys, and what concerns this process alone, out of the environment while others inherit from it."""
    hidden = {name: value for name, value in os.environ.items() if name.startswith(_HIDDEN_PREFIXES)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
