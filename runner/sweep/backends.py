"""Where trials run: on Ray, or in this process. Nothing starts before it is needed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from runner.config.schema import Data
from runner.console import Console, TrialView
from runner.data.shards import ShardReport, cut_in_this_process
from runner.data.sources import Source
from runner.process.processes import is_running
from runner.records.trial_file import write_outcome
from runner.storage.folder import Storage
from runner.trial.heartbeat import Coordinator, Heartbeat, Progress
from runner.trial.job import TrialJob, first_line
from runner.trial.resources import Node, TrialResources, this_machine

RAYLET = "raylet"  # Ray's process that starts all others of a machine, and ends them with itself


class Backend(Protocol):
    """What execute needs of the place where trials run."""

    def begin(self) -> None:
        """Begins to start what will be needed, and returns at once."""

    def nodes(self) -> Sequence[Node]:
        """The machines that there are."""

    def cut(self, source: Source, data: Data, folder: Storage) -> Iterator[ShardReport]:
        """Writes the source's pictures into a folder, cut, shard after shard; reports in order."""

    def train(self, jobs: Sequence[TrialJob], trial_resources: TrialResources, ray_folder: str) -> None:
        """Runs the jobs until all have ended."""

    def request_stop(self, reason: str) -> None:
        """Asks all workers to save and stop."""

    def progress(self) -> Mapping[str, Progress]:
        """How far each trial is."""

    def publish(self, experiment: str, trials: Sequence[TrialView]) -> None:
        """Makes known how an experiment's trials stand to whoever watches the place from outside."""

    def stop_reason(self) -> str:
        """Why the workers are to stop, which one of them may have asked for; "" while they are not."""

    def is_lost(self) -> bool:
        """True where what trials run on has come to its end, and nobody here has ended it."""

    def close(self) -> None:
        """Ends what was started."""


class InProcess:
    """One trial after another in this process, without Ray: for a debugger, or a machine that has no Ray."""

    def __init__(self) -> None:
        self._coordinator = Coordinator()
        self.request_stop = self._coordinator.request_stop
        self.progress = self._coordinator.progress
        self.stop_reason = self._coordinator.stop_reason

    def begin(self) -> None:
        """There is nothing to start."""

    def nodes(self) -> Sequence[Node]:
        """This machine."""
        return [this_machine()]

    def cut(self, source: Source, data: Data, folder: Storage) -> Iterator[ShardReport]:
        """A thread a core."""
        return cut_in_this_process(source, data, folder)

    def train(self, jobs: Sequence[TrialJob], trial_resources: TrialResources, ray_folder: str) -> None:
        """Runs the jobs in turn. An error in one is raised at once, so that a debugger stops where it is."""
        import torch

        from gan.training.process_group import ProcessGroup
        from runner.trial.loop import Alone, train_trial

        device = torch.device("cuda", 0) if trial_resources.device == "cuda" else torch.device("cpu")
        for job in jobs:
            write_outcome(job.trial, "running")
            try:
                with Heartbeat(job.name, self._coordinator) as heartbeat:
                    train_trial(job, ProcessGroup(), device, heartbeat, Alone())
            except Exception as error:
                job.log_line(f"failed: {error}")
                write_outcome(job.trial, "failed", first_line(error))
                raise

    def publish(self, experiment: str, trials: Sequence[TrialView]) -> None:
        """Nobody watches."""

    def is_lost(self) -> bool:
        """It is this process."""
        return False

    def close(self) -> None:
        """Nothing was started."""


class OnRay:
    """Ray Data, Tune and Train, on a Ray of our own or on the cluster at `address`."""

    def __init__(
        self, address: str | None, token: str, console: Console, handle_signals: Callable[[], None], *, dashboard: bool
    ) -> None:
        self._address, self._token, self._console, self._dashboard = address, token, console, dashboard
        self._handle_signals = handle_signals
        self._starter = ThreadPoolExecutor(1, "start-ray")
        self._starting: Future[str] | None = None
        self._started = False
        self._coordinator: Any = None
        self._metrics: Any = None
        self._stop_reason = ""

    def begin(self) -> None:
        """Ray starts in a thread: its processes take seconds, in which the storage can be looked at."""
        if self._starting is None:
            from runner.on_ray.cluster import set_up_ray, start_ray

            set_up_ray(self._address, dashboard=self._dashboard)
            self._starting = self._starter.submit(start_ray, self._address, self._token, dashboard=self._dashboard)

    def _start(self) -> None:
        if self._started:
            return
        self.begin()
        assert self._starting is not None
        import runner.on_ray.tune  # noqa: F401 - while Ray's processes start: what trials need of it is loaded for a second

        url = self._starting.result()
        self._started = True
        self._handle_signals()  # Ray has put its own handlers in place
        if url:
            self._console.print(f"Ray dashboard: {url} (it asks for the token that is in ~/.ray/auth_token)")

    def nodes(self) -> Sequence[Node]:
        """The cluster's machines."""
        self._start()
        from runner.on_ray.cluster import cluster_nodes

        return cluster_nodes()

    def cut(self, source: Source, data: Data, folder: Storage) -> Iterator[ShardReport]:
        """Through Ray Data, on all cores."""
        self._start()
        from runner.on_ray.prepare import cut_with_ray

        return cut_with_ray(source, data, folder)

    def train(self, jobs: Sequence[TrialJob], trial_resources: TrialResources, ray_folder: str) -> None:
        """Through Ray Tune, as many at once as fit."""
        self._start()
        from runner.on_ray.tune import run_sweep, start_coordinator

        self._coordinator = start_coordinator()
        if self._stop_reason:  # asked before there was anybody to tell
            self._coordinator.request_stop.remote(self._stop_reason)
        run_sweep(jobs, trial_resources, ray_folder, self._coordinator, lambda: bool(self._stop_reason))

    def request_stop(self, reason: str) -> None:
        """Through the Coordinator actor."""
        self._stop_reason = reason
        if self._coordinator is not None:
            self._coordinator.request_stop.remote(reason)

    def progress(self) -> Mapping[str, Progress]:
        """From the Coordinator actor."""
        if self._coordinator is None:
            return {}
        import ray

        return dict(ray.get(self._coordinator.progress.remote(), timeout=10))

    def publish(self, experiment: str, trials: Sequence[TrialView]) -> None:
        """As Ray's metrics, where there is a dashboard, once trials run."""
        if not self._dashboard or self._coordinator is None or not self._started:
            return
        if self._metrics is None:
            from runner.on_ray.metrics import TrialMetrics

            self._metrics = TrialMetrics(experiment)
        self._metrics.update(trials)

    def stop_reason(self) -> str:
        """From the Coordinator actor."""
        if self._coordinator is None:
            return self._stop_reason
        import ray

        return str(ray.get(self._coordinator.stop_reason.remote(), timeout=10))

    def is_lost(self) -> bool:
        """True where Ray's process of this machine is gone; a cluster that was joined is not ours to look after."""
        return self._started and self._address is None and not is_running(RAYLET, self._token)

    def close(self) -> None:
        """Ends a Ray of our own, though it may still be starting; leaves a cluster that was joined."""
        self._started = False
        if self._starting is not None and self._starting.exception() is None:
            from runner.on_ray.cluster import stop_ray

            stop_ray()
        self._starter.shutdown()  # last: Ray's end takes 15 s where the thread that began it is gone
