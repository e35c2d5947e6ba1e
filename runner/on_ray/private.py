"""Everything of Ray that we use and that Ray does not document: each with what happens where a release lacks it.

Written for Ray 2.60, the upper bound in pyproject.toml. Before that bound is raised, each of these is looked at.
"""

import asyncio
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Protocol

_MANY = 1000  # machines, where there is no limit

# The resource that only the head node has. Without it trials' drivers and the Coordinator could not be scheduled.
HEAD_NODE = "node:__internal_head__"

# What the process table calls Ray's processes. Where a release calls them otherwise, the drill finds no worker and says
# so, and the command does not notice that a Ray of its own has lost its raylet.
WORKER_TITLE = "ray::RayTrainWorker"  # of one that trains
DRIVER_TITLE = "ray::ImplicitFunc"  # of what Tune runs for a trial
CONTROLLERS_TITLE = "ray::Controllers"  # of the one that has the controllers of all trials
RAYLET = "raylet"  # of the one that starts all others of a machine, and ends them with itself

# Environment variables that Ray reads and does not document. Without them Ray starts more slowly, gives trainings a
# lower priority than its own processes, and prints more.
SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_worker_maximum_startup_concurrency": "8",  # by default a trial's worker waits for helpers to have started
    "RAY_worker_niceness": "0",  # trainings are what the machine is for
    "RAY_AIR_NEW_OUTPUT": "0",
    # Each controller would set up its process's logging again, and two that share one can block each other for ever.
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # of the lines that Ray prints in our name
}

# Set to 0, as it is by default on other systems than Linux, all of Ray listens on loopback instead of on every
# interface. Without it a Ray of our own is open to the machine's network.
MULTI_NODE_SETTING = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


# One hands out Ray Data's sets, of which we give none. The other removes the workers' placement group once their
# controller is gone, which Ray itself does for a group whose maker, as ours, is no detached actor.
NEEDLESS_CALLBACKS = ("DatasetsCallback", "PlacementGroupCleanerCallback")
PREEMPTION_CALLBACK = "PreemptionCallback"

# Of the variables that Tune copies, those that are secret.
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")

# Of processes that begin ahead: how long Ray may take for their environment, how long they wait for a task before they
# may be ended (the evaluation at a trial's end can take that long), and how long the raylet may take to hear of it.
_SETUP_TIMEOUT_S, _KEEP_ALIVE_S, _REPLY_TIMEOUT_S = 600, 3600, 10

_THREAD = threading.local()  # num_workers: of the group that a thread is starting


class PlacementGroupHandle(Protocol):
    """A placement group as Ray Train hands it over."""

    placement_group: Any

    def wait(self, timeout_seconds: float) -> bool:
        """True once it has its resources."""

    def shutdown(self) -> None:
        """Removes it."""


class ControllerInThisProcess:
    """Before TorchTrainer among a class's bases: runs Ray Train's controller here, not in an actor of its own.

    A process for each trial's controller would cost 380 MB, five seconds of processor time and as long a wait at the
    trial's start, for it imports Ray Train and torch again. Where a release has no such methods they are not called,
    and where it has no such controller its own way is taken: trials then start more slowly, and do not hear a request
    to stop while they wait for resources.

    Attributes:
        trial: what the workers' actors are called in Ray's lists.
        may_grow: whether an autoscaler may hear what the workers need.
        await_resources: called for each new group of workers; returns once the placement group has its resources.
    """

    trial: str
    may_grow: bool
    await_resources: Callable[[PlacementGroupHandle], None]

    def _create_default_callbacks(self) -> list[Any]:
        """Without those that start a process for each trial that has nothing to do."""
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        return [callback for callback in callbacks if type(callback).__name__ not in NEEDLESS_CALLBACKS]

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        """Runs the controller to its end; the training's result."""
        try:
            from ray.train.v2._internal.execution.controller import TrainController

            worker_group = _worker_group(self.trial, self.await_resources)
        except (ImportError, AttributeError):
            return super()._initialize_and_run_controller(**settings)  # type: ignore[misc]

        if not self.may_grow:
            _ask_for_no_machines(settings.get("scaling_policy"))
        controller = TrainController(**settings)
        controller.worker_group_cls = worker_group
        watch_preemption_here(controller)
        asyncio.run(controller.run())
        return controller.get_result()


def _ask_for_no_machines(scaling_policy: Any) -> None:
    """Keeps Ray Train from telling an autoscaler what it needs, on a Ray that has none.

    It would tell an actor, whose process takes 180 MB and a second of a core as the first trial starts.
    """
    for name in ("_send_resource_request", "_maybe_send_resource_request", "_cancel_resource_request"):
        if hasattr(scaling_policy, name):
            setattr(scaling_policy, name, lambda: None)


def watch_preemption_here(controller: Any) -> None:
    """Replaces the callback that watches for notices of preemption, which a controller adds to those it was given."""
    callbacks = getattr(controller, "_worker_group_callbacks_to_propagate", [])
    callbacks[:] = [_watch_here(one) if type(one).__name__ == PREEMPTION_CALLBACK else one for one in callbacks]


def _watch_here(callback: Any) -> Any:
    """Ray Train's callback that tells workers of a notice of preemption, with its watcher in a thread of this process.

    Ray Train's own is an actor for each group of workers: 107 MB on the head, and a second of a core as a trial starts.
    A release that has it elsewhere keeps its own.
    """
    try:
        from ray.train.v2._internal.execution.preemption import PreemptionWatcher
    except ImportError:
        return callback

    class PreemptionCallbackHere(type(callback)):  # type: ignore[misc]
        """Makes and ends the watcher."""

        def after_worker_group_start(self, worker_group: Any) -> None:
            self._stop_watcher()
            workers = {worker.distributed_context.world_rank: worker for worker in worker_group.get_workers()}
            ranks_by_node: dict[str, list[int]] = {}
            for rank, worker in workers.items():
                ranks_by_node.setdefault(worker.metadata.node_id, []).append(rank)
            actors = {rank: worker.actor for rank, worker in workers.items()}
            self._watcher = PreemptionWatcher(ranks_by_node, self._poll_interval_s, actors)

        def _stop_watcher(self) -> None:
            watcher, self._watcher = self._watcher, None
            if watcher is not None:
                watcher._stop_event.set()  # its thread ends with the next look

    return PreemptionCallbackHere()


def _worker_group(trial: str, await_resources: Callable[[PlacementGroupHandle], None]) -> type:
    """Ray Train's group of workers, whose actors carry the trial's name, and whose resources we wait for.

    Raises:
        ImportError, AttributeError: this release has another one.
    """
    from ray.train.v2._internal.execution.worker_group import WorkerGroup

    create_placement_group, worker = WorkerGroup._create_placement_group, WorkerGroup._worker_cls
    # Ray lists an actor, and titles its process, by the `repr` of its object.
    title = f"{worker.__name__}({trial})"
    named_worker = type(worker.__name__, (worker,), {"__repr__": lambda self: title})

    class TrialWorkerGroup(WorkerGroup):
        """Of one trial."""

        _worker_cls = named_worker

        def _create_placement_group(self, scaling: Any, context: Any) -> Any:
            # Ray Train would wait for a minute, and hear nothing meanwhile.
            handle = create_placement_group(self, scaling, context)
            await_resources(handle)
            # What synchronizes the workers is made next, in this thread.
            _THREAD.num_workers = context.num_workers
            return handle

    _leave_out_needless_synchronization()
    return TrialWorkerGroup


class _Answer:
    """A method that answers a single worker with what it says itself."""

    def remote(self, *_: Any, data: Any = None, **__: Any) -> Any:
        """A reference to the data."""
        import ray

        return ray.put(data)


class LoneSynchronization:
    """As Ray Train's SynchronizationActor, for a group of one worker, which has nobody to wait for.

    The actor would be a process for each trial: 107 MB on the head, and 1.3 seconds of a core as the trial starts.
    """

    broadcast_from_rank_zero = _Answer()
    set_required_ranks = _Answer()


class _Synchronizations:
    """In place of Ray Train's SynchronizationActor: makes one, or what a single worker needs."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def options(self, **options: Any) -> "_Synchronizations":
        """With the options for an actor."""
        return _Synchronizations(self.actor.options(**options))

    def remote(self, **settings: Any) -> Any:
        """A new one, for the group that this thread is starting."""
        is_alone = getattr(_THREAD, "num_workers", 0) == 1
        return LoneSynchronization() if is_alone else self.actor.remote(**settings)


def _leave_out_needless_synchronization() -> None:
    """Has Ray Train's groups of one worker do without an actor. A release that has it elsewhere keeps its own."""
    try:
        from ray.train.v2._internal.execution.worker_group import state, worker_group

        actor, end = worker_group.SynchronizationActor, state._shutdown_sync_actor
    except (ImportError, AttributeError):
        return
    if isinstance(actor, _Synchronizations):
        return

    def end_actor(found: Any) -> None:
        if not isinstance(found, LoneSynchronization):
            end(found)

    # The second is set first: with it alone nothing changes, whichever thread starts a group meanwhile.
    state._shutdown_sync_actor = end_actor
    worker_group.SynchronizationActor = _Synchronizations(actor)


def running_cluster() -> str | None:
    """The address, HOST:PORT, that `auto` stands for: of a cluster that runs on this machine, or was left to be found.

    Raises:
        ImportError: this release finds it elsewhere. It is then not tried before Ray joins it.
    """
    from ray._private.services import get_ray_address_from_environment

    try:
        return str(get_ray_address_from_environment("auto", None))
    except ConnectionError:
        return None


def has_autoscaler() -> bool:
    """True where an autoscaler adds machines to the cluster that was joined. A release that does not tell has none."""
    with contextlib.suppress(ImportError, AttributeError):
        import ray
        from ray.autoscaler.v2.utils import is_autoscaler_v2
        from ray.experimental.internal_kv import _internal_kv_get

        if is_autoscaler_v2(gcs_client=ray._private.worker.global_worker.gcs_client):
            return True
        # Without one, a monitor reports each node under a name that begins like this.
        status = json.loads(_internal_kv_get("__autoscaling_status") or "{}")
        names = status.get("autoscaler_report", {}).get("active_nodes", {})
        return any(not name.startswith("node_") for name in names)
    return False


def node_types() -> list[tuple[Mapping[str, float], int]] | None:
    """The kinds of machines that the cluster may get: what each has, and how many there may be; None where it does
    not say, or this release has nothing to ask."""
    try:
        from ray._private.state import state

        config = state.get_cluster_config()
    except (ImportError, AttributeError):
        return None
    if config is None or not config.node_group_configs:
        return None
    # A negative number stands for no limit.
    return [
        (dict(group.resources), group.max_count if group.max_count >= 0 else _MANY)
        for group in config.node_group_configs
    ]


def prestart_state_actor() -> None:
    """Begins the process that the dashboard has its view of trainings from.

    Ray Train would begin it as the first trial starts, and wait for it: two seconds, in which the trial's driver loads
    its libraries now. A release that has it elsewhere starts it itself, later.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from ray.train.v2._internal.state.state_actor import get_or_create_state_actor

        get_or_create_state_actor()


def setup_hook(function: str) -> dict[str, str]:
    """The environment variables by which a process of Ray's calls a function, `module.name`, before its first task.

    Ray sets them for all processes of a connection, or for none. Where a release has no such hook, nothing is called.
    """
    try:
        from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR
    except ImportError:
        return {}
    return {WORKER_PROCESS_SETUP_HOOK_ENV_VAR: function}


def propagated_variables() -> dict[str, str]:
    """The environment variables that Ray Train adds for its workers. A release that has them elsewhere has none here:
    the first workers' processes are then begun for nothing."""
    try:
        from ray.train.v2._internal.constants import get_env_vars_to_propagate
    except ImportError:
        return {}
    return dict(get_env_vars_to_propagate())


def begin_process(runtime_env: str, count: int = 1) -> None:
    """Has this machine's raylet begin processes for actors and tasks to come, of this job and with this runtime
    environment; returns at once.

    They cost nothing but time where nobody asks for them. A release that has no such request begins each when it is
    asked for.
    """
    with contextlib.suppress(ImportError, AttributeError):
        import grpc
        import ray
        from ray._private.grpc_utils import init_grpc_channel
        from ray.core.generated.common_pb2 import Language
        from ray.core.generated.node_manager_pb2 import PrestartWorkersRequest
        from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub
        from ray.core.generated.runtime_environment_pb2 import RuntimeEnvConfig, RuntimeEnvInfo

        node = ray._private.worker.global_worker.node
        environment = RuntimeEnvInfo(
            serialized_runtime_env=runtime_env,
            runtime_env_config=RuntimeEnvConfig(setup_timeout_seconds=_SETUP_TIMEOUT_S, eager_install=True),
        )
        request = PrestartWorkersRequest(
            language=Language.PYTHON,
            job_id=bytes.fromhex(ray.get_runtime_context().get_job_id()),
            runtime_env_info=environment,
            keep_alive_duration_secs=_KEEP_ALIVE_S,
            num_workers=count,
        )
        address = f"{node.node_ip_address}:{node.node_manager_port}"
        with contextlib.suppress(grpc.RpcError), init_grpc_channel(address) as channel:
            NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=_REPLY_TIMEOUT_S)


def propagate_no_credentials() -> None:
    """Keeps Tune from copying AWS credentials into its drivers' runtime environment, which Ray logs.

    A driver does not need them, and workers have those of their machine. In a release that has the list elsewhere they
    are copied, as Ray's own way is.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from ray.tune.execution import class_cache

        for name in CREDENTIALS:
            class_cache.ENV_VARS_TO_PROPAGATE.discard(name)


@contextlib.contextmanager
def own_process_groups(
    hidden: tuple[str, ...] = (), added: Mapping[str, str] = MappingProxyType({}), niceness: int = 0
) -> Iterator[None]:
    """Ray's processes that begin inside the block are each in a process group of their own.

    `timeout` and many a supervisor send SIGTERM to the whole group of a command. Ray would be gone then
    before its workers have saved; it ends with this process in any case. A release that starts its processes
    in another way does without.

    Args:
        hidden: how the names of environment variables begin that the processes do not get.
        added: variables that they get besides.
        niceness: of the processes; more lets others go first.
    """
    try:
        from ray._private import services
    except ImportError:
        services = None
    popen = getattr(services, "ConsolePopen", None)
    if popen is None:
        yield
        return

    def start(*arguments: Any, env: Mapping[str, str] | None = None, **settings: Any) -> Any:
        given = os.environ if env is None else env
        kept = {name: value for name, value in given.items() if not name.startswith(hidden)}
        process = popen(*arguments, env={**kept, **added}, process_group=0, **settings)
        if niceness:
            os.setpriority(os.PRIO_PROCESS, process.pid, niceness)
        return process

    services.ConsolePopen = start
    try:
        yield
    finally:
        services.ConsolePopen = popen


@contextlib.contextmanager
def without_dashboard() -> Iterator[None]:
    """A Ray of our own that starts inside the block has neither a dashboard nor an autoscaler nor a reader of logs.

    It has one machine for good, and its logs are shown nowhere. These processes take a core for two seconds, in which
    the raylet is not begun yet. A release that starts its processes in another way starts these as well.
    """
    with contextlib.ExitStack() as undone:
        with contextlib.suppress(ImportError, AttributeError):
            from ray._private.node import Node

            for name in ("start_monitor", "start_api_server", "start_log_monitor"):
                undone.callback(setattr, Node, name, getattr(Node, name))
                setattr(Node, name, lambda *_, **__: None)
        yield


def start_dashboard() -> str:
    """Begins the dashboard of a Ray that was started inside `without_dashboard`; its address.

    To be called in the thread that started Ray: these processes end with the thread that began them.

    Raises:
        Exception: it does not start.
    """
    import ray

    node: Any = ray._private.worker._global_node
    node.start_monitor()  # it has what the dashboard shows of the machine's use
    node.start_api_server(include_dashboard=True, raise_on_failure=True)
    return f"http://{node.webui_url}"


def causes(error: BaseException) -> Iterator[BaseException]:
    """A failed run's error, and what caused it, outermost first; of Ray's nested errors, the workers' own.

    Where a release names the inner errors otherwise, the chain ends earlier: the reason is then less precise.
    """
    following: BaseException | None = error
    while isinstance(following, BaseException):
        yield following
        failures = getattr(following, "worker_failures", None)
        inner = (getattr(following, name, None) for name in ("cause", "health_check_failure", "__cause__"))
        following = next(iter(failures.values())) if failures else next(filter(None, inner), None)


def node_drainer(address: str) -> Callable[[str, float], None]:
    """A function that gives a cluster notice that a node will be preempted; its arguments: the node's id, seconds.

    Raises:
        ImportError: this release has no such request. The drill then does not try that fault.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled, without types
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    client = GcsClient(address=address)
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")

    def drain(node_id: str, notice_s: float) -> None:
        deadline_ms = int((time.time() + notice_s) * 1000)
        accepted, why_not = client.drain_node(node_id, reason, "a drill", deadline_ms)
        if not accepted:
            raise RuntimeError(f"the node could not be drained: {why_not}")

    return drain


def read_token_mode_again() -> None:
    """Has a Ray that was loaded before read RAY_AUTH_MODE again; a release that can't keeps what it read then."""
    if "ray" in sys.modules:
        with contextlib.suppress(ImportError, AttributeError):
            from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled

            Config.initialize("")
            AuthenticationTokenLoader.instance().reset_cache()


def remembered_execution(dataset: Any) -> Callable[[], None]:
    """Has a dataset of Ray Data remember its execution; what ends it, in any thread, so that whoever waits for it ends.

    Where a release makes its executors otherwise nothing is ended. A command that was stopped while it waits for
    pictures to be cut may then exit with 1: the thread that waits speaks to a Ray that is gone.
    """
    executors: list[Any] = []
    create = getattr(dataset, "_create_executor", None)

    def create_and_remember() -> Any:
        executors.append(create())  # type: ignore[misc]  # it is called in this case only
        return executors[-1]

    if create is not None:
        dataset._create_executor = create_and_remember

    def end() -> None:
        for executor in executors:
            executor.shutdown(force=True)

    return end


def load_ray() -> None:
    """Loads Ray with all that its start needs. Two threads that load it at once may each see half of a module."""
    import ray
    import ray._private.node
    import ray._private.services  # noqa: F401
