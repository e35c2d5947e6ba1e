"""Where trials run: on Ray, or in this process. Nothing starts before it is needed."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from runner.config.schema import Data
from runner.console import Console
from runner.data.shards import ShardReport, cut_in_this_process
from runner.data.sources import Source
from runner.errors import ResourceError
from runner.on_ray.connection.address import is_client
from runner.on_ray.connection.head_watch import HeadWatch
from runner.on_ray.private import RAYLET
from runner.process.machine import Machine
from runner.process.processes import is_running
from runner.records.trial_file import write_outcome
from runner.storage.run_folder import LOCK
from runner.storage.storage import Storage
from runner.trial.heartbeat import Coordinator, Heartbeat, Progress
from runner.trial.job import TrialJob, first_line
from runner.trial.progress import TrialProgress
from runner.trial.resources import Node, TrialResources, this_machine

CUT_THREAD = "cut"  # the name of threads that wait for pictures to be cut
# A Ray that is going down may never reply, and the monitor's thread must not wait for ever.
_REPLY_TIMEOUT_S = 10


class Machines(Protocol):
    """The machines that trials run on."""

    def nodes(self) -> Sequence[Node]:
        """Those that there are."""

    def possible_nodes(self) -> Sequence[Node] | None:
        """Those that there may be at most; None where nobody knows."""

    def may_grow(self, resource: str = "CPU") -> bool:
        """True where machines with this resource are added when there is a need."""

    def demand(self, trial: TrialResources) -> AbstractContextManager[None]:
        """Inside the block, whoever adds machines sees that a trial needs this."""

    def usage(self) -> str:
        """How much of them is in use, for people."""


class OneMachine:
    """This machine alone."""

    def nodes(self) -> Sequence[Node]:
        """This machine."""
        return [this_machine()]

    def possible_nodes(self) -> Sequence[Node] | None:
        """This machine."""
        return self.nodes()

    def may_grow(self, resource: str = "CPU") -> bool:
        """False."""
        return False

    def demand(self, trial: TrialResources) -> AbstractContextManager[None]:
        """Nobody to tell."""
        return nullcontext()

    def usage(self) -> str:
        """The work is at hand."""
        return "this machine is at work"


class Backend(Protocol):
    """What a run needs of the place where trials run."""

    def begin(self) -> None:
        """Begins to start what will be needed, and returns at once."""

    @property
    def machines(self) -> Machines:
        """The machines that trials run on."""

    def check_nodes(self, experiment: Storage, token: str, name: str = LOCK) -> None:
        """Raises UserError where a machine does not see the experiment's folder, in which a file has that token."""

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

    def waiting_s(self) -> Mapping[str, float]:
        """For how many seconds each trial has waited that waits for room on the machines."""

    def set_max_concurrent(self, max_concurrent: int) -> None:
        """Runs more trials at once from now on, or begins none until fewer are running."""

    def publish(self, experiment: str, trials: Sequence[TrialProgress]) -> None:
        """Hands the progress of an experiment's trials to monitoring systems."""

    def is_lost(self) -> bool:
        """True where the processes that trials need are gone, though not ended from here, or can't be joined."""

    def loss(self) -> str:
        """Why the command can't go on, though nobody has asked it to stop; "" while it can."""

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
        self.waiting_s = self._coordinator.waiting_s
        self.machines: Machines = OneMachine()

    def begin(self) -> None:
        """Does nothing: this process runs already."""

    def check_nodes(self, experiment: Storage, token: str, name: str = LOCK) -> None:
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

    def set_max_concurrent(self, max_concurrent: int) -> None:
        """Does nothing: it is one trial at a time."""

    def publish(self, experiment: str, trials: Sequence[TrialProgress]) -> None:
        """Does nothing: without Ray there is no monitoring system."""

    def is_lost(self) -> bool:
        """False: trials need this process only."""
        return False

    def loss(self) -> str:
        """ "" for the same reason."""
        return ""

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
        self._dashboard_starting: Future[None] | None = None
        self._loaded = threading.Event()
        self._is_started = False
        self._coordinator: Any = None
        self._search: Any = None
        self._head: HeadWatch | None = None
        self._metrics: Any = None
        self._cuts: list[Callable[[], None]] = []
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
        if self._address is not None:
            self._head = HeadWatch(self._address, self._console.print)
        self._handle_signals()
        if url:
            self._name_dashboard(url)
        elif self._dashboard and self._address is None:
            self._dashboard_starting = self._starter.submit(self._start_dashboard)

    def _start_dashboard(self) -> None:
        """In the thread that started Ray, while trials begin: they do not need it."""
        from runner.on_ray.connection.cluster import start_dashboard

        try:
            self._name_dashboard(start_dashboard(self._token))
        except ResourceError as error:
            self._console.print(f"note: {error}")

    def _name_dashboard(self, url: str) -> None:
        from runner.on_ray.connection.folders import token_place

        token = token_place()
        hint = f" (it asks for the token that is in {token})" if token else ""
        self._console.print(f"Ray dashboard: {url}{hint}")

    @property
    def machines(self) -> Machines:
        """The cluster's machines, with what check_nodes found on them; this machine, where Ray is our own."""
        self._start()
        if self._address is None:
            return OneMachine()
        from runner.on_ray.connection.capacity import ClusterMachines

        return ClusterMachines(self._machines)

    def check_nodes(self, experiment: Storage, token: str, name: str = LOCK) -> None:
        """Asks each node of a cluster that was joined."""
        if self._address is None:
            return
        self._start()
        from runner.on_ray.connection.shared_storage import check_nodes

        self._machines = check_nodes(experiment, token, name)

    def cut(self, source: Source, data: Data, folder: Storage) -> Iterator[ShardReport]:
        """Cuts through Ray Data, on all cores of the cluster; where Ray's client is all that this machine has, here."""
        self._start()
        if is_client(self._address):  # Ray Data does not work through it
            return cut_in_this_process(source, data, folder)
        from runner.on_ray.prepare import cut_with_ray

        return cut_with_ray(source, data, folder, self._cuts.append)

    def train(self, jobs: Sequence[TrialJob], trial_resources: TrialResources, ray_folder: str) -> None:
        """Runs the jobs through Ray Tune, as many at once as fit."""
        self._start()
        from runner.on_ray.prestart import prestart_first
        from runner.on_ray.tune import new_search, run_tune, start_coordinator

        # Of a halved sweep the first stage only: the trials that end at a rung begin the processes of the next.
        if self._address is None and self._search is None:
            at_once = min(trial_resources.max_concurrent, len(jobs)) * trial_resources.workers
            prestart_first(at_once, trial_resources.cpus_per_worker)
        self._coordinator = start_coordinator()
        if self._stop_reason:  # asked for before there was a coordinator
            self._coordinator.request_stop.remote(self._stop_reason)
        self._search = new_search(trial_resources.max_concurrent)
        run_tune(jobs, trial_resources, ray_folder, self._coordinator, self._search, lambda: bool(self._stop_reason))

    def set_max_concurrent(self, max_concurrent: int) -> None:
        """Tune asks for it before it begins a trial."""
        if self._search is not None:
            self._search.max_concurrent = max_concurrent

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

    def waiting_s(self) -> Mapping[str, float]:
        """The Coordinator actor's."""
        if self._coordinator is None:
            return {}
        import ray

        return dict(ray.get(self._coordinator.waiting_s.remote(), timeout=_REPLY_TIMEOUT_S))

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
        """True where our own Ray has lost its raylet; of a cluster, while it is joined, and once its head is gone."""
        if self._address is None:
            return self._is_started and not is_running(RAYLET, self._token)
        is_joining = self._starting is not None and not self._starting.done()
        return is_joining or self.loss() != ""

    def loss(self) -> str:
        """Why a cluster is lost for good; "" while it is not."""
        return self._head.loss() if self._head is not None else ""

    def _end_cuts(self) -> None:
        """Ends the cutting that a stop has left behind, for Ray ends a process in which a thread still speaks to it."""
        for end in self._cuts:
            end()
        for thread in threading.enumerate():
            if thread.name == CUT_THREAD:
                thread.join(_REPLY_TIMEOUT_S)

    def close(self) -> None:
        """Ends a Ray of our own, though it may still be starting; leaves a cluster that was joined."""
        # First, so that nobody takes the end of Ray's processes for a loss.
        self._is_started = False
        if self._head is not None:
            self._head.close()
        self._end_cuts()
        # `exception` waits for a start that still goes on. After a start that failed there is nothing to end.
        if self._starting is not None and self._starting.exception() is None:
            if self._dashboard_starting is not None:
                self._dashboard_starting.exception()
            from runner.on_ray.connection.cluster import stop_ray

            stop_ray()
        self._starter.shutdown()  # last: Ray's end takes 15 s where the thread that began it is gone
