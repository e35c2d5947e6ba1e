"""What a run waits for: machines that may come, and room on those that are there. It says so, and hears a stop."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

from runner.config.schema import Resources
from runner.console import Console
from runner.number_format import counted, duration
from runner.process.stop_request import Stopped, StopRequest
from runner.sweep.backends import CUT_THREAD, Backend
from runner.sweep.check import SweepPlan
from runner.sweep.session import Session
from runner.trial.resources import Node, NoRoom, TrialResources, resolve_resources

# For machines that an autoscaler starts, or a person.
DEFAULT_WAIT_S = 900.0
SAY_S = 30.0
_NO_GPU = "to train on processor cores instead: --set resources.gpus_per_worker=0"
_LOOK_S = 0.5
_NODES_LOOK_S = 3.0

T = TypeVar("T")


def resources_now(plan: SweepPlan, backend: Backend) -> TrialResources | NoRoom:
    """What each worker would get at this moment, or why a run would wait for machines.

    Raises:
        NoRoom: a run would be refused.
    """
    nodes = backend.machines.nodes()
    wanted, num_trials = _wanted(plan, backend, nodes), len(plan.trials)
    try:
        return resolve_resources(wanted, nodes, num_trials, plan.shapes)
    except NoRoom as lacking:
        if not _limit_s(plan, backend, nodes) or not _may_come(backend, wanted, num_trials):
            raise
        return lacking


def await_resources(plan: SweepPlan, session: Session) -> TrialResources:
    """What each worker gets, once the cluster has what one trial needs; at once on a machine alone.

    While it waits, the cluster's autoscaler is asked for it.

    Raises:
        NoRoom: the cluster can never give it, by what it says of itself; or it has not, and nothing says that it will:
            no autoscaler, no --wait.
        Stopped: the run was asked to stop, or the wait was in vain.
    """
    backend, machines = session.backend, session.backend.machines
    reminder = _Reminder(session.console)
    began, limit_s = time.monotonic(), 0.0
    with contextlib.ExitStack() as demand:
        while isinstance(found := resources_now(plan, backend), NoRoom):
            if reminder.is_new:
                demand.enter_context(machines.demand(found.trial))
                limit_s = _limit_s(plan, backend, machines.nodes())

            waited_s = time.monotonic() - began
            is_by_auto = found.trial.gpus_per_worker != 0 and plan.experiment.resources.gpus_per_worker == "auto"
            hint = f" ({_NO_GPU})" if is_by_auto else ""
            reminder.say(f"waiting for machines, {duration(waited_s)} of {duration(limit_s)}: {found.problem}{hint}")
            if waited_s > limit_s:
                session.stop.set(f"in {duration(limit_s)} the cluster had no room for a trial")
            _pause(session.stop)
    return found


def _wanted(plan: SweepPlan, backend: Backend, nodes: Sequence[Node]) -> Resources:
    """The resources that the experiment asks for; on a cluster to which GPUs may come, `auto` is a GPU."""
    wanted = plan.experiment.resources
    may_come = backend.machines.may_grow("GPU")
    if wanted.gpus_per_worker != "auto" or not may_come:
        return wanted
    if any(node.gpus >= 1 for node in nodes):
        return wanted
    return wanted.model_copy(update={"gpus_per_worker": 1.0})


def _limit_s(plan: SweepPlan, backend: Backend, nodes: Sequence[Node]) -> float:
    """For how long to wait for machines; 0 for not at all."""
    if plan.options.address is None:
        return 0.0
    if plan.options.wait_s is not None:
        return plan.options.wait_s
    has_machines = any(node.cpus or node.gpus for node in nodes)
    return DEFAULT_WAIT_S if backend.machines.may_grow() or not has_machines else 0.0


def _may_come(backend: Backend, wanted: Resources, num_trials: int) -> bool:
    """False where the cluster tells which machines it can have, and no number of them is enough."""
    possible = backend.machines.possible_nodes()
    if possible is None or wanted.label_selector or wanted.accelerator_type:
        return True  # nobody knows, or not so much
    try:
        resolve_resources(wanted, possible, num_trials)
    except NoRoom:
        return False
    return True


def _pause(stop: StopRequest) -> None:
    """Waits for a moment; raises Stopped where the run was asked to stop."""
    if stop.is_due():
        raise Stopped
    time.sleep(_LOOK_S)


class ResourceWatch:
    """While trials run: uses machines that join, says what trials wait for, and ends a wait in vain.

    Args:
        resources: what each worker gets, which stays as it was when the run began.
    """

    def __init__(self, plan: SweepPlan, session: Session, resources: TrialResources) -> None:
        given = {"cpus_per_worker": resources.cpus_per_worker, "gpus_per_worker": resources.gpus_per_worker}
        self._wanted = plan.experiment.resources.model_copy(update=given)
        self._num_trials, self._shapes = len(plan.trials), plan.shapes
        self._limit_s = DEFAULT_WAIT_S if plan.options.wait_s is None else plan.options.wait_s
        self._session = session
        self._max_concurrent = self._room = resources.max_concurrent
        self._lacking_since: float | None = None
        self._reminder = _Reminder(session.console)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resource_watch", daemon=True)

    def __enter__(self) -> "ResourceWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(_NODES_LOOK_S):
            with contextlib.suppress(Exception):  # a head that does not answer is looked after elsewhere
                self.look()

    def look(self) -> None:
        """Looks at the machines and at the trials once."""
        machines = self._session.backend.machines
        try:
            room = resolve_resources(self._wanted, machines.nodes(), self._num_trials, self._shapes).max_concurrent
        except NoRoom as lacking:
            self._wait_for_machines(lacking)
            return
        self._lacking_since = None

        # An autoscaler sees only the need of trials that wait for room: there are always some.
        more = max(room, 1) if machines.may_grow() else 0
        most = self._num_trials if self._wanted.max_concurrent == "auto" else self._wanted.max_concurrent
        self._set_max_concurrent(room, min(room + more, most))
        self._say_who_waits(self._max_concurrent - room)

    def _wait_for_machines(self, lacking: NoRoom) -> None:
        """Says what is missing; ends the run where it has been for too long."""
        now = time.monotonic()
        self._lacking_since = now if self._lacking_since is None else self._lacking_since
        waited_s = now - self._lacking_since
        self._reminder.say(
            f"waiting for machines, {duration(waited_s)} of {duration(self._limit_s)}: {lacking.problem}"
        )
        if waited_s > self._limit_s:
            self._session.stop.set(f"for {duration(waited_s)} the cluster had no room for a trial")

    def _set_max_concurrent(self, room: int, max_concurrent: int) -> None:
        if max_concurrent != self._max_concurrent:
            self._session.backend.set_max_concurrent(max_concurrent)
            self._max_concurrent = max_concurrent
        if room != self._room:
            self._room = room
            self._session.console.print(f"the cluster has changed: {counted(room, 'trial')} at a time")

    def _say_who_waits(self, num_expected: int) -> None:
        """What trials wait for, where others use the machines.

        Args:
            num_expected: how many wait in any case.
        """
        waiting = [name for name, seconds in self._session.backend.waiting_s().items() if seconds >= SAY_S]
        if len(waiting) > num_expected:
            self._reminder.say(
                f"{counted(len(waiting), 'trial')} waiting for room: {self._session.backend.machines.usage()}"
            )


class _Reminder:
    """A line every half minute on what is waited for.

    Attributes:
        is_new: before the first line.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said_at = 0.0
        self.is_new = True

    def say(self, text: str) -> None:
        """Prints the line, where it is time to."""
        if self.is_new or time.monotonic() - self._said_at >= SAY_S:
            self._console.print(text)
            self.is_new, self._said_at = False, time.monotonic()


def stoppable(cut: Iterator[T], session: Session) -> Iterator[T]:
    """What the cutting of pictures reports, for which this thread does not wait so long that it hears no stop.

    Raises:
        Stopped: the run was asked to stop.
    """
    while True:
        item, since = _in_thread(lambda: next(cut, None)), time.monotonic()
        while not wait([item], timeout=_LOOK_S).done:
            if session.stop.is_due():
                raise Stopped  # the backend's end ends the other thread
            if time.monotonic() - since >= SAY_S:
                since = time.monotonic()
                session.console.print(f"waiting for pictures to be cut: {session.backend.machines.usage()}")

        if (report := item.result()) is None:
            return
        if session.stop.is_due():
            raise Stopped
        yield report


def _in_thread(call: Callable[[], T]) -> "Future[T]":
    """The future result of a call, for which the process's end does not wait."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=CUT_THREAD, daemon=True).start()
    return future
