"""What a run on a cluster waits for, by machines of the test's and without Ray."""

import io
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import rich.console

from runner.config.schema import Resources
from runner.console import Console
from runner.process.stop_request import Stopped, StopRequest
from runner.sweep import waiting
from runner.sweep.waiting import ResourceWatch, await_resources, stoppable
from runner.trial.resources import Node, NoRoom, TrialResources

NOTHING, ONE_CORE, GPU = Node(0, 0, "head"), Node(1, 0, "a"), Node(4, 1, "b")


class Machines:
    """A cluster's machines, which the test sets.

    Attributes:
        looks: what `nodes` finds, look after look; the last one stays.
    """

    def __init__(self, *looks: Sequence[Node], grows: bool = False, possible: Sequence[Node] | None = None) -> None:
        self.looks, self.grows, self.possible = list(looks), grows, possible
        self.demanded: list[TrialResources] = []

    def nodes(self) -> Sequence[Node]:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def possible_nodes(self) -> Sequence[Node] | None:
        return self.possible

    def may_grow(self, resource: str = "CPU") -> bool:
        return self.grows

    def demand(self, trial: TrialResources) -> AbstractContextManager[None]:
        self.demanded.append(trial)
        return nullcontext()

    def usage(self) -> str:
        return "all is in use"


class Clock:
    """Time that passes only where somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(waiting, "time", clock)
    return clock


class Run:
    """A run of two trials on these machines; `screen` has what it prints."""

    def __init__(self, machines: Machines, *, wait_s: float | None = None, **resources: Any) -> None:
        self.screen = io.StringIO()
        self.started: list[int] = []
        self.waiting_s: dict[str, float] = {}
        backend = SimpleNamespace(
            machines=machines, set_max_concurrent=self.started.append, waiting_s=lambda: self.waiting_s
        )
        self.session: Any = SimpleNamespace(
            backend=backend, stop=StopRequest(), console=Console(rich.console.Console(file=self.screen, width=300))
        )
        self.plan: Any = SimpleNamespace(
            experiment=SimpleNamespace(resources=Resources(**resources)),
            options=SimpleNamespace(address="head:6379", wait_s=wait_s),
            trials=[None, None],
            shapes=(),
        )

    def lines(self) -> list[str]:
        return self.screen.getvalue().splitlines()


def test_what_is_waited_for_is_said_every_half_minute_until_it_comes() -> None:
    machines = Machines(*[[NOTHING]] * 125, [NOTHING, ONE_CORE])
    run = Run(machines)
    assert await_resources(run.plan, run.session).max_concurrent == 1
    assert [line.split(":")[0] for line in run.lines()] == [
        "waiting for machines, 0.0 s of 15 min 00 s",
        "waiting for machines, 30.0 s of 15 min 00 s",
        "waiting for machines, 1 min 00 s of 15 min 00 s",
    ]
    assert [trial.cpus_per_worker for trial in machines.demanded] == [1], "the autoscaler is asked once"


def test_a_wait_in_vain_ends_as_a_stop() -> None:
    run = Run(Machines([ONE_CORE]), wait_s=5.0, cpus_per_worker=2)
    with pytest.raises(Stopped):
        await_resources(run.plan, run.session)
    assert run.session.stop.reason == "in 5.0 s the cluster had no room for a trial"


def test_machines_that_are_too_small_are_refused_unless_others_may_come() -> None:
    too_small = Run(Machines([ONE_CORE]), cpus_per_worker=2)
    with pytest.raises(NoRoom, match="1 worker with 2 cores"):
        await_resources(too_small.plan, too_small.session)
    never = Run(Machines([NOTHING], grows=True, possible=[ONE_CORE] * 9), cpus_per_worker=2)
    with pytest.raises(NoRoom, match="1 worker with 2 cores"):
        await_resources(never.plan, never.session)
    assert never.lines() == []


def test_where_gpus_may_come_auto_waits_for_one_and_elsewhere_takes_processors() -> None:
    grows = Run(Machines([ONE_CORE], [ONE_CORE], [ONE_CORE, GPU], grows=True))
    assert await_resources(grows.plan, grows.session).device == "cuda"
    assert grows.lines()[0].endswith("(to train on processor cores instead: --set resources.gpus_per_worker=0)")
    for run in (Run(Machines([ONE_CORE])), Run(Machines([ONE_CORE], grows=True), gpus_per_worker=0)):
        assert await_resources(run.plan, run.session).device == "cpu"


def test_while_trials_run_new_machines_are_used_and_a_lack_of_them_ends_the_run(clock: Clock) -> None:
    machines = Machines([ONE_CORE])
    run = Run(machines, wait_s=40.0, cpus_per_worker=1)
    watch = ResourceWatch(run.plan, run.session, TrialResources(1, 1, 0.0, 1))
    watch.look()
    assert (run.started, run.lines()) == ([], [])

    machines.looks = [[ONE_CORE, ONE_CORE]]
    watch.look()
    assert run.started == [2]
    assert run.lines() == ["the cluster has changed: 2 trials at a time"]

    machines.looks = [[NOTHING]]
    for _ in range(3):
        watch.look()
        clock.sleep(30)
    assert [line.split(":")[0] for line in run.lines()[1:]] == [
        "waiting for machines, 0.0 s of 40.0 s",
        "waiting for machines, 30.0 s of 40.0 s",
        "waiting for machines, 1 min 00 s of 40.0 s",
    ]
    assert run.session.stop.reason == "for 1 min 00 s the cluster had no room for a trial"


def test_where_an_autoscaler_is_trials_always_wait_for_it_to_see_and_others_are_said() -> None:
    run = Run(Machines([ONE_CORE], grows=True), cpus_per_worker=1)
    watch = ResourceWatch(run.plan, run.session, TrialResources(1, 1, 0.0, 1))
    run.waiting_s = {"a": 31.0}
    watch.look()
    assert (run.started, run.lines()) == ([2], [])
    run.waiting_s = {"a": 31.0, "b": 30.0}
    watch.look()
    assert run.lines() == ["2 trials waiting for room: all is in use"]


def test_cutting_hears_a_stop_between_pictures_and_while_one_takes_long() -> None:
    run = Run(Machines([ONE_CORE]))

    def cut() -> Iterator[int]:
        yield 1
        run.session.stop.set("SIGTERM")
        yield 2

    reports = stoppable(cut(), run.session)
    assert next(reports) == 1
    with pytest.raises(Stopped):
        next(reports)

    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    run.session.stop.reason = ""
    with pytest.raises(ValueError, match="broken"):
        list(stoppable(broken(), run.session))
    assert list(stoppable(iter([1, 2]), run.session)) == [1, 2]
