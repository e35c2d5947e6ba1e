"""What all stages of a run share: the right to run, the place where trials run, and the request to stop."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from runner.console import Console
from runner.errors import StorageError
from runner.process.lease import Lease
from runner.process.processes import end_marked
from runner.process.stop_request import StopRequest, stop_signals
from runner.storage.storage import takes_nothing
from runner.sweep.backends import Backend, InProcess, OnRay
from runner.sweep.check import SweepPlan
from runner.sweep.ray_watchdog import ray_watchdog


class Session(NamedTuple):
    """A run in progress."""

    lease: Lease
    backend: Backend
    stop: StopRequest
    console: Console


@contextlib.contextmanager
def open_session(plan: SweepPlan, stop: StopRequest, console: Console) -> Iterator[Session]:
    """Takes the experiment's lease and handles signals; ends all that was started, and gives the lease back.

    Raises:
        StorageError: another command holds the lease, or the storage can't be written.
    """
    options = plan.options
    with contextlib.ExitStack() as stack:
        # What is entered last ends first: the watchdog, then Ray, then the lease, then our signal handlers.
        handle_signals = stack.enter_context(stop_signals(stop))
        lease = _acquire_lease(plan, stop, console)
        stack.callback(lease.release)
        # A process that ends at once does not get to the end of this stack, so it must end Ray's processes here.
        stop.before_exit = lambda: _end_at_once(lease, stop)

        backend: Backend = InProcess()
        if not options.in_process:
            backend = OnRay(options.address, lease.token, console, handle_signals, dashboard=options.dashboard)
        stack.callback(backend.close)
        stack.enter_context(ray_watchdog(backend, stop, console))
        yield Session(lease, backend, stop, console)


def _end_at_once(lease: Lease, stop: StopRequest) -> None:
    """Ends the processes of this start; leaves a note that they were asked to stop, for those that could not save."""
    with contextlib.suppress(Exception):
        lease.announce_stop(stop.reason)
    end_marked(lease.token)


def _acquire_lease(plan: SweepPlan, stop: StopRequest, console: Console) -> Lease:
    """The experiment's lease; it sets the stop request when another start of the command takes over."""
    try:
        plan.folder.make_folder()
        return Lease.acquire(
            plan.folder,
            on_loss=lambda: stop.set("another start of the command has taken over"),
            take_over=plan.options.take_over,
            notify=console.print,
            is_stopped=stop.is_due,
        )

    except OSError as error:
        if takes_nothing(error):
            raise
        raise StorageError(
            f"--storage: {plan.folder.root} can't be written ({error.strerror or error}); give a folder that can."
        ) from error
