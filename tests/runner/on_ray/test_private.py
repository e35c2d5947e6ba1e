"""What of Ray is not documented: this release has it, and what happens where one has not."""

import inspect
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from runner.on_ray import private

MODULES = (
    "ray._private.grpc_utils",
    "ray._private.node",
    "ray._private.ray_constants",
    "ray._private.services",
    "ray._raylet",
    "ray.train.v2._internal.constants",
    "ray.train.v2._internal.execution.controller",
    "ray.train.v2._internal.execution.preemption",
    "ray.train.v2._internal.state.state_actor",
)


class OwnWay:
    """As Ray Train's trainer: what a release without our controller does by itself."""

    def _create_default_callbacks(self) -> list[Any]:
        names = ("DatasetsCallback", "PlacementGroupCleanerCallback", "WorkingDirectorySetupCallback")
        return [type(name, (), {})() for name in names]

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        return settings


class Trainer(private.ControllerInThisProcess, OwnWay):
    """Ours, over it."""

    may_grow = True


@pytest.fixture
def other_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray that has none of the modules: to import one fails."""
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, None)
        package, _, module = name.rpartition(".")
        if package in sys.modules:
            monkeypatch.delattr(sys.modules[package], module, raising=False)


def test_this_release_has_what_is_not_documented() -> None:
    """Each absence would only make things slower, so nothing else would show it."""
    from ray._private import services
    from ray._private.node import Node
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks import datasets, placement_group_callback
    from ray.train.v2._internal.execution.controller import TrainController
    from ray.train.v2._internal.execution.scaling_policy import ScalingPolicy
    from ray.train.v2._internal.state import state_actor

    assert callable(services.ConsolePopen)
    assert callable(GcsClient)
    assert DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    for name in ("start_monitor", "start_api_server", "start_log_monitor"):
        assert callable(getattr(Node, name))
    assert private.setup_hook("package.module.function")
    assert callable(state_actor.get_or_create_state_actor)
    assert callable(TrainController.run)
    assert callable(TrainController.get_result)
    assert callable(TorchTrainer._create_default_callbacks)
    assert callable(TorchTrainer._initialize_and_run_controller)
    by_controller = inspect.getsource(TrainController.__init__)
    assert f"_worker_group_callbacks_to_propagate.append({private.PREEMPTION_CALLBACK}())" in by_controller
    for module, name in zip((datasets, placement_group_callback), private.NEEDLESS_CALLBACKS, strict=True):
        assert hasattr(module, name)
    for name in ("_send_resource_request", "_maybe_send_resource_request", "_cancel_resource_request"):
        assert callable(getattr(ScalingPolicy, name))


@pytest.mark.usefixtures("other_release")
def test_without_it_rays_own_way_is_taken() -> None:
    private.prestart_state_actor()
    private.begin_process("{}")
    assert private.setup_hook("package.module.function") == {}
    assert private.propagated_variables() == {}
    with private.own_process_groups(), private.without_dashboard():
        pass
    assert Trainer()._initialize_and_run_controller(name="trial") == {"name": "trial"}
    with pytest.raises(ImportError):
        private.node_drainer("127.0.0.1:6379")


def test_processes_begin_in_their_own_groups_inside_the_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []
    services = ModuleType("services")
    services.ConsolePopen = lambda **settings: started.append(settings)  # type: ignore[attr-defined]
    monkeypatch.setattr("ray._private.services", services)
    with private.own_process_groups(hidden=("SECRET_",), added={"MARK": "1"}):
        services.ConsolePopen(env={"PATH": "/", "SECRET_KEY": "x"})
    services.ConsolePopen()
    assert started == [{"process_group": 0, "env": {"PATH": "/", "MARK": "1"}}, {}]


def test_the_two_callbacks_that_start_processes_are_left_out() -> None:
    (kept,) = Trainer()._create_default_callbacks()
    assert type(kept).__name__ == "WorkingDirectorySetupCallback"


def replaced(callback: object) -> Any:
    """What becomes of a callback that Ray's controller has added."""
    controller = SimpleNamespace(_worker_group_callbacks_to_propagate=[object(), callback])
    private.watch_preemption_here(controller)
    other, watch = controller._worker_group_callbacks_to_propagate
    assert type(other) is object
    return watch


def test_tune_copies_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray's list is renamed, this fails: they would be in its log."""
    from ray.tune.execution import class_cache

    for name in private.CREDENTIALS:
        monkeypatch.setenv(name, "planted")
    private.propagate_no_credentials()
    drive = class_cache._ActorClassCache().get(type("Driver", (), {}))
    assert "planted" not in str(drive._default_options["runtime_env"])


@pytest.mark.usefixtures("other_release")
def test_a_release_with_another_watcher_keeps_its_own() -> None:
    own = type(private.PREEMPTION_CALLBACK, (), {})()
    assert replaced(own) is own
    private.watch_preemption_here(object())


def test_workers_hear_of_a_preemption_by_a_thread_that_ends_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train.v2._internal.callbacks import preemption_callback
    from ray.train.v2._internal.execution import preemption

    told: list[list[int]] = []
    is_told = threading.Event()

    def mark(info: Any) -> None:
        told.append(sorted(info.preempted_ranks))
        is_told.set()

    monkeypatch.setattr(preemption, "_get_draining_nodes", lambda: {"b": 0})
    monkeypatch.setattr(preemption.ray, "nodes", list)
    workers = [
        SimpleNamespace(
            distributed_context=SimpleNamespace(world_rank=rank),
            metadata=SimpleNamespace(node_id=node),
            actor=SimpleNamespace(mark_preempt=SimpleNamespace(remote=mark)),
        )
        for rank, node in enumerate("abb")
    ]
    watch = replaced(preemption_callback.PreemptionCallback())
    watch.after_worker_group_start(SimpleNamespace(get_workers=lambda: workers))
    thread = watch._watcher._monitor_thread
    assert is_told.wait(60)
    watch.before_worker_group_shutdown(None)
    thread.join(60)
    assert not thread.is_alive()
    assert told[0] == [1, 2]
    watch.before_worker_group_shutdown(None)  # a second time there is none


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_single_worker_is_synchronized_without_an_actor(monkeypatch: pytest.MonkeyPatch, num_workers: int) -> None:
    from ray import cloudpickle
    from ray.train.v2._internal.execution.worker_group import state, worker_group

    made, ended = [], []
    actor = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda **settings: made.append(settings) or "a"))
    monkeypatch.setattr(worker_group, "SynchronizationActor", actor)
    monkeypatch.setattr(state, "_shutdown_sync_actor", ended.append)
    monkeypatch.setattr("ray.put", lambda data: f"reference to {data}")
    private._leave_out_needless_synchronization()
    private._leave_out_needless_synchronization()  # by the next trial

    monkeypatch.setattr(private._THREAD, "num_workers", num_workers, raising=False)
    found = worker_group.SynchronizationActor.options(label_selector={}).remote(timeout_s=1)
    state._shutdown_sync_actor(found)
    if num_workers > 1:
        assert (found, made, ended) == ("a", [{"timeout_s": 1}], ["a"])
        return
    assert (made, ended) == ([], [])
    copy = cloudpickle.loads(cloudpickle.dumps(found))  # as it comes to the worker
    told = copy.broadcast_from_rank_zero.remote(world_rank=0, world_size=1, data="name", caller_method_name="report")
    assert told == "reference to name"
    assert copy.set_required_ranks.remote([0]) == "reference to None"
