"""A trial whose workers never start ends with an error; nobody waits for ever."""

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rich.console

from runner.console import Console
from runner.on_ray import hang_watchdog
from runner.process.lease import Lease
from runner.process.stop_request import StopRequest
from runner.records.trial_file import read_outcome, write_outcome
from runner.storage.storage import Storage
from runner.sweep import monitor
from runner.sweep.backends import InProcess
from runner.sweep.monitor import Monitor, MonitoredTrial
from runner.sweep.session import Session
from runner.tracking.tracker import Tracker
from runner.trial.heartbeat import Coordinator, Progress
from runner.trial.job import TrialJob
from tests.support.actors import Handle
from tests.support.trial_jobs import job_of


class Clock:
    """A clock that a test sets, and an event of which each wait takes what it says."""

    def __init__(self, num_waits: int) -> None:
        self.now, self.waits = 0.0, num_waits

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        self.waits -= 1
        return self.waits < 0


class Waiting:
    """In place of a Placement."""

    def __init__(self, *, is_waiting: bool = False) -> None:
        self.is_waiting, self.is_given_up = is_waiting, False

    def give_up(self) -> None:
        self.is_given_up = True


@pytest.fixture
def lease(tmp_path: Path) -> Iterator[Lease]:
    lease = Lease.acquire(Storage.open(tmp_path))
    yield lease
    lease.release()


@pytest.fixture
def job(tmp_path: Path, lease: Lease) -> TrialJob:
    job = job_of(Storage.open(tmp_path), lease)
    write_outcome(job.trial, "running")
    return job


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch, job: TrialJob) -> Callable[[Coordinator, Clock, Waiting], None]:
    """Runs the watch of a trial by a clock of the test's."""
    monkeypatch.setattr(hang_watchdog.ray, "get", lambda value: value)

    def run(coordinator: Coordinator, clock: Clock, placement: Waiting) -> None:
        monkeypatch.setattr(hang_watchdog.time, "monotonic", clock.monotonic)
        over: threading.Event = clock  # type: ignore[assignment]
        hang_watchdog._watch(job, Handle(coordinator), placement, over)  # type: ignore[arg-type]

    return run


def test_a_trial_without_a_worker_is_given_up_after_a_quarter_of_an_hour(
    job: TrialJob, watch: Callable[[Coordinator, Clock, Waiting], None]
) -> None:
    clock, placement = Clock(1000), Waiting()
    watch(Coordinator(), clock, placement)
    assert 900 < clock.now < 910
    assert placement.is_given_up
    outcome = read_outcome(job.trial)
    assert outcome["status"] == "failed"
    assert "no worker has started within 900 s" in outcome["reason"]


def test_what_has_ended_already_keeps_its_outcome(
    job: TrialJob, watch: Callable[[Coordinator, Clock, Waiting], None]
) -> None:
    write_outcome(job.trial, "finished")
    watch(Coordinator(), Clock(1000), Waiting())
    assert read_outcome(job.trial)["status"] == "finished"


def test_nobody_is_given_up_on_a_cluster_that_is_full(
    job: TrialJob, watch: Callable[[Coordinator, Clock, Waiting], None]
) -> None:
    placement = Waiting(is_waiting=True)
    watch(Coordinator(), Clock(1000), placement)
    assert not placement.is_given_up
    assert read_outcome(job.trial)["status"] == "running"


def test_a_trial_whose_workers_do_not_start_hears_a_stop_all_the_same(
    job: TrialJob, watch: Callable[[Coordinator, Clock, Waiting], None]
) -> None:
    coordinator, clock, placement = Coordinator(), Clock(1000), Waiting()
    coordinator.request_stop("SIGTERM")
    watch(coordinator, clock, placement)
    assert 20 < clock.now < 30
    assert placement.is_given_up
    assert read_outcome(job.trial)["status"] == "running", "whoever waits for the workers records it"


def test_a_person_is_told_once_that_a_trial_still_waits_for_its_first_worker(
    monkeypatch: pytest.MonkeyPatch, job: TrialJob, lease: Lease
) -> None:
    clock, screen = Clock(0), io.StringIO()
    monkeypatch.setattr(monitor.time, "monotonic", clock.monotonic)
    console = Console(rich.console.Console(file=screen))
    tracker = Tracker({}, None, lambda: None, pytest.fail)
    watching = MonitoredTrial(job, 10, False)
    following = Monitor(job.experiment, Session(lease, InProcess(), StopRequest(), console), [watching], tracker, 1)

    shown = [watching.progress("running")]
    for now in (0.0, 59.0, 61.0, 200.0):
        clock.now = now
        following._say_who_waits(shown, {})
        assert screen.getvalue().count("trial: still waiting for its first worker, after 60 s") == (now > 60)

    # One that has reported and starts again, as after a fault, is not its first worker.
    following._say_who_waits(shown, {"trial": Progress(1, 0.1, 1)})
    clock.now = 500.0
    following._say_who_waits(shown, {"trial": Progress(1, 0.1, 1)})
    assert screen.getvalue().count("still waiting") == 1
