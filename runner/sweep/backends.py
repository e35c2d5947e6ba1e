"""Where trials run: on Ray, or in this process. Nothing starts before it is needed."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from runner.config.schema import Data
from runner.console import Console
from runner.data.shards import ShardReport, cut_in_this_process
from runner.data.sources import Source
from runner.on_ray.private import RAYLET
from runner.process.machine import Machine
from runner.process.processes import is_running
from runner.records.trial_file import write_outcome
from runner.storage.folder import Storage
from runner.trial.heartbeat import Coordinator, Heartbeat, Progress
from runner.trial.job import TrialJob, first_line
from runner.trial.progress import TrialProgress
from runner.trial.resources import Node, TrialResources, this_machine

# A Ray that is going down may never reply, and the monitor's thread must not wait for ever.
_REPLY_TIMEOUT_S = 10


class Backend(Protocol):
    """What a run needs of the place where trials run."""

    def begin(self) -> None:
        """Begins to start what will be needed, and returns at once."""

    def nodes(self) -> Sequence[Node]:
        """The machines that there are."""

    def check_nodes(self, experiment: Storage, token: str) -> None:
        """Raises UserError where a machine does not see the experiment's folder, in which the lock has that token."""

    def cut(self, source: Source, data: Data, folder: Storage) -> Iterator[ShardReport]:
        """Cuts the source's pictures into patches, shard after shard, in a folder; reports in order."""

    def train(self, jobs: Sequence[TrialJob], trial_resources: TrialResources, ray_folder: str) -> None:
        """Runs the jobs until all have ended."""

    def request_stop(self, reason: str) -> None:
        """Asks all workers to save and stop."""

    def stop_reason(self) -> str:
        """Why the workers are to stop; "" while they are not. A worker may have asked for it, too."""

    def progress(self) -> Mapping[str, Progress]:
        """How far each trial is."""

    def publish(self, experiment: str, trials: Sequence[TrialProgress]) -> None:
        """Hands the progress of an experiment's trials to monitoring systems."""

    def is_lost(self) -> bool:
        """True where the processes that trials need are gone, though not ended from here, or can't be joined."""

    def close(self) -> None:
        """Ends what was started."""


class InProcess:
    """One trial after another in this process, without Ray: for a debugger, or a machine that has no Ray."""

    def __init__(self) -> None:
        # No actor: trials run in this process, and call the Coordinator directly.
        self._coordinator = Coordinator()
        self.request_stop = self._coordinator.request_stop
        self.stop_reason = self._coordinator.stop_reason
        self.progress = self._coordinator.progress

    def begin(self) -> None:
        """Does nothing: this process runs already."""

    def nodes(self) -> Sequence[Node]:
        """This machine."""
        return [this_machine()]

    def check_nodes(self, experiment: Storage, token: str) -> None:
        """Does nothing: there is no other machine."""

    def cut(self, source: Source, data: Data, folder: Storage) -> Iterator[ShardReport]:
        """Cuts with one thread for each core."""
        return cut_in_this_process(source, data, folder)

    def train(self, jobs: Sequence[TrialJob], trial_resources: TrialResources, ray_folder: str) -> None:
        """Runs the jobs in turn. An error in one is raised at once, so that a debugger stops where it is."""
        # Loaded late, because torch takes seconds: a command that trains nothing may do without it.
        import torch

        from gan.training.process_group import ProcessGroup
        from runner.trial.loop import NoPlatform, train_trial

        device = torch.device("cuda", 0) if trial_resources.device == "cuda" else torch.device("cpu")
        for job in jobs:
            # By this outcome the monitor knows that the trial's turn has come.
            write_outcome(job.trial, "running")
            try:
                with Heartbeat(job.name, self._coordinator) as heartbeat:
                    train_trial(job, ProcessGroup(), device, heartbeat, NoPlatform())
            except Exception as error:
                job.log_line(f"failed: {error}")
                write_outcome(job.trial, "failed", first_line(error))
                raise

    def publish(self, experiment: str, trials: Sequence[TrialProgress]) -> None:
        """Does nothing: without Ray there is no monitoring system."""

    def is_lost(self) -> bool:
        """False: trials need this process only."""
        return False

    def close(self) -> None:
        """Does nothing: nothing was started."""


class OnRay:
    """Ray Data, Tune and Train, on a Ray of our own or on the cluster at `address`.

    Args:
        token: marks the processes of a Ray of our own.
        handle_signals: installs our signal handlers again, after Ray has installed its own.
    """

    def __init__(
        self, address: str | None, token: str, console: Console, handle_signals: Callable[[], None], *, dashboard: bool
    ) -> None:
        self._address, self._token, self._console, self._dashboard = address, token, console, dashboard
        self._handle_signals = handle_signals
        self._starter = ThreadPoolExecutor(1, "start-ray")
        self._starting: Future[str] | None = None
        self._loaded = threading.Event()
        self._is_started = False
        self._coordinator: Any = None
        self._metrics: Any = None
        self._stop_reason = ""
        self._machines: Mapping[str, Machine] = {}

    def begin(self) -> None:
        """Starts Ray in a thread: its processes take seconds, in which the storage can be looked at."""
        if self._starting is None:
            from runner.on_ray.connection.cluster import set_up_ray

            # In this thread and first: Ray reads these settings when any thread imports it.
            set_up_ray(self._address, dashboard=self._dashboard)
            self._starting = self._starter.submit(self._load_and_start)

    def _load_and_start(self) -> str:
        """The work of that thread; the dashboard's address."""
        try:
            from runner.on_ray.private import load_ray

            load_ray()
        finally:
            self._loaded.set()
        from runner.on_ray.connection.cluster import start_ray

        return start_ray(self._address, self._token, dashboard=self._dashboard)

    def _start(self) -> None:
        """Waits until Ray has started."""
        if self._is_started:
            return
        self.begin()
        assert self._starting is not None
        # Two threads that load Ray at once may each see modules that the other has only half loaded.
        self._loaded.wait()
        import runner.on_ray.tune  # noqa: F401 - loaded for a second, while Ray's processes start

        url = self._starting.result()
        self._is_started = True
        self._handle_signals()
        if url:
            from runner.on_ray.connection.folders import token_place

            token = token_place()
            hint = f" (it asks for the token that is in {token})" if token else ""
            self._console.print(f"Ray dashboard: {url}{hint}")

    def nodes(self) -> Sequence[Node]:
        """The cluster's machines, with what check_nodes found on them; this machine, where Ray is our own."""
        self._start()
        if self._address is None:
            return [this_machine()]
        from runner.on_ray.connection.cluster import cluster_nodes

        return cluster_nodes(self._machines)

    def check_nodes(self, experiment: Storage, token: str) -> None:
        """Asks each node of a cluster that was joined."""
        if self._address is None:
            return
        self._start()
        from runner.on_ray.connection.shared_storage import check_nodes

        self._machines = check_nodes(experiment, token)

    def cut(self, source: Source, data: Data, folder: Storage) -> Iterator[ShardReport]:
        """Cuts through Ray Data, on all cores of the cluster."""
        self._start()
        from runner.on_ray.prepare import cut_with_ray

        return cut_with_ray(source, data, folder)

    def train(self, jobs: Sequence[TrialJob], trial_resources: TrialResources, ray_folder: str) -> None:
        """Runs the jobs through Ray Tune, as many at once as fit."""
        self._start()
        from runner.on_ray.tune import run_tune, start_coordinator

        self._coordinator = start_coordinator()
        if self._stop_reason:  # asked for before there was a coordinator
            self._coordinator.request_stop.remote(self._stop_reason)
        run_tune(jobs, trial_resources, ray_folder, self._coordinator, lambda: bool(self._stop_reason))

    def request_stop(self, reason: str) -> None:
        """Passes the request to the Coordinator actor."""
        self._stop_reason = reason
        if self._coordinator is not None:
            self._coordinator.request_stop.remote(reason)

    def stop_reason(self) -> str:
        """The Coordinator actor's."""
        if self._coordinator is None:
            return self._stop_reason
        import ray

        return str(ray.get(self._coordinator.stop_reason.remote(), timeout=_REPLY_TIMEOUT_S))

    def progress(self) -> Mapping[str, Progress]:
        """The Coordinator actor's."""
        if self._coordinator is None:
            return {}
        import ray

        return dict(ray.get(self._coordinator.progress.remote(), timeout=_REPLY_TIMEOUT_S))

    def publish(self, experiment: str, trials: Sequence[TrialProgress]) -> None:
        """Exports Ray metrics, where there is a dashboard, once trials run."""
        if not self._dashboard or self._coordinator is None or not self._is_started:
            return
        # Not made earlier, because Ray must have been started for it.
        if self._metrics is None:
            from runner.on_ray.metrics import TrialMetrics

            self._metrics = TrialMetrics(experiment)
        self._metrics.update(trials)

    def is_lost(self) -> bool:
        """True where a Ray of our own has lost its raylet, and while a cluster is joined; then it is not watched."""
        if self._address is not None:
            return self._starting is not None and not self._starting.done()
        return self._is_started and not is_running(RAYLET, self._token)

    def close(self) -> None:
        """Ends a Ray of our own, though it may still be starting; leaves a cluster that was joined."""
        # First, so that `is_lost` does not take the end of Ray's processes for a loss.
        self._is_started = False
        # `exception` waits for a start that still goes on. After a start that failed there is nothing to end.
        if self._starting is not None and self._starting.exception() is None:
            from runner.on_ray.connection.cluster import stop_ray

            stop_ray()
        self._starter.shutdown()  # last: Ray's end takes 15 s where the thread that began it is gone
